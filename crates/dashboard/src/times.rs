//! Times as people say them, with the exact time beside.

use afterload_core::clock::{UnixMillis, format_rfc3339, parse_rfc3339};

/// A moment: what people say, and what the clock says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Moment {
    /// Such as `2 min ago`.
    pub spoken: String,
    /// RFC 3339, UTC.
    pub exact: String,
}

const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

impl Moment {
    /// A moment as seen from `now`.
    pub(crate) fn new(time: UnixMillis, now: UnixMillis) -> Self {
        let distance = duration(time.abs_diff(now).try_into().unwrap_or(i64::MAX));
        let spoken = match time - now {
            -999..=999 => "just now".to_owned(),
            1_000.. => format!("in {distance}"),
            _ => format!("{distance} ago"),
        };
        Self { spoken, exact: format_rfc3339(time) }
    }

    /// A moment of a view of the API.
    pub(crate) fn of_text(text: &str, now: UnixMillis) -> Self {
        match parse_rfc3339(text) {
            Some(time) => Self::new(time, now),
            None => Self { spoken: text.to_owned(), exact: text.to_owned() },
        }
    }
}

/// A duration with one unit: `420 ms`, `2.0 s`, `5 min`, `3 h`, `2 d`.
pub(crate) fn duration(millis: i64) -> String {
    match millis {
        ..1_000 => format!("{} ms", millis.max(0)),
        1_000..10_000 => format!("{}.{} s", millis / SECOND, millis % SECOND / 100),
        10_000..MINUTE => format!("{} s", millis / SECOND),
        MINUTE..HOUR => format!("{} min", millis / MINUTE),
        HOUR..DAY => format!("{} h", millis / HOUR),
        _ => format!("{} d", millis / DAY),
    }
}

/// How long something took, or has taken so far.
pub(crate) fn took(started: Option<&str>, finished: Option<&str>, now: UnixMillis) -> Option<String> {
    let started = parse_rfc3339(started?)?;
    let finished = finished.and_then(parse_rfc3339).unwrap_or(now);
    Some(duration(finished - started))
}

/// The time of day in UTC: `14:05`.
pub(crate) fn time_of_day(time: UnixMillis) -> String {
    format_rfc3339(time).get(11..16).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_spoken_with_one_unit() {
        let now = 1_800_000_000_000;
        let spoken = |offset: i64| Moment::new(now + offset, now).spoken;
        assert_eq!(spoken(-120_500), "2 min ago");
        assert_eq!(spoken(-1_500), "1.5 s ago");
        assert_eq!(spoken(300), "just now");
        assert_eq!(spoken(3 * HOUR), "in 3 h");
        assert_eq!(spoken(-9 * DAY), "9 d ago");
        assert_eq!(Moment::new(now, now).exact, "2027-01-15T08:00:00.000Z");
        assert_eq!(Moment::of_text("soon", now).spoken, "soon");
        assert_eq!([-5, 420, 2_049, 59_999, 60_000].map(duration), ["0 ms", "420 ms", "2.0 s", "59 s", "1 min"]);
        assert_eq!(took(Some("2027-01-15T07:59:58.000Z"), None, now).as_deref(), Some("2.0 s"));
        assert_eq!(took(None, None, now), None);
        assert_eq!(time_of_day(now), "08:00");
    }
}
