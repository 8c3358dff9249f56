//! Reading the bytes of a form's parts, and what errors of the parser mean.

use std::time::Duration;

use bytes::Bytes;
use multer::Field;

use super::extract::request_timeout;
use crate::codes;
use afterload_core::error::{Error, Result};

/// How long a client may pause.
pub(super) const FORM_IDLE_TIMEOUT: Duration = Duration::from_secs(60);

/// Reads the next bytes of a part; `None` at its end.
pub(super) async fn next_chunk(field: &mut Field<'_>) -> Result<Option<Bytes>> {
    let next = tokio::time::timeout(FORM_IDLE_TIMEOUT, field.chunk()).await;
    next.map_err(|_| request_timeout())?.map_err(multipart_error)
}

/// Converts an error of the parser. An error of this crate inside it is returned unchanged.
pub(super) fn multipart_error(error: multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(inner) => Error::new(codes::BODY_INCOMPLETE, format!("the form could not be read to its end: {inner}")),
        },
        multer::Error::IncompleteFieldData { .. } | multer::Error::IncompleteStream => {
            Error::new(codes::MULTIPART_INVALID, "the form ends before its last boundary")
        }
        error => Error::new(codes::MULTIPART_INVALID, format!("the form cannot be read: {error}")),
    }
}
