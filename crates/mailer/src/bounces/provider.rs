//! Which provider a webhook comes from: its fields say so.

use serde_json::Value;

use super::report::{ParsedBounces, invalid_report};
use super::{mailgun, postmark, sendgrid, ses};
use crate::codes;
use afterload_core::error::{Error, Result};

/// Reads the JSON of a webhook of Amazon SES (plain or through SNS), Postmark, SendGrid or Mailgun.
///
/// # Errors
/// `bounce_invalid` for a body that is no JSON or lacks what its provider always sends, `bounce_unknown` for anything else.
pub fn parse_provider_report(body: &[u8]) -> Result<ParsedBounces> {
    let mut parsed = ParsedBounces::default();
    if ses::is_topic_validation(body) {
        parsed.ignored += 1;
        return Ok(parsed);
    }
    let value: Value = serde_json::from_slice(body).map_err(invalid_report)?;
    match value {
        Value::Array(events) if !events.is_empty() => {
            events.iter().try_for_each(|event| read_event(event, &mut parsed))?;
        }
        event => read_event(&event, &mut parsed)?,
    }
    Ok(parsed)
}

fn read_event(event: &Value, parsed: &mut ParsedBounces) -> Result<()> {
    let has = |name: &str| event.get(name).is_some();
    if has("event-data") {
        mailgun::read_event(event, parsed)
    } else if has("RecordType") {
        postmark::read_event(event, parsed)
    } else if has("notificationType") || has("eventType") {
        ses::read_event(event, parsed)
    } else if has("Type") && has("TopicArn") {
        ses::read_sns_message(event, parsed)
    } else if has("event") && has("email") {
        sendgrid::read_event(event, parsed)
    } else {
        Err(Error::new(codes::BOUNCE_UNKNOWN, "the report is of no known provider"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bounces::{BounceKind, SnsConfirmation};

    fn parsed(body: &str) -> ParsedBounces {
        parse_provider_report(body.as_bytes()).unwrap()
    }

    fn seen(body: &str) -> (Vec<(String, BounceKind)>, u64) {
        let parsed = parsed(body);
        (parsed.reports.into_iter().map(|report| (report.address, report.kind)).collect(), parsed.ignored)
    }

    fn wrapped(message: &str) -> String {
        serde_json::json!({ "Type": "Notification", "TopicArn": "arn:aws:sns:a:1:mail", "Message": message })
            .to_string()
    }

    #[test]
    fn amazon_ses_is_read_plain_and_through_sns() {
        let bounce = include_str!("fixtures/ses-bounce.json");
        for body in [bounce.to_owned(), wrapped(bounce), format!("[{bounce}]")] {
            assert_eq!(seen(&body), (vec![("jane@example.com".into(), BounceKind::Permanent)], 0));
        }
        assert_eq!(parsed(bounce).reports[0].detail, "smtp; 550 5.1.1 <jane@example.com>... User");
        let complaint = wrapped(include_str!("fixtures/ses-complaint.json"));
        assert_eq!(seen(&complaint), (vec![("richard@example.com".into(), BounceKind::Complaint)], 0));
        let transient = bounce.replace("Permanent", "Transient").replace("notificationType", "eventType");
        assert_eq!(seen(&transient).0[0].1, BounceKind::Transient);
        assert_eq!(seen(&bounce.replace("\"5.1.1\"", "\"5.2.2\"")).0[0].1, BounceKind::Transient, "a full mailbox");
        for other in [r#"{"notificationType":"Delivery"}"#, r#"{"notificationType":"AmazonSnsSubscriptionSucceeded"}"#]
        {
            assert_eq!(seen(&wrapped(other)), (vec![], 1));
        }
        let validated = "Successfully validated SNS topic for Amazon SES event publishing.";
        assert_eq!((seen(&wrapped(validated)), seen(validated)), ((vec![], 1), (vec![], 1)));
        let confirmation = include_str!("fixtures/sns-confirmation.json");
        let topic = "arn:aws:sns:us-west-2:123456789012:MyTopic".to_owned();
        let SnsConfirmation { topic: found, url } = parsed(confirmation).confirmation.unwrap();
        assert!(found == topic && url.starts_with("https://sns.us-west-2.amazonaws.com/?Action=Confirm"), "{url}");
    }

    #[test]
    fn postmark_is_read() {
        let bounce = include_str!("fixtures/postmark-bounce.json");
        assert_eq!(seen(bounce), (vec![("john@example.com".into(), BounceKind::Permanent)], 0));
        assert_eq!(seen(&bounce.replace("HardBounce", "SoftBounce")).0[0].1, BounceKind::Transient);
        assert_eq!(seen(&bounce.replace("HardBounce", "AutoResponder")), (vec![], 1));
        let complaint = include_str!("fixtures/postmark-complaint.json");
        assert_eq!(seen(complaint), (vec![("john@example.com".into(), BounceKind::Complaint)], 0));
        assert_eq!(seen(r#"{"RecordType":"Delivery","Recipient":"john@example.com"}"#), (vec![], 1));
    }

    #[test]
    fn sendgrid_is_read() {
        let events = include_str!("fixtures/sendgrid.json");
        let expected = [
            ("deferred@example.com", BounceKind::Transient),
            ("gone@example.com", BounceKind::Permanent),
            ("blocked@example.com", BounceKind::Transient),
            ("dropped@example.com", BounceKind::Permanent),
            ("spam@example.com", BounceKind::Complaint),
        ];
        let expected = expected.map(|(address, kind)| (address.to_owned(), kind)).to_vec();
        assert_eq!(seen(events), (expected, 4));
        let full = r#"[{"event":"bounce","type":"bounce","email":"full@example.com","status":"5.2.2"}]"#;
        assert_eq!(seen(full).0[0].1, BounceKind::Transient);
    }

    #[test]
    fn mailgun_is_read() {
        let failed = include_str!("fixtures/mailgun-failed.json");
        assert_eq!(seen(failed), (vec![("alice@example.com".into(), BounceKind::Permanent)], 0));
        assert_eq!(seen(&failed.replace("\"permanent\"", "\"temporary\"")).0[0].1, BounceKind::Transient);
        assert_eq!(seen(&failed.replace("suppress-bounce", "old")).0[0].1, BounceKind::Transient);
        let full = failed.replace("suppress-bounce", "bounce").replace("605", "552, \"enhanced-code\": \"5.2.2\"");
        assert_eq!(seen(&full).0[0].1, BounceKind::Transient);
        assert_eq!(seen(&failed.replace("suppress-bounce", "suppress-unsubscribe")), (vec![], 1));
        let complained = include_str!("fixtures/mailgun-complained.json");
        let both = format!("[{failed}, {complained}]");
        assert_eq!(seen(&both).0[1], ("alice@example.com".into(), BounceKind::Complaint));
        assert_eq!(seen(&failed.replace("\"failed\"", "\"opened\"")), (vec![], 1));
    }

    #[test]
    fn other_bodies_are_refused() {
        let code = |body: &str| parse_provider_report(body.as_bytes()).expect_err(body).code();
        for body in ["", "{", "x", "\u{0}", "[1", r#"{"notificationType":"Bounce"}"#, r#"{"RecordType":"Bounce"}"#] {
            assert_eq!(code(body), codes::BOUNCE_INVALID, "{body}");
        }
        for body in [r#"{"event-data":5}"#, r#"[{"event":"bounce","email":5}]"#, &wrapped("no JSON"), &wrapped("{}")] {
            assert!([codes::BOUNCE_INVALID, codes::BOUNCE_UNKNOWN].contains(&code(body)), "{body}");
        }
        for body in ["{}", "[]", "null", "5", "\"x\"", "[[]]", "[{}]", r#"{"Records":[]}"#] {
            assert_eq!(code(body), codes::BOUNCE_UNKNOWN, "{body}");
        }
        // serde_json limits how deep JSON nests.
        assert_eq!(code(&"[".repeat(100_000)), codes::BOUNCE_INVALID);
        // An address that is none hides no other event.
        let events = r#"[{"event":"bounce","email":"nobody"},{"event":"bounce","email":"a@example.com"}]"#;
        assert_eq!(seen(events), (vec![("a@example.com".into(), BounceKind::Permanent)], 1));
    }
}
