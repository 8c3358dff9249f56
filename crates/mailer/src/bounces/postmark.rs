//! Postmark: the webhooks for bounces and spam complaints.

use serde_json::Value;

use super::report::{BounceKind, ParsedBounces, required_text, text_at};
use afterload_core::error::Result;

pub(super) fn read_event(event: &Value, parsed: &mut ParsedBounces) -> Result<()> {
    let kind = match required_text(event, "/RecordType")? {
        "Bounce" => match required_text(event, "/Type")? {
            "HardBounce" | "BadEmailAddress" => BounceKind::Permanent,
            "SpamComplaint" => BounceKind::Complaint,
            "Transient" | "SoftBounce" | "DnsError" | "Blocked" | "SpamNotification" | "DMARCPolicy" => {
                BounceKind::Transient
            }
            _ => {
                parsed.ignored += 1;
                return Ok(());
            }
        },
        "SpamComplaint" => BounceKind::Complaint,
        _ => {
            parsed.ignored += 1;
            return Ok(());
        }
    };
    let detail = text_at(event, "/Details").filter(|text| !text.is_empty()).or_else(|| text_at(event, "/Description"));
    parsed.add_report(required_text(event, "/Email")?, kind, detail.unwrap_or_default());
    Ok(())
}
