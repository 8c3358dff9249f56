//! Finds mentions in a text: `@name`, in any script.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use super::code_ranges::blank_code;
use afterload_core::work::count_steps;

/// The length of `www.`, the longest sign of a web address.
const URL_SIGN_BYTES: usize = 4;

/// A name after its `@`: letters, marks and digits of any script. A hyphen is allowed only between two of them.
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static MENTION_PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[@＠](\w+(?:-+\w+)*)").unwrap());
/// Follows the first label of the host in a mail address.
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static HOST_PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\.\w").unwrap());
/// A letter, mark, digit or connector at the end of a text.
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static WORD_PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\w$").unwrap());
/// What may stand between the last letter of a mailbox and its `@`.
const MAILBOX_SIGNS: &str = ".!#$%&'*+/=?^`{|}~-";

/// Returns the names in text order, without duplicates and without the `@`. Names inside code (backticks, fences,
/// `<code>`, `<pre>`), mail addresses and web addresses do not count.
pub fn find_mentions(text: &str) -> Vec<String> {
    let text = blank_code(text);
    // The pattern passes the text once: it never looks beyond the next `@`.
    count_steps(text.len());
    let (mut names, mut piece) = (UniqueNames::default(), Piece::default());
    for found in MENTION_PATTERN.captures_iter(&text) {
        let (Some(whole), Some(name)) = (found.get(0), found.get(1)) else { continue };
        piece.extend_to(&text, whole.start());
        if is_mention(&text[piece.start..piece.end], piece.is_url, &text[whole.end()..]) {
            names.insert(name.as_str());
        }
    }
    names.in_order
}

/// Names in text order, without duplicates.
#[derive(Default)]
struct UniqueNames {
    in_order: Vec<String>,
    known: HashSet<String>,
}

impl UniqueNames {
    fn insert(&mut self, name: &str) {
        count_steps(1);
        if self.known.insert(name.to_owned()) {
            self.in_order.push(name.to_owned());
        }
    }
}

/// The text from the last white space to the end, which moves forward from mention to mention.
#[derive(Default)]
struct Piece {
    start: usize,
    end: usize,
    /// Whether the piece holds a web address so far.
    is_url: bool,
}

impl Piece {
    fn extend_to(&mut self, text: &str, end: usize) {
        let new = &text[self.end..end];
        count_steps(new.len());
        let space = new.char_indices().rev().find(|(_, letter)| letter.is_whitespace());
        if let Some((at, letter)) = space {
            (self.start, self.is_url) = (self.end + at + letter.len_utf8(), false);
        }
        // The sign of an address may begin in the text that was searched before.
        let from = self.start.max(self.end.saturating_sub(URL_SIGN_BYTES - 1));
        let new = &text.as_bytes()[from..end];
        self.is_url |= new.windows(3).any(|sign| sign == b"://")
            || new.windows(URL_SIGN_BYTES).any(|sign| sign.eq_ignore_ascii_case(b"www."));
        self.end = end;
    }
}

/// True if the text around a name leaves it a mention: the piece before it, and what comes after it.
fn is_mention(piece: &str, is_url: bool, after: &str) -> bool {
    let sign = |letter: char| letter == '@' || letter == '＠';
    let last = piece.chars().next_back();
    if is_url || last.is_some_and(|letter| sign(letter) || is_word_char(letter)) || after.starts_with(sign) {
        return false;
    }
    // `"ann lee"@example.com` is an address, but `"@ann` is a quoted mention.
    !(HOST_PATTERN.is_match(after) && (last == Some('"') || ends_as_mailbox(piece)))
}

/// True if the text ends as the part of a mail address before its `@` does. The signs end at the mention before at the
/// latest, so no sign is passed twice.
fn ends_as_mailbox(piece: &str) -> bool {
    let word = piece.trim_end_matches(|letter| MAILBOX_SIGNS.contains(letter));
    count_steps(piece.len() - word.len());
    let last = word.chars().next_back();
    last.is_some_and(|letter| WORD_PATTERN.is_match(letter.encode_utf8(&mut [0; 4])))
}

fn is_word_char(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::work::assert_linear;

    #[test]
    fn mentions_are_found_in_any_script() {
        for (text, found) in [
            ("@ann and @bob_2, hello (@Ann)! cc:@eve/@mallory .@zoë", "ann bob_2 Ann eve mallory zoë"),
            ("@ann @ann @ann's \"@quoted\" «@guillemets» 'and @single'", "ann quoted guillemets single"),
            ("こんにちは @田中 さん、＠鈴木。@हिन्दी @Ελένη @жанна @جميلة", "田中 鈴木 हिन्दी Ελένη жанна جميلة"),
            ("@jose\u{301} 👋@wave @mary-ann- @a--b @bob.Thanks", "jose\u{301} wave mary-ann a--b bob"),
            ("@ @- @. @@ann @ann@example.social x@y _@y 1@y", ""),
            ("", ""),
        ] {
            assert_eq!(find_mentions(text).join(" "), found, "{text}");
        }
    }

    #[test]
    fn addresses_are_not_mentions() {
        for text in [
            "write to bob@example.com, BOB+news@mail.example.org or <bob.@example.com>",
            "mailto:bob@example.com, \"bob lee\"@example.com, o'neil-@example.com, jürgen@münchen.example",
            "https://example.com/@bob http://bob:pw@example.com/x?y=@z www.example.com/@bob",
        ] {
            assert_eq!(find_mentions(text), [""; 0], "{text}");
        }
        assert_eq!(find_mentions("(see https://example.com/@no) @yes"), ["yes"]);
        assert_eq!(find_mentions("Thanks!@bob"), ["bob"]);
    }

    #[test]
    fn hostile_texts_take_linear_work() {
        let repeated = [
            "`",
            "` ",
            "\\`",
            "`\n\n",
            "```\n",
            "~~~\n",
            "> ",
            "@",
            "@a",
            "@a,",
            "@a.",
            "@a.b@",
            ".@",
            "www.@a,",
            "://@a,",
            "@a-",
            "\"@a.b",
            "<code>",
            "<code ",
            "<code><pre></pre>",
            "<pre><code></code>",
            "</code ",
            "<pre>`</pre>",
            "a@b.c",
            "ü@ü",
        ];
        for shape in repeated {
            assert_linear(shape, |count| shape.repeat(count), |text| drop(find_mentions(text)));
            assert_linear(shape, |count| format!("{}>`@", shape.repeat(count)), |text| drop(find_mentions(text)));
        }
        // The lengths of the runs and the names differ, so that nothing closes and nothing is known.
        let runs = |count: usize| (0..count).map(|length| "`".repeat(length % 90 + 1) + " ").collect::<String>();
        assert_linear("runs of backticks", runs, |text| drop(find_mentions(text)));
        let growing = |count: usize| {
            let longest = (count as f64 * 2.0).sqrt() as usize;
            (1..=longest).map(|length| "`".repeat(length) + " ").collect::<String>()
        };
        assert_linear("growing runs", growing, |text| drop(find_mentions(text)));
        let names = |count: usize| (0..count).map(|number| format!("@n{number},")).collect::<String>();
        assert_linear("different names", names, |text| drop(find_mentions(text)));
    }

    #[test]
    fn code_contains_no_mentions() {
        for (text, found) in [
            ("`@no` @yes ``a ` @no`` @too", "yes too"),
            ("a ` lonely backtick and @yes", "yes"),
            ("\\`@yes\\` `@no`", "yes"),
            ("`starts here\n\n@yes` ends nowhere", "yes"),
            ("```rust\n@no\n```\n@yes\n~~~\n@no\n```\n@no\n~~~\n@too", "yes too"),
            ("> ```\n> @no\n> ```\n@yes", "yes"),
            ("@yes\n```\n@no to the end", "yes"),
            ("``` @no ``` @yes", "yes"),
            ("<code>@no</code> <PRE class='x'>\n@no\n</pre> <codex>@yes</codex>", "yes"),
            ("`ü@no` @ü", "ü"),
        ] {
            assert_eq!(find_mentions(text).join(" "), found, "{text}");
        }
    }
}
