//! The only place that reads the wall clock.

use std::time::UNIX_EPOCH;

use chrono::{DateTime, SecondsFormat, Utc};

/// Milliseconds since 1970-01-01T00:00:00Z, the format of every time column.
pub type UnixMillis = i64;

/// The current time.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn now_millis() -> UnixMillis {
    Utc::now().timestamp_millis()
}

/// Parses an RFC 3339 time with any offset.
pub fn parse_rfc3339(text: &str) -> Option<UnixMillis> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis())
}

/// Parses a date of an HTTP header in any of the three formats that RFC 9110 allows.
pub fn parse_http_date(text: &str) -> Option<UnixMillis> {
    let since_1970 = httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()?;
    i64::try_from(since_1970.as_millis()).ok()
}

/// Formats a stored time as the API does: RFC 3339, UTC, milliseconds.
pub fn format_rfc3339(millis: UnixMillis) -> String {
    DateTime::<Utc>::from_timestamp_millis(millis).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}
