//! Amazon SES: notifications and published events, plain or in messages of SNS.

use serde_json::Value;

use super::report::{BounceKind, ParsedBounces, SnsConfirmation, invalid_report, required_text, text_at};
use crate::codes;
use afterload_core::error::{Error, Result};

/// How the text begins that Amazon SES sends when it begins to publish to a topic. It is no JSON.
const TOPIC_VALIDATED: &str = "Successfully validated SNS topic for Amazon SES";

/// True for the text that Amazon SES sends through SNS when it begins to publish. It reports nothing.
pub fn is_topic_validation(body: &[u8]) -> bool {
    body.trim_ascii_start().starts_with(TOPIC_VALIDATED.as_bytes())
}

/// Reads a message of SNS. Who sent it is known by the key or the token of the webhook.
pub(super) fn read_sns_message(message: &Value, parsed: &mut ParsedBounces) -> Result<()> {
    match required_text(message, "/Type")? {
        "Notification" => {
            let content = required_text(message, "/Message")?;
            if is_topic_validation(content.as_bytes()) {
                parsed.ignored += 1;
                return Ok(());
            }
            let event: Value = serde_json::from_str(content).map_err(invalid_report)?;
            match event.get("notificationType").or(event.get("eventType")).is_some() {
                true => read_event(&event, parsed),
                false => Err(Error::new(codes::BOUNCE_UNKNOWN, "the message of SNS is no notification of Amazon SES")),
            }
        }
        "SubscriptionConfirmation" => {
            let [topic, url] = [required_text(message, "/TopicArn")?, required_text(message, "/SubscribeURL")?];
            parsed.confirmation = Some(SnsConfirmation { topic: topic.to_owned(), url: url.to_owned() });
            Ok(())
        }
        _ => {
            parsed.ignored += 1;
            Ok(())
        }
    }
}

pub(super) fn read_event(event: &Value, parsed: &mut ParsedBounces) -> Result<()> {
    let kind = text_at(event, "/notificationType").or_else(|| text_at(event, "/eventType"));
    match kind {
        Some("Bounce") => {
            let kind = match required_text(event, "/bounce/bounceType")? {
                "Permanent" => BounceKind::Permanent,
                _ => BounceKind::Transient,
            };
            read_recipients(event, "/bounce/bouncedRecipients", kind, parsed)
        }
        Some("Complaint") if text_at(event, "/complaint/complaintFeedbackType") != Some("not-spam") => {
            read_recipients(event, "/complaint/complainedRecipients", BounceKind::Complaint, parsed)
        }
        Some(_) => {
            parsed.ignored += 1;
            Ok(())
        }
        None => Err(invalid_report("its type is no text")),
    }
}

fn read_recipients(event: &Value, pointer: &str, kind: BounceKind, parsed: &mut ParsedBounces) -> Result<()> {
    let recipients = event.pointer(pointer).and_then(Value::as_array);
    for recipient in recipients.ok_or_else(|| invalid_report(format!("it has no list at `{pointer}`")))? {
        let status = text_at(recipient, "/status").unwrap_or_default();
        let kind = if kind == BounceKind::Permanent { BounceKind::from_permanent(status) } else { kind };
        let detail = text_at(recipient, "/diagnosticCode").unwrap_or(status);
        parsed.add_report(required_text(recipient, "/emailAddress")?, kind, detail);
    }
    Ok(())
}
