//! Errors that all back ends share.

use crate::codes;
use afterload_core::error::Error;
use afterload_core::shortage;

/// The message does not show the address, because it may hold a password.
pub(crate) fn invalid_url_error(name: &str) -> Error {
    Error::new(codes::CONNECTION_INVALID, format!("the `url` of connection `{name}` is not a database address"))
        .with_hint("expected `sqlite://PATH` or `postgres://USER:PASSWORD@HOST/DATABASE`")
}

pub(crate) fn unavailable_error(name: &str, error: &sqlx::Error) -> Error {
    let reported = error.as_database_error().and_then(|error| error.code()?.parse().ok());
    let shortage = reported.and_then(shortage::sqlite_code).or_else(|| shortage::find_code(error));
    let code = shortage.unwrap_or(codes::CONNECTION_UNAVAILABLE);
    Error::new(code, format!("connection `{name}` cannot be opened: {error}"))
}

pub(crate) fn panic_error(error: tokio::task::JoinError) -> Error {
    Error::new(codes::INTERNAL_ERROR, format!("the work on a database panicked: {error}"))
}
