//! Converts HTML to text, for templates without a text body.

use afterload_core::work::{count_steps, search_text};

/// The longest entity: `&thetasym;` and `&#x10ffff;` have ten characters.
const MAX_ENTITY_BYTES: usize = 10;

/// The visible text with its paragraphs and the URLs of its links.
pub(super) fn html_to_text(html: &str) -> String {
    let mut out = PlainTextBuilder::default();
    let mut rest = html;
    while let Some(at) = search_text(rest, "<") {
        out.push_text(&rest[..at]);
        rest = &rest[at..];
        let end = if rest.starts_with("<!--") { search_text(rest, "-->").map(|at| at + 2) } else { find_tag_end(rest) };
        let Some(end) = end else { break };
        let tag = &rest[1..end];
        count_steps(tag.len());
        rest = &rest[end + 1..];
        let name = tag.trim_start_matches('/').split(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default();
        let name = name.to_ascii_lowercase();
        let closes = tag.starts_with('/');
        match name.as_str() {
            // Elements whose content is not visible.
            "head" | "style" | "script" | "title" if !closes => rest = skip_element(rest, &name),
            "a" if closes => out.end_link(),
            "a" => out.open_link = attribute_value(tag, "href"),
            "br" => out.text.push('\n'),
            "img" => out.text.extend(attribute_value(tag, "alt")),
            "td" | "th" if closes => out.text.push(' '),
            "li" if !closes => out.text.push_str("\n- "),
            "tr" => out.text.push('\n'),
            "p" | "div" | "table" | "ul" | "ol" | "h1" | "h2" | "h3" | "h4" | "blockquote" | "pre" | "hr" => {
                out.text.push_str("\n\n");
            }
            _ => {}
        }
    }
    if !rest.starts_with('<') {
        out.push_text(rest);
    }
    normalize_whitespace(&out.text)
}

#[derive(Default)]
struct PlainTextBuilder {
    text: String,
    open_link: Option<String>,
}

impl PlainTextBuilder {
    /// Adds text as HTML displays it: consecutive white space is one space.
    fn push_text(&mut self, html: &str) {
        let text = decode_entities(html);
        count_steps(text.len());
        let mut space = false;
        for c in text.chars() {
            match c {
                ' ' | '\t' | '\r' | '\n' => space = true,
                c => {
                    if space {
                        self.text.push(' ');
                    }
                    space = false;
                    self.text.push(c);
                }
            }
        }
        if space {
            self.text.push(' ');
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

/// The position of the `>` that ends the tag; skips quoted values.
fn find_tag_end(html: &str) -> Option<usize> {
    let mut quote = None;
    html.char_indices().find_map(|(at, c)| {
        count_steps(1);
        match (quote, c) {
            (None, '>') => return Some(at),
            (None, '"' | '\'') => quote = Some(c),
            (Some(open), c) if open == c => quote = None,
            _ => {}
        }
        None
    })
}

fn skip_element<'a>(html: &'a str, name: &str) -> &'a str {
    let close = html
        .match_indices("</")
        .find(|(at, _)| html.get(at + 2..at + 2 + name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name)));
    let rest = close.map_or("", |(at, _)| &html[at..]);
    count_steps(html.len() - rest.len());
    search_text(rest, ">").map_or("", |at| &rest[at + 1..])
}

fn attribute_value(tag: &str, name: &str) -> Option<String> {
    let at = tag.to_ascii_lowercase().find(&format!(" {name}="))? + name.len() + 2;
    let value = &tag[at..];
    let value = match value.chars().next()? {
        quote @ ('"' | '\'') => value[1..].split(quote).next()?,
        _ => value.split(|c: char| c.is_whitespace() || c == '>').next()?,
    };
    Some(decode_entities(value)).filter(|value| !value.is_empty())
}

fn decode_entities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = search_text(rest, "&") {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        count_steps(MAX_ENTITY_BYTES);
        // A search to the end of the text would pass the rest again for each `&`.
        let end = rest.bytes().skip(1).take(MAX_ENTITY_BYTES + 1).position(|byte| byte == b';');
        let entity = end.map(|end| &rest[1..=end]);
        match entity.and_then(|entity| Some((entity, decode_entity(entity)?))) {
            Some((entity, c)) => {
                out.push(c);
                rest = &rest[entity.len() + 2..];
            }
            None => {
                out.push('&');
                rest = &rest[1..];
            }
        }
    }
    out.push_str(rest);
    out
}

fn decode_entity(entity: &str) -> Option<char> {
    let named = [("amp", '&'), ("lt", '<'), ("gt", '>'), ("quot", '"'), ("apos", '\''), ("nbsp", ' ')];
    if let Some((_, c)) =
        named.iter().chain(&[("ndash", '–'), ("mdash", '—'), ("middot", '·')]).find(|(name, _)| *name == entity)
    {
        return Some(*c);
    }
    let number = entity.strip_prefix('#')?;
    let code = match number.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16).ok()?,
        None => number.parse().ok()?,
    };
    char::from_u32(code)
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
    fn broken_html_does_not_loop() {
        for html in ["<", "<a href=", "a < b", "<style>", "&", "&#xffffffff;", "&#0", "<!--", "é<é>é"] {
            html_to_text(html);
        }
        assert_eq!(html_to_text("fish & chips"), "fish & chips\n");
    }
}
