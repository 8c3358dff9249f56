//! Strict YAML with source positions: one parse to a [`YamlNode`], and typed reading that reports every problem.
//!
//! No other crate uses the YAML library.

use afterload_core::decimal::{is_number_text, keeps_every_digit};
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
pub use resolved::{ResolvedFault, read_resolved};
pub use suggest::{closest_name, suggestion_hint};

/// The name under which a type asks for text with an expression as text and for anything else as the type itself.
pub const TEMPLATED_TYPE_NAME: &str = "$dynamic";

/// A position in a file: line and column from 1 (columns count characters), byte offset and length.
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

/// A YAML value with its position.
#[derive(Clone, Debug)]
pub struct YamlNode {
    /// The position of the value.
    pub span: SourceSpan,
    /// The value.
    pub value: YamlValue,
    /// The source text of a number or a boolean, so that `1.10` stays `1.10` where text is expected.
    pub source_text: Option<Box<str>>,
    /// How a text is written in the file, if it is written without escapes or folding.
    pub verbatim: Option<Verbatim>,
}

/// How a text that is written without escapes or folding stands in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verbatim {
    /// On one line, this many bytes after the start of the span (1 after a quote).
    Line(usize),
    /// On several lines, each indented like the first.
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
    /// Keys and values with their positions, in file order.
    Map(Vec<(YamlKey, YamlNode)>),
}

/// A number that neither an `i64` nor a float holds.
pub(crate) enum ExactNumber<'a> {
    /// It fits an unsigned integer.
    Whole(u64),
    /// It fits no number of JSON.
    Text(&'a str),
}

/// A key of a map with its position.
#[derive(Clone, Debug)]
pub struct YamlKey {
    /// The key.
    pub text: String,
    /// The position of the key.
    pub span: SourceSpan,
}

/// A problem of a file, with its position.
#[derive(Clone, Debug)]
pub struct Diagnostic {
    /// A stable code: `definition_invalid`, `not_supported_yet`, or the error code of a step.
    pub code: ErrorCode,
    /// The position.
    pub span: SourceSpan,
    /// What is wrong: lower case, no full stop, names in backticks.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
    /// Which fault it is. Code decides by this and never by the message.
    pub fault: FaultKind,
}

/// The fault of a diagnostic, as far as code has to know it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum FaultKind {
    /// The map at this place lacks a field.
    MissingField(&'static str),
    /// The map at this place has an unknown field.
    UnknownField,
    /// The value is not what is expected. The text names what is expected and quotes nothing of the value.
    UnexpectedValue(String),
    /// Any other fault. Its message may quote the value.
    #[default]
    Other,
}

impl FaultKind {
    /// The missing field, if that is the fault.
    pub fn missing_field(&self) -> Option<&'static str> {
        match self {
            Self::MissingField(name) => Some(name),
            _ => None,
        }
    }
}

impl Diagnostic {
    /// Creates a diagnostic.
    pub fn new(code: ErrorCode, span: SourceSpan, message: impl Into<String>) -> Self {
        Self { code, span, message: join_lines(message.into()), hint: None, fault: FaultKind::Other }
    }

    /// The message without what it quotes of the value, which may be a secret. `None` if it cannot do without.
    pub fn message_without_value(&self) -> Option<String> {
        match &self.fault {
            FaultKind::MissingField(_) | FaultKind::UnknownField => Some(self.message.clone()),
            FaultKind::UnexpectedValue(expected) => Some(format!("expected {expected}")),
            FaultKind::Other => None,
        }
    }

    /// Adds a hint; an empty one is ignored.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into()).filter(|hint| !hint.is_empty());
        self
    }
}

/// Messages of libraries may have several lines. If they contain a drawing (regular expressions), the last line is the
/// message.
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
    /// Creates a node from a value that is not in a file as such.
    pub fn new(span: SourceSpan, value: YamlValue) -> Self {
        Self { span, value, source_text: None, verbatim: None }
    }

    /// Reads `text` as a plain scalar. Where text is expected, it still reads as `text`.
    pub fn from_scalar(span: SourceSpan, text: &str) -> Self {
        match scalar::resolve_scalar(text) {
            YamlValue::Null | YamlValue::Str(_) => Self::new(span, YamlValue::Str(text.to_owned())),
            value => Self { source_text: Some(text.into()), ..Self::new(span, value) },
        }
    }

    /// The span of a part of a text node: exact if the text is written verbatim, else the span of the whole node.
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

    /// The value of `key` in a map.
    pub fn get(&self, key: &str) -> Option<&YamlNode> {
        match &self.value {
            YamlValue::Map(entries) => entries.iter().find(|(name, _)| name.text == key).map(|(_, node)| node),
            _ => None,
        }
    }

    /// The key `name` of a map, with its position.
    pub fn key(&self, name: &str) -> Option<&YamlKey> {
        match &self.value {
            YamlValue::Map(entries) => entries.iter().find(|(key, _)| key.text == name).map(|(key, _)| key),
            _ => None,
        }
    }

    /// The node at `path` (keys, or numbers for lists), or the deepest existing node above it.
    pub fn closest_node(&self, path: &[&str]) -> &YamlNode {
        let Some((first, rest)) = path.split_first() else { return self };
        let child = match &self.value {
            YamlValue::Seq(items) => first.parse::<usize>().ok().and_then(|index| items.get(index)),
            _ => self.get(first),
        };
        child.map_or(self, |child| child.closest_node(rest))
    }

    /// The number as it is written, if a float would change it.
    pub(crate) fn exact_number(&self) -> Option<ExactNumber<'_>> {
        let (YamlValue::Float(_), Some(text)) = (&self.value, self.source_text.as_deref()) else { return None };
        match text.parse() {
            Ok(whole) => Some(ExactNumber::Whole(whole)),
            Err(_) => (is_number_text(text) && !keeps_every_digit(text)).then_some(ExactNumber::Text(text)),
        }
    }

    /// Converts the node to JSON, without positions.
    pub fn to_json(&self) -> serde_json::Value {
        match self.exact_number() {
            Some(ExactNumber::Whole(whole)) => return whole.into(),
            Some(ExactNumber::Text(text)) => return text.into(),
            None => {}
        }
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
