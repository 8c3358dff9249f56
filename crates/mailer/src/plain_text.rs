//! Converts HTML to text, for templates without a text body. html5ever finds tags and entities.
//!
//! Not crate `html2text`: it moves the address of a link away from its text to the end of the mail, breaks long
//! addresses in tables, and joins the lines around an `<hr>`.

use std::cell::RefCell;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, Tag, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};

use afterload_core::work::count_steps;

/// The visible text with its paragraphs and the URLs of its links.
pub(super) fn html_to_text(html: &str) -> String {
    let input = BufferQueue::default();
    input.push_back(StrTendril::from(html));
    let tokenizer = Tokenizer::new(PlainTextSink::default(), TokenizerOpts::default());
    // The tokenizer pauses only if the sink asks for it.
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    normalize_whitespace(&tokenizer.sink.0.into_inner().text)
}

#[derive(Default)]
struct PlainTextSink(RefCell<PlainTextBuilder>);

impl TokenSink for PlainTextSink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        count_steps(1);
        let mut builder = self.0.borrow_mut();
        match token {
            Token::CharacterTokens(text) => builder.push_text(&text),
            Token::TagToken(tag) => {
                builder.push_tag(&tag);
                if tag.kind == TagKind::StartTag {
                    return content_state(&tag);
                }
            }
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

/// Tags in the content of these elements are text.
fn content_state(tag: &Tag) -> TokenSinkResult<()> {
    match &*tag.name {
        "title" | "textarea" => TokenSinkResult::RawData(RawKind::Rcdata),
        "style" | "iframe" | "noembed" | "noframes" | "xmp" => TokenSinkResult::RawData(RawKind::Rawtext),
        "script" => TokenSinkResult::RawData(RawKind::ScriptData),
        _ => TokenSinkResult::Continue,
    }
}

#[derive(Default)]
struct PlainTextBuilder {
    text: String,
    open_link: Option<String>,
    /// The open element whose content is not visible.
    hidden: Option<String>,
}

impl PlainTextBuilder {
    fn push_tag(&mut self, tag: &Tag) {
        let (name, closes) = (&*tag.name, tag.kind == TagKind::EndTag);
        if let Some(hidden) = &self.hidden {
            // The end tag of `<head>` may be missing.
            if closes && name == hidden || name == "body" {
                self.hidden = None;
            }
            return;
        }
        match name {
            "head" | "style" | "script" | "title" if !closes => self.hidden = Some(name.to_owned()),
            "a" if closes => self.end_link(),
            "a" => self.open_link = attribute_value(tag, "href"),
            "br" => self.text.push('\n'),
            "img" => self.text.extend(attribute_value(tag, "alt")),
            "td" | "th" if closes => self.text.push(' '),
            "li" if !closes => self.text.push_str("\n- "),
            "tr" => self.text.push('\n'),
            "p" | "div" | "table" | "ul" | "ol" | "h1" | "h2" | "h3" | "h4" | "h5" | "h6" | "blockquote" | "pre"
            | "hr" => self.text.push_str("\n\n"),
            _ => {}
        }
    }

    /// Adds text as HTML displays it: consecutive white space is one space.
    fn push_text(&mut self, text: &str) {
        if self.hidden.is_some() {
            return;
        }
        count_steps(text.len());
        for c in text.chars() {
            match c {
                ' ' | '\t' | '\r' | '\n' | '\u{a0}' if self.text.ends_with([' ', '\n']) => {}
                ' ' | '\t' | '\r' | '\n' | '\u{a0}' => self.text.push(' '),
                c => self.text.push(c),
            }
        }
    }

    fn end_link(&mut self) {
        let Some(url) = self.open_link.take() else { return };
        if !self.text.ends_with(&url) {
            self.text.push_str(": ");
            self.text.push_str(&url);
        }
    }
}

fn attribute_value(tag: &Tag, name: &str) -> Option<String> {
    let found = tag.attrs.iter().find(|attribute| &*attribute.name.local == name);
    found.map(|attribute| attribute.value.to_string()).filter(|value| !value.is_empty())
}

/// Removes spaces at line ends and blank lines at both ends, and keeps at most one blank line in a row.
fn normalize_whitespace(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut empty = 0;
    for line in text.lines().map(str::trim) {
        if line.is_empty() {
            empty += 1;
            continue;
        }
        if !out.is_empty() {
            out.push_str(if empty > 0 { "\n\n" } else { "\n" });
        }
        out.push_str(line);
        empty = 0;
    }
    out.push('\n');
    out
}

#[cfg(test)]
mod tests {
    use super::html_to_text;
    use afterload_core::work::assert_linear;

    #[test]
    fn hostile_html_takes_linear_work() {
        for shape in [
            "&",
            "&;",
            "&amp",
            "<",
            "<!--",
            "<!-- -->",
            "<a ",
            "<a href='",
            "<a href=x>",
            "</a>",
            "<style>",
            "<style></x>",
            "<style></style>",
            "</",
            "<p>",
            "< ",
            "\"",
            "<td alt=\"",
            "&#x",
            "<img alt=a>",
            " \n",
        ] {
            assert_linear(shape, |count| shape.repeat(count), |text| drop(html_to_text(text)));
            assert_linear(shape, |count| format!("{};>", shape.repeat(count)), |text| drop(html_to_text(text)));
        }
    }

    #[test]
    fn visible_text_is_kept() {
        let html = r#"<!DOCTYPE html><html><head><title>No</title><style>p { color: red }</style></head><body>
            <!-- <p>no</p> --><h1>Done &amp; dusted</h1>
            <p>A &lt;b&gt; is<br>two&nbsp;lines,  <b>really</b>.</p>
            <table><tr><td>Rows</td><td>18771</td></tr><tr><td>Bad</td><td>3</td></tr></table>
            <ul><li>one</li><li>two</li></ul>
            <p><a title="a > b" href="http://x/?a=1&amp;b=2">rejected rows</a> or <a href='http://y'>http://y</a></p>
            <p><img src="x.png" alt="A &lt;logo&gt;" width="9"><img src="y.png" data-alt="no"></p></body></html>"#;
        let text = "Done & dusted\n\nA <b> is\ntwo lines, really.\n\nRows 18771\n\nBad 3\n\n- one\n- two\n\n\
                    rejected rows: http://x/?a=1&b=2 or http://y\n\nA <logo>\n";
        assert_eq!(html_to_text(html), text);
    }

    #[test]
    fn browsers_and_the_text_agree_on_broken_html() {
        for (html, text) in [
            ("fish & chips", "fish & chips\n"),
            ("a < b", "a < b\n"),
            ("&", "&\n"),
            ("é<é>é", "é<é>é\n"),
            ("M&uuml;ller &euro;5 &hellip; &nosuch;", "Müller €5 … &nosuch;\n"),
            ("<head><title>no</title><body>yes", "yes\n"),
            ("<style>p { content: '<p>' } </style >yes", "yes\n"),
            ("<p class=x title='>' >a  <b> b</b>\n c</P >d", "a b c\n\nd\n"),
            ("<", "<\n"),
            ("<a href=", "\n"),
            ("<style>", "\n"),
            ("<!--", "\n"),
            ("&#xffffffff;&#0", "\u{fffd}\u{fffd}\n"),
        ] {
            assert_eq!(html_to_text(html), text, "{html}");
        }
    }
}
