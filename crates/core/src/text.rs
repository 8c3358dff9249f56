//! Texts from outside: what no database stores, and how much of a text a message repeats.

use std::borrow::Cow;

use crate::codes;
use crate::error::{Error, Result};
use crate::work::count_steps;

/// Refuses a text with the character NUL, which PostgreSQL does not store. `what` names the text in the message.
///
/// # Errors
/// `text_invalid`
pub fn refuse_nul(what: &str, text: &str) -> Result<()> {
    if text.contains('\0') { Err(nul_error(what)) } else { Ok(()) }
}

/// Refuses JSON whose texts hold the character NUL, which JSON writes as `\u0000`.
///
/// # Errors
/// `text_invalid`
pub fn refuse_nul_in_json(what: &str, json: &[u8]) -> Result<()> {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        count_steps(at + 1);
        if rest[at + 1..].starts_with(b"u0000") {
            return Err(nul_error(what));
        }
        // The character after a backslash belongs to it: `\\u0000` is a backslash and five characters.
        rest = rest.get(at + 2..).unwrap_or_default();
    }
    count_steps(rest.len());
    Ok(())
}

/// The error for a NUL in `what`.
pub fn nul_error(what: &str) -> Error {
    Error::new(codes::TEXT_INVALID, format!("{what} holds the character NUL"))
}

/// Cuts a text to at most `max_chars` characters, for messages.
pub fn shorten_text(text: &str, max_chars: usize) -> Cow<'_, str> {
    match text.char_indices().nth(max_chars) {
        Some((end, _)) => Cow::Owned(format!("{}…", &text[..end])),
        None => Cow::Borrowed(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_is_found_in_json_and_its_spelling_is_not_mistaken() {
        for (json, holds) in [
            (r#"{"a": "x\u0000y"}"#, true),
            (r#"{"\u0000": 1}"#, true),
            (r#"{"a": "\\\u0000"}"#, true),
            (r#"{"a": "\\u0000"}"#, false),
            (r#"{"a": "\u00001"}"#, true),
            (r#"{"a": "\u0001 u0000 \n"}"#, false),
            ("\\", false),
            ("", false),
        ] {
            assert_eq!(refuse_nul_in_json("the body", json.as_bytes()).is_err(), holds, "{json}");
        }
        let error = refuse_nul("the query", "a\0").unwrap_err();
        assert_eq!((error.code(), error.message()), (codes::TEXT_INVALID, "the query holds the character NUL"));
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shorten_text("äöü", 3), "äöü");
        assert_eq!(shorten_text("äöü", 2), "äö…");
    }
}
