//! One range of bytes of a file, as RFC 9110 has it.

/// What a client wants of a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Wanted {
    /// All of it; also when the header is not understood, as the RFC asks.
    All,
    /// From the first byte to the last one, both included.
    Part(u64, u64),
    /// Bytes that the file does not have.
    Nothing,
}

/// Reads a `Range` header for a file of `size` bytes. Several ranges are answered with the whole file.
pub(super) fn wanted(header: &str, size: u64) -> Wanted {
    let Some((unit, set)) = header.split_once('=') else { return Wanted::All };
    let Some((first, last)) = set.trim().split_once('-') else { return Wanted::All };
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return Wanted::All;
    }
    match (number(first), number(last)) {
        (Number::None, Number::Some(0)) => Wanted::Nothing,
        (Number::None, Number::Some(_)) if size == 0 => Wanted::Nothing,
        (Number::None, Number::Some(count)) => Wanted::Part(size.saturating_sub(count), size - 1),
        (Number::Some(first), Number::Some(last)) if last < first => Wanted::All,
        (Number::Some(first), Number::Some(_) | Number::None) if first >= size => Wanted::Nothing,
        (Number::Some(first), Number::Some(last)) => Wanted::Part(first, last.min(size - 1)),
        (Number::Some(first), Number::None) => Wanted::Part(first, size - 1),
        _ => Wanted::All,
    }
}

enum Number {
    None,
    Some(u64),
    Bad,
}

fn number(text: &str) -> Number {
    let text = text.trim();
    match text {
        "" => Number::None,
        _ if !text.bytes().all(|byte| byte.is_ascii_digit()) => Number::Bad,
        // More digits than fit are more bytes than any file has.
        _ => Number::Some(text.parse().unwrap_or(u64::MAX)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_as_the_rfc_says() {
        for (header, expected) in [
            ("bytes=0-3", Wanted::Part(0, 3)),
            ("bytes=2-", Wanted::Part(2, 9)),
            ("bytes=-4", Wanted::Part(6, 9)),
            ("bytes=-40", Wanted::Part(0, 9)),
            ("bytes=5-400", Wanted::Part(5, 9)),
            ("bytes=9-9", Wanted::Part(9, 9)),
            ("bytes=10-", Wanted::Nothing),
            ("bytes=99999999999999999999999-", Wanted::Nothing),
            ("bytes=-0", Wanted::Nothing),
            ("bytes=4-2", Wanted::All),
            ("bytes=0-1,4-5", Wanted::All),
            ("bytes=-", Wanted::All),
            ("bytes=a-b", Wanted::All),
            ("rows=0-3", Wanted::All),
            ("", Wanted::All),
        ] {
            assert_eq!(wanted(header, 10), expected, "`{header}`");
        }
        assert_eq!(wanted("bytes=0-", 0), Wanted::Nothing);
        assert_eq!(wanted("bytes=-1", 0), Wanted::Nothing);
    }
}
