//! Mail addresses as people write them: `ops@example.com` or `Ops <ops@example.com>`.

use std::fmt;

use lettre::message::Mailbox;

use super::to_single_line;
use crate::codes;
use afterload_core::error::{Error, ErrorCode, Result};

/// The address of a recipient or sender, with an optional display name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailAddress(pub(super) Mailbox);

impl MailAddress {
    /// Parses the address of a recipient, with ASCII before the `@`.
    ///
    /// # Errors
    /// `mail_invalid_recipient`
    pub fn parse_recipient(text: &str) -> Result<Self> {
        Self::parse_any_recipient(text, false)
    }

    /// Parses the address of a recipient. With `smtputf8`, other letters can stand before the `@`.
    ///
    /// # Errors
    /// `mail_invalid_recipient`
    pub fn parse_any_recipient(text: &str, smtputf8: bool) -> Result<Self> {
        parse_address(text, smtputf8).map_err(|why| invalid_address(codes::MAIL_INVALID_RECIPIENT, text, why))
    }

    /// Parses the address of a sender, with ASCII before the `@`.
    ///
    /// # Errors
    /// `mail_invalid_sender`
    pub fn parse_sender(text: &str) -> Result<Self> {
        Self::parse_any_sender(text, false)
    }

    /// Parses the address of a sender. With `smtputf8`, other letters can stand before the `@`.
    ///
    /// # Errors
    /// `mail_invalid_sender`
    pub fn parse_any_sender(text: &str, smtputf8: bool) -> Result<Self> {
        parse_address(text, smtputf8).map_err(|why| invalid_address(codes::MAIL_INVALID_SENDER, text, why))
    }

    /// True if only servers with SMTPUTF8 know the address.
    pub fn needs_smtputf8(&self) -> bool {
        !self.0.email.user().is_ascii()
    }

    /// The address in lower case, to recognize the same mailbox. Hosts ignore case, and nearly all servers ignore it
    /// before the `@` too. Two mails to one person are worse than a missing mail to someone whose address differs only
    /// by case. Quotes that the mailbox does not need are no part of it, so that they lead around no suppression.
    pub fn mailbox_key(&self) -> String {
        let (user, host) = (self.0.email.user(), self.0.email.domain());
        let plain = unquote_name(user);
        let needs_quotes = plain.starts_with('"') || lettre::Address::new(&plain, host).is_err();
        let user: &str = if needs_quotes { user } else { &plain };
        format!("{user}@{host}").to_lowercase()
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &str {
        self.0.email.domain()
    }
}

/// Shows the address without the name.
impl fmt::Display for MailAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.email.fmt(f)
    }
}

fn invalid_address(code: ErrorCode, text: &str, why: &str) -> Error {
    let shown = to_single_line(text).chars().take(100).collect::<String>();
    Error::new(code, format!("`{shown}` is not an e-mail address: {why}"))
        .with_hint("write `ops@example.com` or `Ops <ops@example.com>`; several addresses are a list")
}

fn parse_address(text: &str, smtputf8: bool) -> Result<MailAddress, &'static str> {
    let text = text.trim();
    let (name, address) = match text.strip_suffix('>').and_then(|rest| rest.rsplit_once('<')) {
        Some((name, address)) => (unquote_name(name), address.trim()),
        None => (String::new(), text),
    };
    if address.chars().any(char::is_control) {
        return Err("it holds control characters");
    }
    let Some((user, host)) = address.rsplit_once('@') else { return Err("it has no `@`") };
    if !smtputf8 && !user.is_ascii() {
        return Err("only ASCII can stand before the `@`");
    }
    // `münchen.example` becomes `xn--mnchen-3ya.example`, which every server understands.
    let host = match host.is_ascii() {
        true => host.to_owned(),
        false => url::Host::parse(host).map_err(|_| "its host is not valid")?.to_string(),
    };
    if user.len() + 1 + host.len() > 254 {
        return Err("it is longer than 254 characters");
    }
    let email = lettre::Address::new(user, host).map_err(|error| match error {
        lettre::address::AddressError::InvalidDomain => "its host is not valid",
        lettre::address::AddressError::InvalidUser => "what stands before the `@` is not valid",
        _ => "it is not valid",
    })?;
    Ok(MailAddress(Mailbox::new(Some(name).filter(|name| !name.is_empty()), email)))
}

/// Removes the quotes and backslashes that mail programs put around a name.
fn unquote_name(name: &str) -> String {
    let name = to_single_line(name);
    let Some(inner) = name.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) else { return name };
    let mut text = String::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        text.extend(if c == '\\' { chars.next() } else { Some(c) });
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> Option<String> {
        MailAddress::parse_recipient(text).unwrap().0.name
    }

    #[test]
    fn display_names_parse_as_mail_programs_write_them() {
        assert_eq!(name("ops@example.com"), None);
        assert_eq!(name("<ops@example.com>"), None);
        assert_eq!(name("Ops <ops@example.com>").as_deref(), Some("Ops"));
        assert_eq!(name("Example, Grace <grace@example.com>").as_deref(), Some("Example, Grace"));
        assert_eq!(name(r#""O\"Neil, \\ A" <a@example.com>"#).as_deref(), Some(r#"O"Neil, \ A"#));
        assert_eq!(name("Jürgen <j@example.com>").as_deref(), Some("Jürgen"));
    }

    #[test]
    fn display_names_lose_control_characters() {
        assert_eq!(name("Eve\r\nBcc: a@example.com\0 <eve@example.com>").as_deref(), Some("Eve Bcc: a@example.com"));
    }

    #[test]
    fn hosts_become_ascii_and_mailbox_keys_ignore_case() {
        let address = MailAddress::parse_recipient("Info@MÜNCHEN.example").unwrap();
        assert_eq!(address.to_string(), "Info@xn--mnchen-3ya.example");
        assert_eq!(address.mailbox_key(), "info@xn--mnchen-3ya.example");
        for (text, key) in [("\"Ada\"@example.com", "ada@example.com"), ("\"a@b\"@example.com", "\"a@b\"@example.com")]
        {
            assert_eq!(MailAddress::parse_recipient(text).unwrap().mailbox_key(), key);
        }
        assert_eq!(MailAddress::parse_sender("afterload <afterload@localhost>").unwrap().domain(), "localhost");
    }

    #[test]
    fn invalid_addresses_are_rejected() {
        let long = format!("{}@example.com", "a".repeat(250));
        let bad = [
            "",
            "nobody",
            "a@",
            "@b",
            "a b@example.com",
            "a@exa mple.com",
            "a@b.com, c@d.com",
            "a@b.com\r\nBcc: c@d.com",
            "A <a\n@b.com>",
            "a@b.com\0",
            "jürgen@example.com",
            long.as_str(),
        ];
        for text in bad {
            let error = MailAddress::parse_recipient(text).expect_err(text);
            assert_eq!(error.code(), codes::MAIL_INVALID_RECIPIENT, "{text}");
            assert!(!error.is_transient() && !error.message().contains(['\r', '\n', '\0']), "{error}");
        }
        for text in ["jürgen@example.com", "Jürgen <jürgen@BÜCHER.example>", "用户@例え.jp"] {
            let address = MailAddress::parse_any_recipient(text, true).unwrap();
            assert!(address.needs_smtputf8() && address.domain().is_ascii(), "{text}");
        }
        for text in ["ü ü@example.com", "ü\u{200b}@example.com", "ü\u{2028}@example.com", "ü@", "ü<@example.com"]
        {
            assert!(MailAddress::parse_any_recipient(text, true).is_err(), "{text}");
        }
        assert_eq!(MailAddress::parse_sender("x").unwrap_err().code(), codes::MAIL_INVALID_SENDER);
    }
}
