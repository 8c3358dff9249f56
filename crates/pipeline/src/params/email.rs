//! The syntax of e-mail addresses.

use std::borrow::Cow;

/// Catches typing errors and rejects a second header or recipient. Whether the address exists is known only after a
/// mail.
pub(super) fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let local_char = |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~.".contains(c);
    let label = |part: &str| {
        !part.is_empty()
            && part.chars().all(|c| c.is_alphanumeric() || c == '-')
            && !part.starts_with('-')
            && !part.ends_with('-')
    };
    text.len() <= 254
        && (1..=64).contains(&local.len())
        && local.chars().all(local_char)
        && !local.starts_with('.')
        && !local.ends_with('.')
        && !local.contains("..")
        && domain.split('.').all(label)
        && to_ascii_domain(domain).is_some_and(|domain| {
            local.len() + 1 + domain.len() <= 254 && domain.split('.').all(|label| label.len() <= 63)
        })
}

/// Converts a host to its form in ASCII. `None` if it is no valid host.
fn to_ascii_domain(domain: &str) -> Option<Cow<'_, str>> {
    if domain.is_ascii() {
        return Some(domain.into());
    }
    match url::Host::parse(domain).ok()? {
        url::Host::Domain(ascii) => Some(ascii.into()),
        url::Host::Ipv4(_) | url::Host::Ipv6(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::super::{InvalidParam, ParamType, coerce_value};
    use crate::codes;

    fn coerce(text: &str) -> Result<Value, InvalidParam> {
        coerce_value(&ParamType::Email { smtputf8: false }, text.into())
    }

    #[test]
    fn emails_have_an_ascii_mailbox_and_any_host() {
        let long_label = format!("a@{}.example", "b".repeat(64));
        let long_ascii_label = format!("a@{}.example", "ü".repeat(63));
        for text in ["a@b.co", "a.b+c@b.co", "a@bücher.example", "a@例え.jp", "a@xn--bcher-kva.example", "a@localhost"]
        {
            assert_eq!(coerce(text), Ok(text.into()), "{text}");
        }
        for text in ["ü@b.co", "jürgen@bücher.example", "用户@例え.jp"] {
            let fault = coerce(text).unwrap_err();
            assert_eq!(fault.code, codes::PARAM_EMAIL_NOT_ASCII, "{text}");
            assert!(fault.message.contains(text.split('@').next().unwrap()), "{}", fault.message);
            assert_eq!(coerce_value(&ParamType::Email { smtputf8: true }, text.into()), Ok(text.into()), "{text}");
        }
        for text in [
            "",
            "a",
            "ü",
            "ü@",
            "@b.co",
            "a@b..co",
            "a@²",
            "a@bü cher.example",
            long_label.as_str(),
            long_ascii_label.as_str(),
        ] {
            assert_eq!(coerce(text).unwrap_err().code, codes::PARAM_WRONG_TYPE, "{text}");
        }
        let utf8 = ParamType::Email { smtputf8: true };
        for value in [7.into(), "ü".into(), "ü@".into(), "ü ü@b.co".into()] {
            assert_eq!(coerce_value(&utf8, value).unwrap_err().code, codes::PARAM_WRONG_TYPE);
        }
    }
}
