//! One pass over the parser's events: a tree of nodes, with the limits and what is not allowed checked on the way.

use std::collections::HashMap;

use serde_yaml::granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span as Range};

use super::{Key, Node, Problem, Span, Value, Verbatim, scalar};

/// The largest text in bytes.
const MAX_BYTES: usize = 256 * 1024;
/// How deep lists and maps may be nested.
const MAX_DEPTH: usize = 32;
/// How many values and keys a text may hold.
const MAX_NODES: usize = 20_000;
/// How many problems are worth gathering; a bomb has thousands.
const MAX_PROBLEMS: usize = 50;

/// Reads one document of at most 256 KiB, 32 levels and 20,000 nodes. Refuses anchors, aliases, tags, duplicate keys,
/// keys that are not text and further documents. An empty text is null; only `true` and `false` are booleans.
///
/// # Errors
/// The problems of the text, at least one.
pub fn parse(text: &str) -> Result<Node, Vec<Problem>> {
    if text.len() > MAX_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_BYTES} are allowed", text.len());
        return Err(vec![invalid(start(), message)]);
    }
    let mut options = Options::default();
    options.emit_anchor_events = true;
    options.emit_unresolved_aliases = true;
    options.set_emit_comments(false);
    let mut tree = Tree { text, ..Tree::default() };
    for event in Parser::new_from_str_with_options(text, options) {
        let more = match event {
            Ok((event, range)) => tree.event(event, span(&range)),
            Err(error) => {
                tree.problems.push(syntax(&error));
                false
            }
        };
        if !more || tree.problems.len() >= MAX_PROBLEMS {
            break;
        }
    }
    match tree.problems.is_empty() {
        true => Ok(tree.root.unwrap_or_else(|| Node::new(start(), Value::Null))),
        false => Err(super::read::sorted(tree.problems)),
    }
}

#[derive(Default)]
struct Tree<'a> {
    text: &'a str,
    open: Vec<Open>,
    root: Option<Node>,
    documents: usize,
    nodes: usize,
    problems: Vec<Problem>,
}

/// A list or map that has not ended yet.
enum Open {
    Seq(Span, Vec<Node>),
    Map { span: Span, entries: Vec<(Key, Node)>, key: Option<Key>, seen: HashMap<String, usize> },
}

impl Tree<'_> {
    /// Takes the next event; false when there is no point in going on.
    fn event(&mut self, event: Event<'_>, span: Span) -> bool {
        match event {
            Event::DocumentStart(..) => {
                self.documents += 1;
                if self.documents > 1 {
                    self.problem(span, "a second document starts here", "keep one document per file; remove `---`");
                    return false;
                }
            }
            Event::Anchor(_, name) => {
                let message = format!("anchors are not allowed, such as `&{name}`");
                self.problem(span, message, "write the value out where it is needed");
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.problem(span, "aliases are not allowed", "write the value out where it is needed");
                return self.put(Node::new(span, Value::Null));
            }
            Event::Scalar(value, style, _, tag) => {
                if tag.is_some() {
                    self.problem(span, "tags are not allowed", "put text in quotes and leave the tag out");
                }
                let node = self.scalar(&value, style, span);
                return self.put(node);
            }
            Event::SequenceStart(_, _, tag) => return self.begin(Open::Seq(span, Vec::new()), tag.is_some(), span),
            Event::MappingStart(_, _, tag) => {
                let map = Open::Map { span, entries: Vec::new(), key: None, seen: HashMap::new() };
                return self.begin(map, tag.is_some(), span);
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::Seq(span, items)) => return self.put(Node::new(span, Value::Seq(items))),
                Some(Open::Map { span, entries, .. }) => return self.put(Node::new(span, Value::Map(entries))),
                None => return false,
            },
            _ => {}
        }
        true
    }

    fn begin(&mut self, open: Open, tagged: bool, span: Span) -> bool {
        if tagged {
            self.problem(span, "tags are not allowed", "leave the tag out");
        }
        self.open.push(open);
        if self.open.len() > MAX_DEPTH {
            self.problem(span, too_deep(), "");
            return false;
        }
        true
    }

    fn scalar(&self, value: &str, style: ScalarStyle, span: Span) -> Node {
        let source = self.text.get(span.offset..span.offset + span.len).unwrap_or_default().trim_end();
        let plain = style == ScalarStyle::Plain;
        let lead = usize::from(!plain);
        let inside = source.get(lead..source.len().saturating_sub(lead));
        let resolved = if plain { scalar::resolve(value) } else { Value::Str(value.to_owned()) };
        let text = matches!(resolved, Value::Str(_));
        Node {
            span,
            written: (!text).then(|| value.into()),
            verbatim: match style {
                _ if !text => None,
                ScalarStyle::Literal => (!value.starts_with(['\n', ' '])).then_some(Verbatim::Block),
                _ => (inside == Some(value) && !value.contains('\n')).then_some(Verbatim::Line(lead)),
            },
            value: resolved,
        }
    }

    /// Puts a finished node where it belongs: into the list or map around it, as a key, or as the root.
    fn put(&mut self, node: Node) -> bool {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            self.problem(node.span, format!("more than {MAX_NODES} values in one file"), "");
            return false;
        }
        match self.open.last_mut() {
            None => self.root = Some(node),
            Some(Open::Seq(_, items)) => items.push(node),
            Some(Open::Map { entries, key, seen, .. }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let (text, fault) = key_text(&node);
                    let first = seen.insert(text.clone(), node.span.line);
                    *key = Some(Key { text: text.clone(), span: node.span });
                    if let Some((message, hint)) = fault {
                        self.problem(node.span, message, hint);
                    } else if let Some(line) = first {
                        let hint = format!("it stands already on line {line}");
                        self.problem(node.span, format!("duplicate key `{text}`"), hint);
                    }
                }
            },
        }
        true
    }

    fn problem(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.problems.push(invalid(span, message).hint(hint));
    }
}

type Fault = (String, String);

/// The text of a key, and what is wrong with it.
fn key_text(node: &Node) -> (String, Option<Fault>) {
    match (&node.value, &node.written) {
        (Value::Str(text), _) => (text.clone(), None),
        (Value::Seq(_) | Value::Map(_), _) => {
            let hint = "a value that starts with `{` or `[` and is text must be quoted";
            (String::new(), Some(("a list or map cannot be a key".into(), hint.into())))
        }
        (Value::Null, _) => (String::new(), Some(("a key is missing before `:`".into(), String::new()))),
        (_, written) => {
            let text = written.as_deref().unwrap_or_default().to_owned();
            let fault = (format!("key `{text}` is not text"), format!("put it in quotes: `\"{text}\"`"));
            (text, Some(fault))
        }
    }
}

fn syntax(error: &ScanError) -> Problem {
    let mark = error.marker();
    let at = Span { line: mark.line().max(1), col: mark.col() + 1, offset: mark.byte_offset().unwrap_or(0), len: 1 };
    if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
        return invalid(at, too_deep());
    }
    let info = error.info();
    let mut chars = info.trim_end_matches('.').chars();
    let message: String = chars.next().map(|first| first.to_ascii_lowercase()).into_iter().chain(chars).collect();
    let hint = match error.kind() {
        ErrorKind::TabNotAllowed | ErrorKind::TabInBlockIndentation | ErrorKind::TabInIndentation => {
            "indent with spaces"
        }
        _ => "",
    };
    invalid(at, format!("not valid YAML: {message}")).hint(hint)
}

fn too_deep() -> String {
    format!("lists and maps are nested more than {MAX_DEPTH} deep")
}

fn start() -> Span {
    Span { line: 1, col: 1, offset: 0, len: 0 }
}

fn span(range: &Range) -> Span {
    let offset = range.start.byte_offset().unwrap_or(0);
    let end = range.end.byte_offset().unwrap_or(offset);
    Span { line: range.start.line().max(1), col: range.start.col() + 1, offset, len: end.saturating_sub(offset) }
}

fn invalid(span: Span, message: impl Into<String>) -> Problem {
    Problem::new("definition_invalid", span, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn places(text: &str) -> Vec<(usize, usize)> {
        let problems = parse(text).expect_err("the text is refused");
        problems.iter().map(|problem| (problem.span.line, problem.span.col)).collect()
    }

    #[test]
    fn nodes_know_where_they_stand() {
        let root = parse("a: 1.10\nü: 'x y'\nb:\n  - |\n    one\n    two ${{ x }}\n").expect("valid");
        let number = root.get("a").expect("a");
        assert_eq!((number.span.line, number.span.col, number.span.len), (1, 4, 4));
        assert_eq!(number.written.as_deref(), Some("1.10"));
        let text = root.get("ü").expect("ü").part(2, 1);
        assert_eq!((text.line, text.col, text.offset), (2, 7, 15));
        let block = root.nearest(&["b", "0"]);
        let part = block.part(block.as_str().and_then(|text| text.find("x")).expect("x"), 1);
        assert_eq!((part.line, part.col), (6, 13));
    }

    #[test]
    fn empty_texts_are_null_and_a_byte_order_mark_is_nothing() {
        for text in ["", "\u{feff}", "# only a comment\n", "---\n"] {
            assert!(matches!(parse(text).expect("valid").value, Value::Null), "{text:?}");
        }
        let root = parse("\u{feff}a: b").expect("valid");
        assert_eq!(root.get("a").and_then(Node::as_str), Some("b"));
    }

    #[test]
    fn every_fault_is_gathered() {
        assert_eq!(places("a: &x 1\na: *x\n2: *y\n"), [(1, 4), (2, 1), (2, 4), (3, 1), (3, 4)]);
    }

    #[test]
    fn depth_and_number_are_limited() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(&nested(32)).is_ok());
        assert!(parse(&nested(33)).is_err());
        let block: String = (0..40).map(|depth| format!("{}a:\n", " ".repeat(depth))).collect();
        assert!(parse(&block).expect_err("too deep")[0].message.contains("32"));
        assert!(parse(&"- a\n".repeat(19_000)).is_ok());
        assert!(parse(&"- a\n".repeat(21_000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC*|[-:,{}\\[\\]&*!|>'\"%@#? \n\ta-c0-2.]{0,60}") {
            if let Ok(root) = parse(&text) {
                let _ = super::super::read::<serde_json::Value>(&root);
            }
        }
    }
}
