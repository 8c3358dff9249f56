//! The only place that asks what time it is.

use chrono::{DateTime, NaiveDateTime, SecondsFormat, Utc};

/// Milliseconds since 1970-01-01T00:00:00Z, as every table stores a time.
pub type UnixMillis = i64;

/// Now, in milliseconds.
#[expect(clippy::disallowed_methods, reason = "this is the place")]
pub fn now_millis() -> UnixMillis {
    Utc::now().timestamp_millis()
}

/// The time that a text in RFC 3339 names, with whatever offset.
pub fn parse_rfc3339(text: &str) -> Option<UnixMillis> {
    DateTime::parse_from_rfc3339(text).ok().map(|time| time.timestamp_millis())
}

/// The time that a date in a header of HTTP names, in any of its three shapes.
pub fn parse_http_date(text: &str) -> Option<UnixMillis> {
    let shapes = ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %e %H:%M:%S %Y"];
    let time = shapes.iter().find_map(|shape| NaiveDateTime::parse_from_str(text, shape).ok());
    time.map(|time| time.and_utc().timestamp_millis())
}

/// A stored time as the API shows it: RFC 3339, UTC, milliseconds.
pub fn format_rfc3339(millis: UnixMillis) -> String {
    DateTime::<Utc>::from_timestamp_millis(millis).unwrap_or_default().to_rfc3339_opts(SecondsFormat::Millis, true)
}
