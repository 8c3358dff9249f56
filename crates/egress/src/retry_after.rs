//! The `Retry-After` header: seconds, or a date.

use std::time::Duration;

use afterload_core::clock::{self, UnixMillis};

/// A longer wait is cut to this.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(3600);

/// The time to wait from `now` on, at most an hour.
pub(super) fn parse_retry_after(text: &str, now: UnixMillis) -> Option<Duration> {
    let text = text.trim();
    let wait = match text.parse::<u64>() {
        Ok(seconds) => Duration::from_secs(seconds),
        // A number that does not fit is longer than the maximum.
        Err(_) if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) => MAX_RETRY_AFTER,
        Err(_) => {
            let millis = clock::parse_http_date(text)?.saturating_sub(now);
            Duration::from_millis(u64::try_from(millis).unwrap_or(0))
        }
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_reads_seconds_and_dates_up_to_the_maximum() {
        let now = clock::parse_rfc3339("2026-01-31T08:00:00Z").unwrap();
        let parse_retry_after = |text| super::parse_retry_after(text, now);
        assert_eq!(parse_retry_after(" 7 "), Some(Duration::from_secs(7)));
        assert_eq!(parse_retry_after("Sat, 31 Jan 2026 08:00:09 GMT"), Some(Duration::from_secs(9)));
        for long in ["99999", "99999999999999999999999", "Fri, 31 Dec 2100 23:59:59 GMT"] {
            assert_eq!(parse_retry_after(long), Some(MAX_RETRY_AFTER), "{long}");
        }
        for past in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(parse_retry_after(past), Some(Duration::ZERO), "{past}");
        }
        for other in ["", "soon", "-1", "1.5", "7 s", "Sun, 06 Nov"] {
            assert_eq!(parse_retry_after(other), None, "{other}");
        }
    }
}
