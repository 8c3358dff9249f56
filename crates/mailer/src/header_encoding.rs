//! Encodes the values of headers. Lines fold at spaces; what cannot fold becomes encoded words (RFC 2047) or parameter
//! segments (RFC 2231). So no line exceeds the 998 octets of SMTP, and a parser reads the value that was given.

use lettre::message::Mailbox;
use lettre::message::header::{Header, HeaderName, HeaderValue};

use super::{MailAddress, to_single_line};

/// The preferred maximum length of a line.
const FOLD_WIDTH: usize = 76;
/// Longer words become encoded words. They cannot fold, and servers cut lines over 998 octets.
const MAX_PLAIN_WORD: usize = 500;
/// Longer names become encoded words or segments. Some programs do not unfold a quoted string.
const MAX_QUOTED_LEN: usize = 60;
/// The maximum length of the text in one encoded word. Such a word fits into the first line of each of our headers.
const MAX_ENCODED_LEN: usize = 45;

/// Builds a header with free text, such as a subject.
pub(super) fn text_header(name: &'static str, text: &str) -> HeaderValue {
    named_text_header(HeaderName::new_from_ascii_str(name), text)
}

/// Builds a header with free text and a name of the user's choice.
pub(super) fn named_text_header(name: HeaderName, text: &str) -> HeaderValue {
    let text = to_single_line(text);
    let tokens = match is_plain_text(&text) {
        true => text.split(' ').map(str::to_owned).collect(),
        false => encode_words(&text),
    };
    build_header(name, text, &tokens)
}

/// Builds a header with addresses, such as `To`. Without `smtputf8`, it has only ASCII.
pub(super) fn address_header(name: &'static str, addresses: &[MailAddress], smtputf8: bool) -> HeaderValue {
    build_header(HeaderName::new_from_ascii_str(name), String::new(), &address_tokens(addresses, smtputf8))
}

fn address_tokens(addresses: &[MailAddress], smtputf8: bool) -> Vec<String> {
    let mut tokens: Vec<String> = Vec::new();
    for (index, address) in addresses.iter().enumerate() {
        if index > 0
            && let Some(last) = tokens.last_mut()
        {
            last.push(',');
        }
        match !smtputf8 && address.needs_smtputf8() {
            true => tokens.extend(downgraded_tokens(&address.0)),
            false => tokens.extend(mailbox_tokens(&address.0)),
        }
    }
    tokens
}

/// The header `Content-Disposition` of a file.
#[derive(Clone)]
pub(super) struct FileDisposition {
    /// `attachment` or `inline`.
    pub(super) kind: &'static str,
    pub(super) file_name: String,
}

impl Header for FileDisposition {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Content-Disposition")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        Err("it is only written".into())
    }

    fn display(&self) -> HeaderValue {
        let mut tokens = vec![format!("{};", self.kind)];
        tokens.extend(parameter_tokens("filename", &self.file_name));
        build_header(Self::name(), self.file_name.clone(), &tokens)
    }
}

fn build_header(name: HeaderName, raw: String, tokens: &[String]) -> HeaderValue {
    let folded = fold_tokens(&name, tokens);
    HeaderValue::dangerous_new_pre_encoded(name, raw, folded)
}

/// Joins tokens with spaces, or with line breaks where the line would become too long.
fn fold_tokens(name: &str, tokens: &[String]) -> String {
    let mut folded = String::new();
    let mut line_len = name.len() + ": ".len();
    for (index, token) in tokens.iter().enumerate() {
        if index > 0 {
            if line_len + 1 + token.len() > FOLD_WIDTH {
                folded.push_str("\r\n");
                line_len = 0;
            }
            folded.push(' ');
            line_len += 1;
        }
        folded.push_str(token);
        line_len += token.len();
    }
    folded
}

/// True if the text needs no encoding. `=?` could be read as the start of an encoded word.
pub(super) fn is_plain_text(text: &str) -> bool {
    text.is_ascii() && !text.contains("=?") && text.split(' ').all(|word| word.len() <= MAX_PLAIN_WORD)
}

fn mailbox_tokens(mailbox: &Mailbox) -> Vec<String> {
    let Some(name) = &mailbox.name else { return vec![mailbox.email.to_string()] };
    let mut tokens = phrase_tokens(name);
    tokens.push(format!("<{}>", mailbox.email));
    tokens
}

/// An address that ASCII cannot hold, as a group without members (RFC 6857): it is shown, and nobody can reply to it.
fn downgraded_tokens(mailbox: &Mailbox) -> Vec<String> {
    let shown = match &mailbox.name {
        Some(name) => format!("{name} <{}>", mailbox.email),
        None => mailbox.email.to_string(),
    };
    let mut tokens = encode_words(&shown);
    tokens.push(":;".to_owned());
    tokens
}

/// A display name as an atom, a quoted string, or encoded words.
fn phrase_tokens(name: &str) -> Vec<String> {
    let is_atom = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if name.len() > MAX_QUOTED_LEN {
        encode_words(name)
    } else if name.chars().all(is_atom) {
        vec![name.to_owned()]
    } else if name.chars().all(|c| is_atom(c) || matches!(c, ' ' | '.' | '"' | '\\')) {
        vec![format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\""))]
    } else {
        encode_words(name)
    }
}

/// Encodes the whole text as encoded words. A parser joins them without the spaces between them.
fn encode_words(text: &str) -> Vec<String> {
    let encoded = text.chars().map(|c| match c {
        ' ' => "_".to_owned(),
        c if c.is_ascii_alphanumeric() => c.to_string(),
        c => escape_bytes(c, '='),
    });
    split_segments(encoded).into_iter().map(|segment| format!("=?utf-8?q?{segment}?=")).collect()
}

/// A parameter as a quoted string, or as segments that each fit into a line.
fn parameter_tokens(key: &str, value: &str) -> Vec<String> {
    let is_simple = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    if value.len() <= MAX_QUOTED_LEN && value.chars().all(|c| is_simple(c) || c == ' ') {
        return vec![format!("{key}=\"{value}\"")];
    }
    let encoded = value.chars().map(|c| if is_simple(c) { c.to_string() } else { escape_bytes(c, '%') });
    let segments = split_segments(encoded);
    if let [whole] = &segments[..] {
        return vec![format!("{key}*=utf-8''{whole}")];
    }
    let last = segments.len().saturating_sub(1);
    let token = |(index, segment): (usize, &String)| {
        let charset = if index == 0 { "utf-8''" } else { "" };
        let end = if index == last { "" } else { ";" };
        format!("{key}*{index}*={charset}{segment}{end}")
    };
    segments.iter().enumerate().map(token).collect()
}

/// The bytes of a character as hexadecimal numbers, each after `mark`.
fn escape_bytes(c: char, mark: char) -> String {
    let mut buffer = [0; 4];
    c.encode_utf8(&mut buffer).bytes().map(|byte| format!("{mark}{byte:02X}")).collect()
}

/// Joins encoded characters to segments of limited length. No character is split, because parsers decode each segment
/// on its own.
fn split_segments(encoded: impl Iterator<Item = String>) -> Vec<String> {
    let mut segments: Vec<String> = Vec::new();
    for c in encoded {
        match segments.last_mut().filter(|segment| segment.len() + c.len() <= MAX_ENCODED_LEN) {
            Some(segment) => segment.push_str(&c),
            None => segments.push(c),
        }
    }
    segments
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folded_lines(tokens: &[String]) -> Vec<String> {
        fold_tokens("Subject", tokens).split("\r\n").map(str::to_owned).collect()
    }

    #[test]
    fn short_values_stay_readable() {
        assert_eq!(phrase_tokens("Ops"), ["Ops"]);
        assert_eq!(phrase_tokens(r#"A "B" \"#), [r#""A \"B\" \\""#]);
        assert_eq!(phrase_tokens("Jörg, M"), ["=?utf-8?q?J=C3=B6rg=2C_M?="]);
        assert_eq!(parameter_tokens("filename", "a report.csv"), [r#"filename="a report.csv""#]);
        assert_eq!(parameter_tokens("filename", "ü\".csv"), ["filename*=utf-8''%C3%BC%22.csv"]);
        assert!(is_plain_text("1,899 of 2 rows: done?") && !is_plain_text("=?utf-8?q?no?="));
    }

    #[test]
    fn long_words_are_split_into_short_lines() {
        for text in ["a".repeat(5_000), "日".repeat(5_000), "\"".repeat(5_000)] {
            let (words, segments) = (encode_words(&text), parameter_tokens("filename", &text));
            assert!(words.len() > 100 && segments.len() > 100);
            for line in folded_lines(&words).iter().chain(&folded_lines(&segments)) {
                assert!(line.len() <= FOLD_WIDTH, "{line}");
            }
        }
    }

    #[test]
    fn address_outside_ascii_is_kept_or_becomes_an_empty_group() {
        let addresses = ["Ö <ü@b.co>", "a@b.co"].map(|text| MailAddress::parse_any_recipient(text, true).unwrap());
        let tokens = address_tokens(&addresses, false);
        assert_eq!(tokens, ["=?utf-8?q?=C3=96_=3C=C3=BC=40b=2Eco=3E?=", ":;,", "a@b.co"]);
        assert_eq!(address_tokens(&addresses, true), ["=?utf-8?q?=C3=96?=", "<ü@b.co>,", "a@b.co"]);
    }

    #[test]
    fn lines_fold_only_between_tokens() {
        let long = "c".repeat(75);
        let tokens = ["a", "bb", long.as_str(), "d"].map(str::to_owned);
        assert_eq!(folded_lines(&tokens), ["a bb".to_owned(), format!(" {long}"), " d".to_owned()]);
    }
}
