//! Finds mentions in a text: `@name`, in any script.

use std::ops::Range;
use std::sync::LazyLock;

use regex::Regex;

/// A name after its `@`: letters, marks and digits of any script. A hyphen is allowed only between two of them.
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static MENTION_PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"[@＠](\w+(?:-+\w+)*)").unwrap());
/// Follows the first label of the host in a mail address.
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static HOST_PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\.\w").unwrap());
/// The last character before the `@` of a mail address, except quotes.
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static MAILBOX_PATTERN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"[\w.!#$%&'*+/=?^`{|}~-]*\w[.!#$%&'*+/=?^`{|}~-]*$").unwrap());
/// Code in Markdown and HTML, except for spans in backticks.
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static CODE_TAG_PATTERN: LazyLock<Regex> =
    LazyLock::new(|| Regex::new(r"(?is)<code(?:\s[^>]*)?>.*?</code\s*>|<pre(?:\s[^>]*)?>.*?</pre\s*>").unwrap());

/// Returns the names in text order, without duplicates and without the `@`. Names inside code (backticks, fences,
/// `<code>`, `<pre>`), mail addresses and web addresses do not count.
pub fn find_mentions(text: &str) -> Vec<String> {
    let text = blank_code(text);
    let mut names: Vec<String> = Vec::new();
    for found in MENTION_PATTERN.captures_iter(&text) {
        let (Some(whole), Some(name)) = (found.get(0), found.get(1)) else { continue };
        let known = names.iter().any(|known| known == name.as_str());
        if !known && is_mention(&text[..whole.start()], &text[whole.end()..]) {
            names.push(name.as_str().to_owned());
        }
    }
    names
}

/// True if the text around a name leaves it a mention.
fn is_mention(before: &str, after: &str) -> bool {
    let sign = |letter: char| letter == '@' || letter == '＠';
    let last = before.chars().next_back();
    if last.is_some_and(|letter| sign(letter) || is_word_char(letter)) || after.starts_with(sign) {
        return false;
    }
    let piece = before.rsplit(char::is_whitespace).next().unwrap_or_default();
    if piece.contains("://") || piece.to_ascii_lowercase().contains("www.") {
        return false;
    }
    // `"ann lee"@example.com` is an address, but `"@ann` is a quoted mention.
    let mailbox = last == Some('"') || MAILBOX_PATTERN.is_match(piece);
    !(mailbox && HOST_PATTERN.is_match(after))
}

fn is_word_char(letter: char) -> bool {
    letter == '_' || letter.is_alphanumeric()
}

/// Replaces code by spaces.
fn blank_code(text: &str) -> String {
    let text = blank_ranges(text, CODE_TAG_PATTERN.find_iter(text).map(|found| found.range()));
    let text = blank_ranges(&text, fenced_ranges(&text).into_iter());
    let spans = code_span_ranges(&text);
    blank_ranges(&text, spans.into_iter())
}

/// Keeps the line breaks, because the later patterns depend on them.
fn blank_ranges(text: &str, ranges: impl Iterator<Item = Range<usize>>) -> String {
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for range in ranges {
        out.push_str(&text[at..range.start]);
        out.extend(text[range.clone()].chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }));
        at = range.end;
    }
    out.push_str(&text[at..]);
    out
}

/// Returns the lines between fences of backticks or tildes, also in quotations. An unclosed fence extends to the end.
fn fenced_ranges(text: &str) -> Vec<Range<usize>> {
    let (mut ranges, mut open, mut at) = (Vec::new(), None::<(char, usize, usize)>, 0);
    for line in text.split_inclusive('\n') {
        let content = line.trim_start_matches([' ', '>']).trim_end();
        let sign = content.chars().next().filter(|sign| ['`', '~'].contains(sign));
        let length = sign.map_or(0, |sign| content.chars().take_while(|letter| *letter == sign).count());
        let rest = &content[length..];
        match (open, sign) {
            (None, Some(sign)) if length >= 3 && !(sign == '`' && rest.contains('`')) => {
                open = Some((sign, length, at));
            }
            (Some((opened, least, start)), Some(sign)) if sign == opened && length >= least && rest.is_empty() => {
                ranges.push(start..at + line.len());
                open = None;
            }
            _ => {}
        }
        at += line.len();
    }
    ranges.extend(open.map(|(_, _, start)| start..text.len()));
    ranges
}

/// Returns the spans between equally long runs of backticks. A span does not cross an empty line.
fn code_span_ranges(text: &str) -> Vec<Range<usize>> {
    let bytes = text.as_bytes();
    let run = |at: usize| bytes[at..].iter().take_while(|byte| **byte == b'`').count();
    let (mut ranges, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'`' => {
                let length = run(at);
                let end = find_closing_backticks(text, at + length, length);
                ranges.extend(end.map(|end| at..end));
                at = end.unwrap_or(at + length);
            }
            _ => at += 1,
        }
    }
    ranges
}

/// Returns the end of the run of `length` backticks that closes a span, searching from `at`.
fn find_closing_backticks(text: &str, mut at: usize, length: usize) -> Option<usize> {
    let paragraph = text[at..].split("\n\n").next().map_or(text.len(), |rest| at + rest.len());
    while let Some(found) = text[at..paragraph].find('`') {
        at += found;
        let run = text[at..paragraph].bytes().take_while(|byte| *byte == b'`').count();
        at += run;
        if run == length {
            return Some(at);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

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
