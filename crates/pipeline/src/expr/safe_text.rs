//! Text that an author trusts, so that it is put into a URL or into HTML as it is.

use std::fmt;
use std::sync::Arc;

use minijinja::value::{Object, ObjectRepr};
use minijinja::{Error, ErrorKind, Value};

use super::super::step_kind::ValueEncoding;

/// The filter that puts a value into a URL as it is.
pub(super) const SAFE_URL_FILTER: &str = "safe_url";
/// The filter that puts a value into HTML as it is.
pub(super) const SAFE_HTML_FILTER: &str = "safe_html";

/// A text that is not encoded.
#[derive(Debug)]
struct SafeText {
    text: String,
    /// The only encoding that it needs not.
    encoding: ValueEncoding,
}

impl Object for SafeText {
    fn repr(self: &Arc<Self>) -> ObjectRepr {
        ObjectRepr::Plain
    }

    fn render(self: &Arc<Self>, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The text of a value that is marked as safe for this encoding.
pub(super) fn find_safe_text(value: &Value, encoding: ValueEncoding) -> Option<&str> {
    let safe = value.downcast_object_ref::<SafeText>()?;
    (safe.encoding == encoding).then_some(safe.text.as_str())
}

/// The filter `safe_url`.
pub(super) fn mark_safe_url(value: &Value) -> Result<Value, Error> {
    mark_safe(value, ValueEncoding::Url, SAFE_URL_FILTER)
}

/// The filter `safe_html`.
pub(super) fn mark_safe_html(value: &Value) -> Result<Value, Error> {
    mark_safe(value, ValueEncoding::Html, SAFE_HTML_FILTER)
}

fn mark_safe(value: &Value, encoding: ValueEncoding, filter: &str) -> Result<Value, Error> {
    if find_safe_text(value, encoding).is_some() {
        return Ok(value.clone());
    }
    let text = value.as_str().ok_or_else(|| {
        Error::new(ErrorKind::InvalidOperation, format!("`{filter}` expects text, not {}", value.kind()))
    })?;
    Ok(Value::from_object(SafeText { text: text.to_owned(), encoding }))
}
