//! The pictures that travel with a mail: its HTML shows them as `cid:NAME`.

use std::cell::RefCell;
use std::collections::BTreeSet;

use html5ever::tendril::StrTendril;
use html5ever::tokenizer::states::RawKind;
use html5ever::tokenizer::{BufferQueue, TagKind, Token, TokenSink, TokenSinkResult, Tokenizer, TokenizerOpts};

use afterload_core::work::count_steps;

const CID_SCHEME: &str = "cid:";
const MAX_NAME_LEN: usize = 60;
/// The attributes that name pictures.
const URL_ATTRIBUTES: [&str; 8] = ["background", "data", "href", "poster", "src", "srcset", "style", "xlink:href"];

/// True for the name of an inline picture.
pub fn is_content_id(name: &str) -> bool {
    (1..=MAX_NAME_LEN).contains(&name.len()) && name.chars().all(is_name_char)
}

fn is_name_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-')
}

/// The names in the `cid:` URLs of HTML. A character that no name has ends a name; U+FFFD stays in it, because it stands for
/// what is not known yet.
pub fn find_content_ids(html: &str) -> BTreeSet<String> {
    count_steps(html.len());
    if !html.as_bytes().windows(CID_SCHEME.len()).any(|part| part.eq_ignore_ascii_case(CID_SCHEME.as_bytes())) {
        return BTreeSet::new();
    }
    let input = BufferQueue::default();
    input.push_back(StrTendril::from(html));
    let tokenizer = Tokenizer::new(PictureSink::default(), TokenizerOpts::default());
    // The tokenizer pauses only if the sink asks for it.
    let _ = tokenizer.feed(&input);
    tokenizer.end();
    tokenizer.sink.0.into_inner().names
}

#[derive(Default)]
struct PictureSink(RefCell<FoundPictures>);

#[derive(Default)]
struct FoundPictures {
    names: BTreeSet<String>,
    /// True between `<style>` and its end.
    in_style: bool,
}

impl TokenSink for PictureSink {
    type Handle = ();

    fn process_token(&self, token: Token, _line: u64) -> TokenSinkResult<()> {
        count_steps(1);
        let mut found = self.0.borrow_mut();
        match token {
            Token::TagToken(tag) => {
                for attribute in tag.attrs.iter().filter(|attribute| URL_ATTRIBUTES.contains(&&*attribute.name.local)) {
                    found.add_names(&attribute.value);
                }
                found.in_style = &*tag.name == "style" && tag.kind == TagKind::StartTag;
                if found.in_style {
                    return TokenSinkResult::RawData(RawKind::Rawtext);
                }
            }
            Token::CharacterTokens(text) if found.in_style => found.add_names(&text),
            // One mail program reads conditional comments as elements.
            Token::CommentToken(text) => found.add_names(&text),
            _ => {}
        }
        TokenSinkResult::Continue
    }
}

impl FoundPictures {
    fn add_names(&mut self, text: &str) {
        count_steps(text.len());
        let lower = text.to_ascii_lowercase();
        for (at, scheme) in lower.match_indices(CID_SCHEME) {
            if lower[..at].ends_with(|c: char| c.is_ascii_alphanumeric()) {
                continue;
            }
            let rest = &text[at + scheme.len()..];
            let end = rest.find(|c: char| !is_name_char(c) && c != char::REPLACEMENT_CHARACTER).unwrap_or(rest.len());
            self.names.insert(rest[..end].to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use afterload_core::work::assert_linear;

    use super::*;

    #[test]
    fn pictures_are_found_where_programs_look_for_them() {
        for (html, names) in [
            ("<img src=\"cid:logo\"><IMG SRC='CID:Photo.1'>", vec!["Photo.1", "logo"]),
            ("<td background=cid:a><img srcset='cid:b 1x, cid:c 2x'>", vec!["a", "b", "c"]),
            ("<p style=\"background: url('cid:a')\">x</p>", vec!["a"]),
            ("<style>.x { background: url(cid:a) }</style>cid:b <p title='cid:c'>cid:d", vec!["a"]),
            ("<!--[if mso]><v:image src=\"cid:a\"/><![endif]-->", vec!["a"]),
            ("<a href='https://x.example/?acid:b'>placid:c</a>", vec![]),
            ("<img src='cid:'><img src='cid:x\u{fffd}y z'>", vec!["", "x\u{fffd}y"]),
            ("no picture", vec![]),
        ] {
            let expected: BTreeSet<_> = names.into_iter().map(str::to_owned).collect();
            assert_eq!(find_content_ids(html), expected, "{html}");
        }
    }

    #[test]
    fn names_of_pictures_are_plain() {
        assert!(is_content_id("logo-1.x_y") && !is_content_id("") && !is_content_id("a b") && !is_content_id("ü"));
    }

    #[test]
    fn hostile_html_takes_linear_work() {
        for shape in ["cid:", "<img src=cid:a>", "<!--cid:", "<style>cid:a", "<img src='", "<a href=cid:cid:"] {
            assert_linear(shape, |count| shape.repeat(count), |text| drop(find_content_ids(text)));
        }
    }
}
