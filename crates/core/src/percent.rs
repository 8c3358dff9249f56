//! Percent-encoding of values that are put into URLs.

const HEX_DIGITS: &[u8; 16] = b"0123456789ABCDEF";

/// Encodes all but the unreserved characters of RFC 3986, so that the value has no meaning of its own in any part of a URL.
pub fn percent_encode(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len());
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            encoded.push(char::from(byte));
        } else {
            encoded.push('%');
            encoded.push(char::from(HEX_DIGITS[usize::from(byte >> 4)]));
            encoded.push(char::from(HEX_DIGITS[usize::from(byte & 15)]));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_unreserved_characters_stay() {
        assert_eq!(percent_encode("aZ09-._~"), "aZ09-._~");
        assert_eq!(percent_encode("a/b?c#d%e f\\\n"), "a%2Fb%3Fc%23d%25e%20f%5C%0A");
        assert_eq!(percent_encode("ü+&="), "%C3%BC%2B%26%3D");
    }
}
