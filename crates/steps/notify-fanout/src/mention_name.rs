//! The name after an `@`: where it ends, and the letters around it.

use std::sync::LazyLock;

use regex::Regex;

use afterload_core::work::count_steps;
use afterload_pipeline::params::TextPattern;

/// Longer names are not found, so that a pattern never searches the whole text at each `@`.
const MAX_NAME_BYTES: usize = 256;

/// Letters that are written without spaces between words: Chinese, Japanese and Korean.
macro_rules! unspaced_letters {
    () => {
        r"\p{Han}\p{Hiragana}\p{Katakana}\p{Hangul}\p{Bopomofo}ーｰ\x{3099}\x{309A}ﾞﾟ"
    };
}

/// The form of a name: letters, marks and digits of any script, with single dots and with hyphens between them. A name
/// that begins with another script ends before Chinese, Japanese and Korean, as in `@ann様`.
const DEFAULT_PATTERN: &str = concat!(
    r"[\w--[",
    unspaced_letters!(),
    r"]]+(?:(?:\.|-+)[\w--[",
    unspaced_letters!(),
    r"]]+)*|\w+(?:(?:\.|-+)\w+)*"
);

#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static DEFAULT_NAME: LazyLock<TextPattern> = LazyLock::new(|| TextPattern::compile(DEFAULT_PATTERN).unwrap());
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static WORD_PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\w$").unwrap());
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static UNSPACED_PATTERN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(concat!("^[", unspaced_letters!(), "]$")).unwrap());

/// Returns the name with which a text begins. Punctuation at its end is not part of it, whatever the pattern takes.
pub(super) fn name_at_start<'t>(text: &'t str, pattern: Option<&TextPattern>) -> Option<&'t str> {
    // A default name begins with a word, so nothing else is searched.
    if pattern.is_none() && !text.starts_with(is_word_char) {
        return None;
    }
    let window = &text[..text.floor_char_boundary(MAX_NAME_BYTES)];
    count_steps(window.len());
    let found = pattern.unwrap_or(&DEFAULT_NAME).match_prefix(window)?;
    // A word that goes on is another name.
    let next = text[found.len()..].chars().next();
    if next.is_some_and(|letter| is_word_char(letter) && !is_unspaced(letter)) {
        return None;
    }
    let name = found.trim_end_matches(|letter| !is_word_char(letter));
    Some(name).filter(|name| !name.is_empty())
}

/// True for a letter, mark, digit or connector of any script.
pub(super) fn is_word_char(letter: char) -> bool {
    WORD_PATTERN.is_match(letter.encode_utf8(&mut [0; 4]))
}

/// True for a letter that needs no space before the next word.
pub(super) fn is_unspaced(letter: char) -> bool {
    UNSPACED_PATTERN.is_match(letter.encode_utf8(&mut [0; 4]))
}
