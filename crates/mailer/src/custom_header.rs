//! Headers that a step adds to its mails.

use lettre::message::header::{HeaderName, HeaderValue};

use super::header_encoding::{is_plain_text, named_text_header};
use crate::codes;
use afterload_core::error::{Error, Result};

/// Headers with text for people. The others are read by programs, which decode nothing.
const TEXT_HEADERS: [&str; 3] = ["comments", "keywords", "organization"];
const PROGRAM_HEADERS: [&str; 6] = ["feedback-id", "importance", "in-reply-to", "precedence", "priority", "references"];
/// Headers that the service sets itself.
const RESERVED_PREFIXES: [&str; 2] = ["x-afterload-", "x-envelope-"];
/// The maximum length of a name. It cannot fold.
const MAX_NAME_LEN: usize = 60;
/// The maximum length of a value in bytes. Servers limit the size of all headers together.
const MAX_VALUE_LEN: usize = 4_000;

/// A header that a step adds to its mails.
#[derive(Clone, Debug)]
pub struct CustomHeader {
    name: HeaderName,
    value: String,
}

impl CustomHeader {
    /// Checks the name of a header.
    ///
    /// # Errors
    /// `mail_header_invalid`
    pub fn check_name(name: &str) -> Result<()> {
        let lower = name.to_ascii_lowercase();
        let is_valid = name.len() <= MAX_NAME_LEN && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-');
        let is_reserved = RESERVED_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
        let is_known = TEXT_HEADERS.iter().chain(&PROGRAM_HEADERS).any(|known| *known == lower);
        let is_open = ["list-", "x-"].iter().any(|prefix| lower.starts_with(prefix) && lower.len() > prefix.len());
        match is_valid && !is_reserved && (is_known || is_open) {
            true => Ok(()),
            false => {
                let shown = super::to_single_line(name).chars().take(MAX_NAME_LEN).collect::<String>();
                Err(Error::new(codes::MAIL_HEADER_INVALID, format!("a mail cannot have a header `{shown}` of its own")))
            }
        }
    }

    /// Checks a header. No error shows the value, because it may hold a secret.
    ///
    /// # Errors
    /// `mail_header_invalid`
    pub fn parse(name: &str, value: &str) -> Result<Self> {
        Self::check_name(name)?;
        let (lower, value) = (name.to_ascii_lowercase(), value.trim());
        let is_text = TEXT_HEADERS.contains(&lower.as_str()) || lower.starts_with("x-");
        let invalid = |fault: &str, hint: String| {
            Err(Error::new(codes::MAIL_HEADER_INVALID, format!("the header `{name}` {fault}")).with_hint(hint))
        };
        if value.chars().any(char::is_control) {
            return invalid("has a line break or another control character", "write the value as one line".into());
        }
        if value.len() > MAX_VALUE_LEN {
            return invalid("is too long", format!("a value has at most {MAX_VALUE_LEN} bytes"));
        }
        if !is_text && !is_plain_text(value) {
            let hint = "programs read this header, so it has only ASCII and no word of more than 500 characters";
            return invalid("cannot be encoded", hint.into());
        }
        let name = HeaderName::new_from_ascii(name.to_owned())
            .map_err(|error| Error::new(codes::MAIL_HEADER_INVALID, error.to_string()))?;
        Ok(Self { name, value: value.to_owned() })
    }

    pub(super) fn to_header_value(&self) -> HeaderValue {
        named_text_header(self.name.clone(), &self.value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_of_threads_and_lists_and_programs_are_allowed() {
        for (name, value) in [
            ("In-Reply-To", "<1@example.com>"),
            ("references", "<1@example.com> <2@example.com>"),
            ("List-Unsubscribe", "<https://example.com/u>"),
            ("X-Order", "Größe 7"),
            ("Organization", "Bücher"),
        ] {
            assert!(CustomHeader::parse(name, value).is_ok(), "{name}");
        }
    }

    #[test]
    fn headers_of_the_service_and_injections_are_refused() {
        let reserved = ["Subject", "To", "bcc", "Message-ID", "Content-Type", "MIME-Version", "Auto-Submitted"];
        let odd = ["X-Afterload-Run", "x-envelope-to", "X-", "List-", "", "X-a b", "X-a:", "X-a\r\nBcc", "X-ü"];
        for name in reserved.iter().chain(&odd) {
            let error = CustomHeader::parse(name, "x").unwrap_err();
            assert_eq!(error.code(), codes::MAIL_HEADER_INVALID, "{name}");
            assert!(!error.message().contains(['\r', '\n']), "{name}");
        }
        let long = "a ".repeat(3_000);
        for value in ["a\r\nBcc: b@example.com", "a\nb", "a\0", long.as_str()] {
            assert_eq!(CustomHeader::parse("X-A", value).unwrap_err().code(), codes::MAIL_HEADER_INVALID);
        }
        assert!(CustomHeader::parse("References", "ü").is_err());
    }
}
