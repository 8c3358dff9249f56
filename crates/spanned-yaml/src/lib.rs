//! Strict YAML with places: one parse to a [`Node`], typed reading that gathers every problem.
//!
//! The only module that names the YAML library.

use afterload_core::error::ErrorCode;

mod de;
mod parse;
mod placeholder;
mod read;
mod read_error;
mod resolved;
mod scalar;
mod skipped;
mod suggest;

pub use parse::parse;
pub use read::sort_diagnostics;
pub use read::{read, read_partial};
pub use resolved::read_resolved;
pub use suggest::{closest_name, suggestion_hint};

/// The name under which a type asks for text with an expression as text and for anything else as the type itself.
pub const TEMPLATED_TYPE_NAME: &str = "$dynamic";

/// A place in a file: line and column from 1 (columns count characters), byte offset and length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceSpan {
    /// Line, from 1.
    pub line: usize,
    /// Column, from 1, in characters.
    pub col: usize,
    /// Byte offset, from 0.
    pub offset: usize,
    /// Length in bytes.
    pub len: usize,
}

/// A YAML value that knows where it stands.
#[derive(Clone, Debug)]
pub struct YamlNode {
    /// Where the value stands.
    pub span: SourceSpan,
    /// What it is.
    pub value: YamlValue,
    /// A number or a boolean as it was written, so that `1.10` stays `1.10` where text is wanted.
    pub source_text: Option<Box<str>>,
    /// How text stands in the file, if it stands there as it is.
    pub verbatim: Option<Verbatim>,
}

/// How text stands in the file exactly as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbatim {
    /// On one line, so many bytes after the start of the span (1 behind a quote).
    Line(usize),
    /// Line by line, each indented like the first.
    Block,
}

/// A YAML value.
#[derive(Clone, Debug)]
pub enum YamlValue {
    /// Nothing, `null` or `~`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    Str(String),
    /// A list.
    Seq(Vec<YamlNode>),
    /// Keys with their places and values, in the order of the file.
    Map(Vec<(YamlKey, YamlNode)>),
}

/// A key of a map and where it stands.
#[derive(Clone, Debug)]
pub struct YamlKey {
    /// The key.
    pub text: String,
    /// Where it stands.
    pub span: SourceSpan,
}

/// One fault of a file, at its place.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// A stable code: `definition_invalid`, `not_supported_yet`, or what a step would fail with.
    pub code: ErrorCode,
    /// Where.
    pub span: SourceSpan,
    /// What is wrong: lower case, no full stop, names in backticks.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
    /// The field that the map at this place lacks, if that is the fault.
    pub missing_field: Option<&'static str>,
}

impl Diagnostic {
    /// A fault at a place.
    pub fn new(code: ErrorCode, span: SourceSpan, message: impl Into<String>) -> Self {
        Self { code, span, message: join_lines(message.into()), hint: None, missing_field: None }
    }

    /// Says what to do; an empty hint is none.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self
    }
}

/// Messages of others may have several lines; of those with a drawing in them (regular expressions) the last says it all.
fn join_lines(message: String) -> String {
    if !message.contains('\n') {
        return message;
    }
    let mut lines = message.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.next().unwrap_or_default();
    match lines.clone().find_map(|line| line.strip_prefix("error: ")) {
        Some(error) => format!("{} {error}", first.trim_end_matches("regex parse error:").trim_end()),
        None => lines.fold(first.to_owned(), |all, line| format!("{all} {line}")),
    }
}

impl YamlNode {
    /// A node of which only the value is known.
    pub fn new(span: SourceSpan, value: YamlValue) -> Self {
        Self { span, value, source_text: None, verbatim: None }
    }

    /// What `text` would be as a plain scalar; where text is wanted it is still this text.
    pub fn from_scalar(span: SourceSpan, text: &str) -> Self {
        match scalar::resolve_scalar(text) {
            YamlValue::Null | YamlValue::Str(_) => Self::new(span, YamlValue::Str(text.to_owned())),
            value => Self { source_text: Some(text.into()), ..Self::new(span, value) },
        }
    }

    /// A piece of a text node: exact if the text stands in the file as it is, else the whole node's place.
    pub fn text_span(&self, at: usize, len: usize) -> SourceSpan {
        let (Some(verbatim), YamlValue::Str(text)) = (self.verbatim, &self.value) else { return self.span };
        let Some(before) = text.get(..at) else { return self.span };
        let SourceSpan { line, col, offset, .. } = self.span;
        match verbatim {
            Verbatim::Line(lead) => {
                SourceSpan { line, col: col + lead + before.chars().count(), offset: offset + lead + at, len }
            }
            Verbatim::Block => {
                let (lines, last) = (before.matches('\n').count(), before.rsplit('\n').next().unwrap_or_default());
                let offset = offset + at + lines * (col - 1);
                SourceSpan { line: line + lines, col: col + last.chars().count(), offset, len }
            }
        }
    }

    /// The text of a text node.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            YamlValue::Str(text) => Some(text),
            _ => None,
        }
    }

    /// The value under `key` of a map.
    pub fn get(&self, key: &str) -> Option<&YamlNode> {
        match &self.value {
            YamlValue::Map(entries) => entries.iter().find(|(name, _)| name.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The key `name` of a map.
    pub fn key(&self, name: &str) -> Option<&YamlKey> {
        match &self.value {
            YamlValue::Map(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(key, _)| key),
            _ => None,
        }
    }

    /// The node at `path` (keys, or numbers for lists), or the deepest one above it that exists.
    pub fn closest_node(&self, path: &[&str]) -> &YamlNode {
        let Some((first, rest)) = path.split_first() else { return self };
        let child = match &self.value {
            YamlValue::Seq(items) => first.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => self.get(first),
        };
        child.map_or(self, |child| child.closest_node(rest))
    }

    /// The same as JSON, without the places.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            YamlValue::Null => serde_json::Value::Null,
            YamlValue::Bool(value) => (*value).into(),
            YamlValue::Int(value) => (*value).into(),
            YamlValue::Float(value) => (*value).into(),
            YamlValue::Str(value) => value.clone().into(),
            YamlValue::Seq(items) => items.iter().map(YamlNode::to_json).collect(),
            YamlValue::Map(entries) => entries
                .iter()
                .map(|(key, node)| (key.text.clone(), node.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }
}
