//! Builds the node tree in one pass over the parser's events, and checks limits and forbidden syntax on the way.

use std::collections::HashMap;

use serde_yaml::granit_parser::{ErrorKind, Event, Options, Parser, ScalarStyle, ScanError, Span as Range};

use super::{Diagnostic, SourceSpan, Verbatim, YamlKey, YamlNode, YamlValue, scalar};
use afterload_core::codes;

const MAX_YAML_BYTES: usize = 256 * 1024;
/// How deep lists and maps may be nested.
const MAX_YAML_DEPTH: usize = 32;
/// The maximum number of values and keys in a text.
const MAX_YAML_NODES: usize = 20_000;
/// The maximum number of diagnostics to collect; a malicious file has thousands.
const MAX_DIAGNOSTICS: usize = 50;

/// Parses one document of at most 256 KiB, 32 levels and 20,000 nodes. Rejects anchors, aliases, tags, duplicate keys,
/// keys that are not text, and further documents. An empty text is null; only `true` and `false` are booleans.
///
/// # Errors
/// The diagnostics of the text, at least one.
pub fn parse(text: &str) -> Result<YamlNode, Vec<Diagnostic>> {
    if text.len() > MAX_YAML_BYTES {
        let message = format!("the file has {} bytes; at most {MAX_YAML_BYTES} are allowed", text.len());
        return Err(vec![invalid_definition(document_start(), message)]);
    }
    let mut options = Options::default();
    options.emit_anchor_events = true;
    options.emit_unresolved_aliases = true;
    options.set_emit_comments(false);
    let mut tree = TreeBuilder { text, ..TreeBuilder::default() };
    for event in Parser::new_from_str_with_options(text, options) {
        let more = match event {
            Ok((event, range)) => tree.handle_event(event, to_source_span(&range)),
            Err(error) => {
                tree.diagnostics.push(syntax_diagnostic(&error));
                false
            }
        };
        if !more || tree.diagnostics.len() >= MAX_DIAGNOSTICS {
            break;
        }
    }
    match tree.diagnostics.is_empty() {
        true => Ok(tree.root.unwrap_or_else(|| YamlNode::new(document_start(), YamlValue::Null))),
        false => Err(super::read::sort_diagnostics(tree.diagnostics)),
    }
}

#[derive(Default)]
struct TreeBuilder<'a> {
    text: &'a str,
    open_collections: Vec<OpenCollection>,
    root: Option<YamlNode>,
    document_count: usize,
    node_count: usize,
    diagnostics: Vec<Diagnostic>,
}

/// A list or map that has not ended yet.
enum OpenCollection {
    Seq(SourceSpan, Vec<YamlNode>),
    Map { span: SourceSpan, entries: Vec<(YamlKey, YamlNode)>, key: Option<YamlKey>, seen: HashMap<String, usize> },
}

impl TreeBuilder<'_> {
    /// Handles the next event. Returns false if parsing cannot continue.
    fn handle_event(&mut self, event: Event<'_>, span: SourceSpan) -> bool {
        match event {
            Event::DocumentStart(..) => {
                self.document_count += 1;
                if self.document_count > 1 {
                    self.add_diagnostic(
                        span,
                        "a second document starts here",
                        "keep one document per file; remove `---`",
                    );
                    return false;
                }
            }
            Event::Anchor(_, name) => {
                let message = format!("anchors are not allowed, such as `&{name}`");
                self.add_diagnostic(span, message, "write the value out where it is needed");
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.add_diagnostic(span, "aliases are not allowed", "write the value out where it is needed");
                return self.add_node(YamlNode::new(span, YamlValue::Null));
            }
            Event::Scalar(value, style, _, tag) => {
                if tag.is_some() {
                    self.add_diagnostic(span, "tags are not allowed", "put text in quotes and leave the tag out");
                }
                let node = self.scalar_node(&value, style, span);
                return self.add_node(node);
            }
            Event::SequenceStart(_, _, tag) => {
                return self.open_collection(OpenCollection::Seq(span, Vec::new()), tag.is_some(), span);
            }
            Event::MappingStart(_, _, tag) => {
                let map = OpenCollection::Map { span, entries: Vec::new(), key: None, seen: HashMap::new() };
                return self.open_collection(map, tag.is_some(), span);
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open_collections.pop() {
                Some(OpenCollection::Seq(span, items)) => {
                    return self.add_node(YamlNode::new(span, YamlValue::Seq(items)));
                }
                Some(OpenCollection::Map { span, entries, .. }) => {
                    return self.add_node(YamlNode::new(span, YamlValue::Map(entries)));
                }
                None => return false,
            },
            _ => {}
        }
        true
    }

    fn open_collection(&mut self, open: OpenCollection, tagged: bool, span: SourceSpan) -> bool {
        if tagged {
            self.add_diagnostic(span, "tags are not allowed", "leave the tag out");
        }
        self.open_collections.push(open);
        if self.open_collections.len() > MAX_YAML_DEPTH {
            self.add_diagnostic(span, too_deep_message(), "");
            return false;
        }
        true
    }

    fn scalar_node(&self, value: &str, style: ScalarStyle, span: SourceSpan) -> YamlNode {
        let source = self.text.get(span.offset..span.offset + span.len).unwrap_or_default().trim_end();
        let plain = style == ScalarStyle::Plain;
        let lead = usize::from(!plain);
        let inside = source.get(lead..source.len().saturating_sub(lead));
        let resolved = if plain { scalar::resolve_scalar(value) } else { YamlValue::Str(value.to_owned()) };
        let text = matches!(resolved, YamlValue::Str(_));
        YamlNode {
            span,
            source_text: (!text).then(|| value.into()),
            verbatim: match style {
                _ if !text => None,
                ScalarStyle::Literal => (!value.starts_with(['\n', ' '])).then_some(Verbatim::Block),
                _ => (inside == Some(value) && !value.contains('\n')).then_some(Verbatim::Line(lead)),
            },
            value: resolved,
        }
    }

    /// Adds a finished node to the enclosing list or map, or as the root.
    fn add_node(&mut self, node: YamlNode) -> bool {
        self.node_count += 1;
        if self.node_count > MAX_YAML_NODES {
            self.add_diagnostic(node.span, format!("more than {MAX_YAML_NODES} values in one file"), "");
            return false;
        }
        match self.open_collections.last_mut() {
            None => self.root = Some(node),
            Some(OpenCollection::Seq(_, items)) => items.push(node),
            Some(OpenCollection::Map { entries, key, seen, .. }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let (text, fault) = check_key(&node);
                    let first = seen.insert(text.clone(), node.span.line);
                    *key = Some(YamlKey { text: text.clone(), span: node.span });
                    if let Some((message, hint)) = fault {
                        self.add_diagnostic(node.span, message, hint);
                    } else if let Some(line) = first {
                        let hint = format!("it stands already on line {line}");
                        self.add_diagnostic(node.span, format!("duplicate key `{text}`"), hint);
                    }
                }
            },
        }
        true
    }

    fn add_diagnostic(&mut self, span: SourceSpan, message: impl Into<String>, hint: impl Into<String>) {
        self.diagnostics.push(invalid_definition(span, message).with_hint(hint));
    }
}

type InvalidKey = (String, String);

/// The text of a key, and its problem if it is not a valid key.
fn check_key(node: &YamlNode) -> (String, Option<InvalidKey>) {
    match (&node.value, &node.source_text) {
        (YamlValue::Str(text), _) => (text.clone(), None),
        (YamlValue::Seq(_) | YamlValue::Map(_), _) => {
            let hint = "a value that starts with `{` or `[` and is text must be quoted";
            (String::new(), Some(("a list or map cannot be a key".into(), hint.into())))
        }
        // A field may be called so.
        (YamlValue::Null, Some(written)) if written.as_ref() == "null" => ("null".to_owned(), None),
        (YamlValue::Null, _) => (String::new(), Some(("a key is missing before `:`".into(), String::new()))),
        (_, written) => {
            let text = written.as_deref().unwrap_or_default().to_owned();
            let fault = (format!("key `{text}` is not text"), format!("put it in quotes: `\"{text}\"`"));
            (text, Some(fault))
        }
    }
}

fn syntax_diagnostic(error: &ScanError) -> Diagnostic {
    let mark = error.marker();
    let at =
        SourceSpan { line: mark.line().max(1), col: mark.col() + 1, offset: mark.byte_offset().unwrap_or(0), len: 1 };
    if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
        return invalid_definition(at, too_deep_message());
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
    invalid_definition(at, format!("not valid YAML: {message}")).with_hint(hint)
}

fn too_deep_message() -> String {
    format!("lists and maps are nested more than {MAX_YAML_DEPTH} deep")
}

fn document_start() -> SourceSpan {
    SourceSpan { line: 1, col: 1, offset: 0, len: 0 }
}

fn to_source_span(range: &Range) -> SourceSpan {
    let offset = range.start.byte_offset().unwrap_or(0);
    let end = range.end.byte_offset().unwrap_or(offset);
    SourceSpan { line: range.start.line().max(1), col: range.start.col() + 1, offset, len: end.saturating_sub(offset) }
}

fn invalid_definition(span: SourceSpan, message: impl Into<String>) -> Diagnostic {
    Diagnostic::new(codes::DEFINITION_INVALID, span, message)
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
    fn nodes_have_exact_spans() {
        let root = parse("a: 1.10\nü: 'x y'\nb:\n  - |\n    one\n    two ${{ x }}\n").expect("valid");
        let number = root.get("a").expect("a");
        assert_eq!((number.span.line, number.span.col, number.span.len), (1, 4, 4));
        assert_eq!(number.source_text.as_deref(), Some("1.10"));
        let text = root.get("ü").expect("ü").text_span(2, 1);
        assert_eq!((text.line, text.col, text.offset), (2, 7, 15));
        let block = root.closest_node(&["b", "0"]);
        let part = block.text_span(block.as_str().and_then(|text| text.find("x")).expect("x"), 1);
        assert_eq!((part.line, part.col), (6, 13));
    }

    #[test]
    fn field_may_be_called_null() {
        let root = parse("null: a\n").expect("valid");
        assert_eq!(root.get("null").and_then(YamlNode::as_str), Some("a"));
        assert_eq!(places("~: a\n"), [(1, 1)]);
        assert_eq!(places("null: a\n\"null\": b\n"), [(2, 1)]);
    }

    #[test]
    fn empty_texts_are_null_and_byte_order_marks_are_ignored() {
        for text in ["", "\u{feff}", "# only a comment\n", "---\n"] {
            assert!(matches!(parse(text).expect("valid").value, YamlValue::Null), "{text:?}");
        }
        let root = parse("\u{feff}a: b").expect("valid");
        assert_eq!(root.get("a").and_then(YamlNode::as_str), Some("b"));
    }

    #[test]
    fn all_syntax_problems_are_collected() {
        assert_eq!(places("a: &x 1\na: *x\n2: *y\n"), [(1, 4), (2, 1), (2, 4), (3, 1), (3, 4)]);
    }

    #[test]
    fn nesting_and_node_count_are_limited() {
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
        fn parse_never_panics(text in "\\PC*|[-:,{}\\[\\]&*!|>'\"%@#? \n\ta-c0-2.]{0,60}") {
            if let Ok(root) = parse(&text) {
                let _ = super::super::read::<serde_json::Value>(&root);
            }
        }
    }
}
