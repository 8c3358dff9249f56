//! The error of typed reading: a message and, once it is known, the position.

use std::fmt::{self, Display};

use serde::de::{self, Unexpected};

use super::{FaultKind, SourceSpan, YamlNode, suggest};

/// How serde names the expected type in its own visitor of booleans.
const SERDE_EXPECTED_BOOL: &str = "a boolean";

/// Identifies a node by its address while its tree is borrowed.
pub type NodePtr = *const YamlNode;

/// Why a value could not be read.
#[derive(Debug)]
pub struct YamlReadError {
    /// Boxed, because a large error makes every result large.
    pub message: Box<str>,
    pub hint: String,
    /// The position, and the node to skip in order to continue.
    pub location: Option<(SourceSpan, NodePtr)>,
    pub fault: FaultKind,
    /// True if a placeholder caused the error; it is then not reported.
    pub follow_up: bool,
}

impl YamlReadError {
    pub fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into().into_boxed_str(),
            hint: String::new(),
            location: None,
            fault: FaultKind::Other,
            follow_up: false,
        }
    }

    /// Another value was expected. `found` describes the value, if it is known.
    pub fn expected(expected: String, found: Option<&str>) -> Self {
        let found = found.map_or_else(String::new, |found| format!(", found {found}"));
        let message = format!("expected {expected}{found}");
        Self { fault: FaultKind::UnexpectedValue(expected), ..Self::new(message) }
    }

    /// Sets the position unless a nested node has already set one.
    pub fn with_location(mut self, span: SourceSpan, node: &YamlNode) -> Self {
        self.location.get_or_insert((span, std::ptr::from_ref(node)));
        self
    }
}

impl Display for YamlReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for YamlReadError {}

impl de::Error for YamlReadError {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    fn invalid_type(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        let expected = expected.to_string();
        let mut fault = Self::expected(describe_expected(&expected), Some(&describe_found(found)));
        if let (Unexpected::Str(text), SERDE_EXPECTED_BOOL) = (found, expected.as_str()) {
            let meant = match text.to_ascii_lowercase().as_str() {
                "yes" | "on" | "true" | "y" => "write `true`",
                "no" | "off" | "false" | "n" => "write `false`",
                _ => "",
            };
            meant.clone_into(&mut fault.hint);
        }
        fault
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn de::Expected) -> Self {
        Self::expected(describe_expected(&expected.to_string()), Some(&describe_found(found)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        let mut fault = Self::new(format!("unknown value `{variant}`"));
        fault.hint = suggest::suggestion_hint(variant, expected.iter().copied());
        fault
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let mut fault = Self { fault: FaultKind::UnknownField, ..Self::new(format!("unknown field `{field}`")) };
        fault.hint = match expected {
            [] => "no field is expected here".into(),
            _ => suggest::suggestion_hint(field, expected.iter().copied()),
        };
        fault
    }

    fn missing_field(field: &'static str) -> Self {
        Self { fault: FaultKind::MissingField(field), ..Self::new(format!("missing field `{field}`")) }
    }
}

/// Describes the found value in YAML terms, not Rust terms.
fn describe_found(found: Unexpected<'_>) -> String {
    match found {
        Unexpected::Bool(value) => format!("`{value}`"),
        Unexpected::Unsigned(value) => format!("the number {value}"),
        Unexpected::Signed(value) => format!("the number {value}"),
        Unexpected::Float(value) => format!("the number {value}"),
        Unexpected::Str(text) if text.chars().count() > 40 => "text".into(),
        Unexpected::Str(text) => format!("the text `{text}`"),
        Unexpected::Unit | Unexpected::Option => "nothing".into(),
        Unexpected::Seq => "a list".into(),
        Unexpected::Map | Unexpected::NewtypeStruct => "a map".into(),
        other => other.to_string(),
    }
}

/// Describes the expected value in YAML terms, not Rust terms.
fn describe_expected(expected: &str) -> String {
    let words = match expected {
        "a string" | "a borrowed string" | "str" => "text",
        SERDE_EXPECTED_BOOL => "`true` or `false`",
        "u8" | "u16" | "u32" | "u64" | "usize" => "a whole number from 0 on",
        "nonzero u32" | "a nonzero u32" | "a nonzero usize" | "a nonzero u64" => "a whole number from 1 on",
        "i8" | "i16" | "i32" | "i64" | "isize" => "a whole number",
        "f32" | "f64" => "a number",
        "a sequence" | "an array" => "a list",
        "string or map" | "variant identifier" => "one of the known words",
        _ if expected.starts_with("struct ") || expected.starts_with("map") => "a map",
        _ if expected.starts_with("enum ") => "one of the known words",
        _ => expected,
    };
    words.to_owned()
}
