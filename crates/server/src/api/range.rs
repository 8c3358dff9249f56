//! Byte ranges of a file, by RFC 9110. One range per request.
//!
//! Not crates `headers` and `http-range-header`: they drop a suffix range that is longer than the file, and do not tell a
//! range outside of the file from a header that must be ignored.

/// The requested part of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum ByteRange {
    /// The whole file; also for a header that does not parse, as the RFC requires.
    All,
    /// From the first byte to the last, both included.
    Part(u64, u64),
    /// The range is outside the file.
    Unsatisfiable,
}

/// Parses a `Range` header for a file of `size` bytes. A request for several ranges gets the whole file.
pub(super) fn parse_range(header: &str, size: u64) -> ByteRange {
    let Some((unit, set)) = header.split_once('=') else { return ByteRange::All };
    let Some((first, last)) = set.trim().split_once('-') else { return ByteRange::All };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return ByteRange::All;
    }
    match (parse_bound(first), parse_bound(last)) {
        (RangeBound::Absent, RangeBound::Position(0)) => ByteRange::Unsatisfiable,
        (RangeBound::Absent, RangeBound::Position(_)) if size == 0 => ByteRange::Unsatisfiable,
        (RangeBound::Absent, RangeBound::Position(count)) => ByteRange::Part(size.saturating_sub(count), size - 1),
        (RangeBound::Position(first), RangeBound::Position(last)) if last < first => ByteRange::All,
        (RangeBound::Position(first), RangeBound::Position(_) | RangeBound::Absent) if first >= size => {
            ByteRange::Unsatisfiable
        }
        (RangeBound::Position(first), RangeBound::Position(last)) => ByteRange::Part(first, last.min(size - 1)),
        (RangeBound::Position(first), RangeBound::Absent) => ByteRange::Part(first, size - 1),
        _ => ByteRange::All,
    }
}

enum RangeBound {
    Absent,
    Position(u64),
    Invalid,
}

fn parse_bound(text: &str) -> RangeBound {
    let text = text.trim();
    match text {
        "" => RangeBound::Absent,
        _ if !text.bytes().all(|byte| byte.is_ascii_digit()) => RangeBound::Invalid,
        // A number that does not fit is beyond the end of any file.
        _ => RangeBound::Position(text.parse().unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_parse_by_rfc_9110() {
        for (header, expected) in [
            ("bytes=0-3", ByteRange::Part(0, 3)),
            ("bytes=2-", ByteRange::Part(2, 9)),
            ("bytes=-4", ByteRange::Part(6, 9)),
            ("bytes=-40", ByteRange::Part(0, 9)),
            ("bytes=5-400", ByteRange::Part(5, 9)),
            ("bytes=9-9", ByteRange::Part(9, 9)),
            ("bytes=10-", ByteRange::Unsatisfiable),
            ("bytes=99999999999999999999999-", ByteRange::Unsatisfiable),
            ("bytes=-0", ByteRange::Unsatisfiable),
            ("bytes=4-2", ByteRange::All),
            ("bytes=0-1,4-5", ByteRange::All),
            ("bytes=-", ByteRange::All),
            ("bytes=a-b", ByteRange::All),
            ("rows=0-3", ByteRange::All),
            ("", ByteRange::All),
        ] {
            assert_eq!(parse_range(header, 10), expected, "`{header}`");
        }
        assert_eq!(parse_range("bytes=0-", 0), ByteRange::Unsatisfiable);
        assert_eq!(parse_range("bytes=-1", 0), ByteRange::Unsatisfiable);
    }
}
