//! What a report says, whoever sent it.

use serde_json::Value;

use crate::address::MailAddress;
use crate::codes;
use crate::to_single_line;
use afterload_core::error::{Error, Result};
use afterload_core::text::shorten_text;

/// How much is kept of what a mail server said.
const MAX_DETAIL_CHARS: usize = 500;

/// What happened to a mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BounceKind {
    /// The address takes no mail, now or later.
    Permanent,
    /// The mail was not delivered, for a reason that may end, or that lies in the mail.
    Transient,
    /// The recipient reported the mail as spam.
    Complaint,
}

impl BounceKind {
    /// The name, for metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Permanent => "permanent",
            Self::Transient => "transient",
            Self::Complaint => "complaint",
        }
    }

    /// The kind of a failure by its enhanced status code (RFC 3463), such as `5.1.1`.
    pub(super) fn from_status(status: &str) -> Self {
        // A comment may follow.
        let mut parts = status.split_whitespace().next().unwrap_or_default().split('.');
        let [class, subject, detail] = [parts.next(), parts.next(), parts.next()].map(Option::unwrap_or_default);
        // A full mailbox, and a mail that is too large, has the wrong content or is refused as spam, are no fault of the
        // address.
        match (class, subject, detail) {
            ("5", "2", "2" | "3") | ("5", "3", "4") | ("5", "6" | "7", _) => Self::Transient,
            ("5", ..) => Self::Permanent,
            _ => Self::Transient,
        }
    }

    /// The kind of a failure that a provider calls permanent. It says so of a full mailbox, too; a status code knows better.
    pub(super) fn from_permanent(status: &str) -> Self {
        if status.starts_with("5.") { Self::from_status(status) } else { Self::Permanent }
    }
}

/// One address in a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BounceReport {
    /// The address, in the form of [`MailAddress::mailbox_key`].
    pub address: String,
    /// What happened.
    pub kind: BounceKind,
    /// What the mail server or the provider said, on one line.
    pub detail: String,
}

/// A subscription of Amazon SNS to confirm. Anyone can send one, so the service never opens the URL; a person has to check
/// it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnsConfirmation {
    /// The topic.
    pub topic: String,
    /// The URL that confirms it.
    pub url: String,
}

/// The content of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ParsedBounces {
    /// The addresses whose mails came back, and those that complained.
    pub reports: Vec<BounceReport>,
    /// The number of events that say something else, or name no address.
    pub ignored: u64,
    /// A subscription to confirm.
    pub confirmation: Option<SnsConfirmation>,
}

impl ParsedBounces {
    /// Adds a report. One without a valid address is ignored: providers report what they were given.
    pub(super) fn add_report(&mut self, address: &str, kind: BounceKind, detail: &str) {
        match MailAddress::parse_any_recipient(address, true) {
            Ok(address) => {
                let detail = shorten_text(&to_single_line(detail), MAX_DETAIL_CHARS).into_owned();
                self.reports.push(BounceReport { address: address.mailbox_key(), kind, detail });
            }
            Err(_) => self.ignored += 1,
        }
    }
}

/// The text at a path of a JSON object, if it is one.
pub(super) fn text_at<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// The text at a path of a JSON object.
///
/// # Errors
/// `bounce_invalid`
pub(super) fn required_text<'a>(value: &'a Value, pointer: &str) -> Result<&'a str> {
    text_at(value, pointer).ok_or_else(|| invalid_report(format!("it has no text at `{pointer}`")))
}

/// The error for a report that cannot be read.
pub(super) fn invalid_report(why: impl std::fmt::Display) -> Error {
    Error::new(codes::BOUNCE_INVALID, format!("the report cannot be read: {why}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_tell_faults_of_the_address_from_others() {
        for permanent in ["5.1.1", "5.0.0", "5.2.1", "5.4.4", " 5.1.10 ", "5"] {
            assert_eq!(BounceKind::from_status(permanent), BounceKind::Permanent, "{permanent}");
        }
        for transient in ["4.4.7", "5.2.2 (mailbox full)", "5.3.4", "5.6.1", "5.7.1", "2.1.5", "", "x", "51.1.1"] {
            assert_eq!(BounceKind::from_status(transient), BounceKind::Transient, "{transient}");
        }
        for (status, kind) in [
            ("", BounceKind::Permanent),
            ("4.4.7", BounceKind::Permanent),
            ("5.1.1", BounceKind::Permanent),
            ("5.2.2", BounceKind::Transient),
            ("5.7.1", BounceKind::Transient),
        ] {
            assert_eq!(BounceKind::from_permanent(status), kind, "{status}");
        }
    }

    #[test]
    fn details_are_short_and_on_one_line() {
        let mut parsed = ParsedBounces::default();
        parsed.add_report("A@Example.com", BounceKind::Permanent, &format!("550\r\nno {}", "x".repeat(1_000)));
        parsed.add_report("no address", BounceKind::Permanent, "");
        parsed.add_report("a@example.com\0", BounceKind::Permanent, "");
        let BounceReport { address, detail, .. } = &parsed.reports[0];
        assert_eq!((address.as_str(), detail.chars().count(), parsed.ignored), ("a@example.com", 501, 2));
        assert!(detail.starts_with("550 no xxx"), "{detail}");
    }
}
