//! SendGrid: the event webhook, a list of events.

use serde_json::Value;

use super::report::{BounceKind, ParsedBounces, required_text, text_at};
use afterload_core::error::Result;

pub(super) fn read_event(event: &Value, parsed: &mut ParsedBounces) -> Result<()> {
    let [address, name] = [required_text(event, "/email")?, required_text(event, "/event")?];
    let [kind, status, reason] =
        ["/type", "/status", "/reason"].map(|pointer| text_at(event, pointer).unwrap_or_default());
    let kind = match (name, kind) {
        // The server of the recipient refused the mail, for what is in it or where it comes from.
        ("bounce", "blocked") => BounceKind::Transient,
        ("bounce", _) if status.starts_with('4') => BounceKind::Transient,
        ("bounce", _) => BounceKind::from_permanent(status),
        ("deferred", _) => BounceKind::Transient,
        ("spamreport", _) => BounceKind::Complaint,
        // SendGrid itself no longer sends to the address.
        ("dropped", _) if ["Bounced Address", "Invalid"].contains(&reason) => BounceKind::Permanent,
        ("dropped", _) if reason == "Spam Reporting Address" => BounceKind::Complaint,
        _ => {
            parsed.ignored += 1;
            return Ok(());
        }
    };
    parsed.add_report(address, kind, if reason.is_empty() { status } else { reason });
    Ok(())
}
