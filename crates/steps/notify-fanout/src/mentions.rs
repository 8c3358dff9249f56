//! Finds mentions in a text: `@name`, in any script.

use std::collections::HashSet;
use std::sync::LazyLock;

use regex::Regex;

use super::code_ranges::blank_code;
use super::mention_name::{is_unspaced, is_word_char, name_at_start};
use afterload_core::work::count_steps;
use afterload_pipeline::params::TextPattern;

/// The length of `www.`, the longest sign of a web address.
const URL_SIGN_BYTES: usize = 4;

/// Follows the first label of the host in a mail address.
#[expect(clippy::unwrap_used, reason = "a constant that a test compiles")]
static HOST_PATTERN: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^\.\w").unwrap());
/// What may stand between the last letter of a mailbox and its `@`.
const MAILBOX_SIGNS: &str = ".!#$%&'*+/=?^`{|}~-";

/// Returns the names in text order, without duplicates and without the `@`. Names inside code (backticks, fences,
/// `<code>`, `<pre>`), mail addresses and web addresses do not count. `pattern` is the form of a name, instead of the
/// default one.
pub fn find_mentions(text: &str, pattern: Option<&TextPattern>) -> Vec<String> {
    let text = blank_code(text);
    count_steps(text.len());
    let (mut names, mut segment) = (UniqueNames::default(), TextSegment::default());
    let mut name_end = 0;
    for (at, sign) in text.char_indices().filter(|(_, letter)| is_mention_sign(*letter)) {
        // A name may hold the sign, if its pattern says so.
        if at < name_end {
            continue;
        }
        let start = at + sign.len_utf8();
        let Some(name) = name_at_start(&text[start..], pattern) else { continue };
        name_end = start + name.len();
        segment.extend_to(&text, at);
        if is_mention(&text[segment.start..segment.end], segment.is_url, name, &text[name_end..]) {
            names.insert(name);
        }
    }
    names.in_order
}

fn is_mention_sign(letter: char) -> bool {
    letter == '@' || letter == '＠'
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
struct TextSegment {
    start: usize,
    end: usize,
    /// Whether the segment holds a web address so far.
    is_url: bool,
}

impl TextSegment {
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

/// True if the text around a name leaves it a mention: the segment before it, and what comes after it.
fn is_mention(segment: &str, is_url: bool, name: &str, after: &str) -> bool {
    if is_url || after.starts_with(is_mention_sign) || after.starts_with("://") {
        return false;
    }
    let Some(last) = segment.chars().next_back() else { return true };
    // Chinese, Japanese and Korean need no space before a mention.
    if is_mention_sign(last) || is_word_char(last) {
        return is_unspaced(last);
    }
    // `"ann lee"@example.com` is an address, but `"@ann.lee"` is a quoted mention.
    let is_host = name.contains('.') || HOST_PATTERN.is_match(after);
    !(is_host && ends_as_mailbox(segment.strip_suffix('"').unwrap_or(segment)))
}

/// True if the text ends as the part of a mail address before its `@` does. The signs end at the mention before at the
/// latest, so no sign is passed twice.
fn ends_as_mailbox(segment: &str) -> bool {
    let word = segment.trim_end_matches(|letter| MAILBOX_SIGNS.contains(letter));
    count_steps(segment.len() - word.len());
    word.chars().next_back().is_some_and(is_word_char)
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::work::assert_linear;

    fn find_default_mentions(text: &str) -> Vec<String> {
        find_mentions(text, None)
    }

    fn find_with(pattern: &str, text: &str) -> String {
        find_mentions(text, Some(&TextPattern::compile(pattern).unwrap())).join(" ")
    }

    #[test]
    fn mentions_are_found_in_any_script() {
        for (text, found) in [
            ("@ann and @bob_2, hello (@Ann)! cc:@eve/@mallory .@zoë", "ann bob_2 Ann eve mallory zoë"),
            ("@ann @ann @ann's \"@quoted\" «@guillemets» 'and @single'", "ann quoted guillemets single"),
            ("こんにちは @田中 さん、＠鈴木。@हिन्दी @Ελένη @жанна @جميلة", "田中 鈴木 हिन्दी Ελένη жанна جميلة"),
            ("@jose\u{301} 👋@wave @mary-ann- @a--b @bob.Thanks", "jose\u{301} wave mary-ann a--b bob.Thanks"),
            ("@ @- @. @@ann @ann@example.social x@y _@y 1@y", ""),
            ("", ""),
        ] {
            assert_eq!(find_default_mentions(text).join(" "), found, "{text}");
        }
    }

    /// The cases follow those of other services: <https://github.com/twitter/twitter-text> (`conformance/extract.yml`).
    /// Ours differ where the comments say so.
    #[test]
    fn mentions_are_found_as_in_other_services() {
        for (text, found) in [
            ("@ann at the start, in the middle @bob of it, at the end @eve", "ann bob eve"),
            ("@ann\n@bob\t@eve\u{3000}@zoe", "ann bob eve zoe"),
            ("@with_underscore @_ann_ @12345", "with_underscore _ann_ 12345"),
            (
                "@ann: @bob, @eve; @zoe! @dan? (@kim) [@lee] {@max} <@pat> *@sam*",
                "ann bob eve zoe dan kim lee max pat sam",
            ),
            ("The @_@ face (cc: @ann)", "ann"),
            ("@ann mail me: @bob@example.com", "ann"),
            ("@http://example.com @https://example.com", ""),
            ("RT @ann RT:@bob", "ann bob"),
            ("/@ann .@bob -@eve …@zoe", "ann bob eve zoe"),
            // Elsewhere `RT@ann` is a mention. Here letters before the sign make it an address.
            ("RT@ann", ""),
            // Elsewhere an accented letter ends the search. Here it is a letter as any other.
            ("@aliceìnwonderland", "aliceìnwonderland"),
            // Elsewhere a dot ends a name. Here a name holds single dots.
            ("@ann.smith @bob. @eve... @zoe.. @dan.. @a.b.c,", "ann.smith bob eve zoe dan a.b.c"),
            ("\"@ann.smith\" ('@bob.lee') cc:@eve.day", "ann.smith bob.lee eve.day"),
            // Elsewhere some signs before the `@` make it no mention.
            ("!@ann #@bob &@eve", "ann bob eve"),
        ] {
            assert_eq!(find_default_mentions(text).join(" "), found, "{text}");
        }
    }

    #[test]
    fn mentions_need_no_spaces_in_chinese_japanese_and_korean() {
        for (text, found) in [
            ("你好@ann，", "ann"),
            ("@ann様", "ann"),
            ("の@ann_lee2に到着を待っている", "ann_lee2"),
            ("안녕@ann님 @bob이 왔다", "ann bob"),
            ("カー@annさん、か\u{3099}@bob、ﾊﾟｰ@eve", "ann bob eve"),
            ("請看@ann.smith的文章", "ann.smith"),
            ("@田中 @田中2。＠鈴木、@김철수", "田中 田中2 鈴木 김철수"),
            ("你好ann@example.com", ""),
            ("é@ann ж@bob", ""),
        ] {
            assert_eq!(find_default_mentions(text).join(" "), found, "{text}");
        }
    }

    #[test]
    fn pattern_decides_what_a_name_is() {
        for (pattern, text, found) in [
            ("[a-z]+", "@ann.smith @Bob @eve, @zoe2 `@no` a@b.co https://example.com/@no", "ann eve"),
            ("[a-z.]+", "@ann.smith. @bob...", "ann.smith bob"),
            (r"[a-z]{2,4}", "@ann @verylong @a 你好@bob様", "ann bob"),
            (r"\w+(?: \w+)?", "@Ann Lee, @Bob", "Ann Lee Bob"),
            ("ann|ann2", "@ann2 @ann", "ann"),
            ("(?i:[a-z])+", "@Ann <bob.@example.com>", "Ann"),
            (".*", "@ann and the rest!", "ann and the rest"),
            ("x*", "@ann @xx", "xx"),
        ] {
            assert_eq!(find_with(pattern, text), found, "{pattern}: {text}");
        }
    }

    #[test]
    fn hostile_patterns_take_linear_work() {
        for pattern in [".*", "[^ ]+", "(?:a|aa)+b", "(?:[a-z]+[^a-z]*)*x"] {
            let pattern = TextPattern::compile(pattern).unwrap();
            for shape in ["@", "@a.", "你@"] {
                let name = format!("{}: {shape}", pattern.as_str());
                assert_linear(&name, |count| shape.repeat(count), |text| drop(find_mentions(text, Some(&pattern))));
            }
        }
    }

    #[test]
    fn addresses_are_not_mentions() {
        for text in [
            "write to bob@example.com, BOB+news@mail.example.org or <bob.@example.com>",
            "mailto:bob@example.com, \"bob lee\"@example.com, o'neil-@example.com, jürgen@münchen.example",
            "https://example.com/@bob http://bob:pw@example.com/x?y=@z www.example.com/@bob",
        ] {
            assert_eq!(find_default_mentions(text), [""; 0], "{text}");
        }
        assert_eq!(find_default_mentions("(see https://example.com/@no) @yes"), ["yes"]);
        assert_eq!(find_default_mentions("Thanks!@bob"), ["bob"]);
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
            "你@",
            "你好@ann，",
            "@ann様",
            "@ann.smith.",
            "@a://",
        ];
        for shape in repeated {
            assert_linear(shape, |count| shape.repeat(count), |text| drop(find_default_mentions(text)));
            assert_linear(
                shape,
                |count| format!("{}>`@", shape.repeat(count)),
                |text| drop(find_default_mentions(text)),
            );
        }
        // The lengths of the runs and the names differ, so that nothing closes and nothing is known.
        let runs = |count: usize| (0..count).map(|length| "`".repeat(length % 90 + 1) + " ").collect::<String>();
        assert_linear("runs of backticks", runs, |text| drop(find_default_mentions(text)));
        let growing = |count: usize| {
            let longest = (count as f64 * 2.0).sqrt() as usize;
            (1..=longest).map(|length| "`".repeat(length) + " ").collect::<String>()
        };
        assert_linear("growing runs", growing, |text| drop(find_default_mentions(text)));
        let names = |count: usize| (0..count).map(|number| format!("@n{number},")).collect::<String>();
        assert_linear("different names", names, |text| drop(find_default_mentions(text)));
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
            assert_eq!(find_default_mentions(text).join(" "), found, "{text}");
        }
    }
}
