//! Texts from outside: what no database stores, and how much of a text a message repeats.

use std::borrow::Cow;
use std::fmt;

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

/// A file that is not UTF-8.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotUtf8 {
    /// The offset of the first wrong byte.
    pub offset: usize,
    /// True if the file begins with the byte order mark of UTF-16.
    pub is_utf16: bool,
}

impl NotUtf8 {
    /// What to do about it.
    pub fn hint(self) -> &'static str {
        match self.is_utf16 {
            true => "it begins like UTF-16, as some editors on Windows write it: save it as UTF-8",
            false => "save it as UTF-8",
        }
    }
}

impl fmt::Display for NotUtf8 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the file is not UTF-8; byte {} is the first that is wrong", self.offset)
    }
}

impl std::error::Error for NotUtf8 {}

/// Decodes the bytes of a file. Nothing is replaced, because a file with other characters than its author wrote means
/// something else.
///
/// # Errors
/// The position of the first wrong byte.
pub fn decode_utf8(bytes: Vec<u8>) -> std::result::Result<String, NotUtf8> {
    String::from_utf8(bytes).map_err(|error| NotUtf8 {
        offset: error.utf8_error().valid_up_to(),
        is_utf16: [[0xff_u8, 0xfe], [0xfe, 0xff]].iter().any(|mark| error.as_bytes().starts_with(mark)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_that_are_not_utf8_have_their_position() {
        assert_eq!(decode_utf8("\u{feff}é".into()).as_deref(), Ok("\u{feff}é"));
        let latin1 = decode_utf8(b"name: caf\xe9\n".to_vec()).unwrap_err();
        assert_eq!(latin1, NotUtf8 { offset: 9, is_utf16: false });
        assert_eq!(latin1.to_string(), "the file is not UTF-8; byte 9 is the first that is wrong");
        for bytes in [b"\xff\xfea\0".to_vec(), b"\xfe\xff\0a".to_vec()] {
            let utf16 = decode_utf8(bytes).unwrap_err();
            assert_eq!(utf16, NotUtf8 { offset: 0, is_utf16: true });
            assert!(utf16.hint().contains("UTF-16"));
        }
    }

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
