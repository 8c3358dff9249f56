//! Mailgun: webhooks with one event each, and lists of them.

use serde_json::Value;

use super::report::{BounceKind, ParsedBounces, required_text, text_at};
use afterload_core::error::Result;

pub(super) fn read_event(event: &Value, parsed: &mut ParsedBounces) -> Result<()> {
    let [reason, status] = ["/event-data/reason", "/event-data/delivery-status/enhanced-code"]
        .map(|pointer| text_at(event, pointer).unwrap_or_default());
    let kind = match (required_text(event, "/event-data/event")?, reason) {
        ("complained", _) | ("failed", "suppress-complaint") => BounceKind::Complaint,
        // `old`: Mailgun tried for hours and gave up.
        ("failed", "old") => BounceKind::Transient,
        ("failed", reason) if reason != "suppress-unsubscribe" => match required_text(event, "/event-data/severity")? {
            "permanent" => BounceKind::from_permanent(status),
            _ => BounceKind::Transient,
        },
        _ => {
            parsed.ignored += 1;
            return Ok(());
        }
    };
    let detail = ["/event-data/delivery-status/message", "/event-data/delivery-status/description"]
        .into_iter()
        .find_map(|pointer| text_at(event, pointer).filter(|text| !text.is_empty()));
    parsed.add_report(required_text(event, "/event-data/recipient")?, kind, detail.unwrap_or(reason));
    Ok(())
}
