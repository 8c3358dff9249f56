//! Reading forms without files, and queries, which have the same format.

use axum::body::{Body, to_bytes};
use url::form_urlencoded;

use crate::codes;
use afterload_core::error::{Error, Result};

/// The most bytes of a form without files.
const MAX_FORM_BYTES: usize = 1 << 20;

/// Reads a form without files.
///
/// # Errors
/// `body_too_large`
pub(crate) async fn read_form(body: Body) -> Result<Vec<(String, String)>> {
    let bytes = to_bytes(body, MAX_FORM_BYTES).await;
    let bytes =
        bytes.map_err(|error| Error::new(codes::BODY_TOO_LARGE, format!("the form cannot be read: {error}")))?;
    Ok(parse_form(&bytes))
}

/// The fields of a form or a query.
pub(crate) fn parse_form(bytes: &[u8]) -> Vec<(String, String)> {
    form_urlencoded::parse(bytes).into_owned().collect()
}

/// The first field with this name; empty without one.
pub(crate) fn field<'a>(form: &'a [(String, String)], name: &str) -> &'a str {
    form.iter().find(|(found, _)| found == name).map_or("", |(_, value)| value.as_str())
}

/// A query of these fields, without the empty ones.
pub(crate) fn to_query(fields: &[(&str, &str)]) -> String {
    let given = fields.iter().filter(|(_, value)| !value.is_empty());
    form_urlencoded::Serializer::new(String::new()).extend_pairs(given).finish()
}

/// A name as a part of a path.
pub(crate) fn path_part(name: &str) -> String {
    form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20")
}
