//! The query of a request, decoded once. Every rule reads this form, and s3s gets the same one, re-encoded.

use std::collections::BTreeMap;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};
use s3s::{S3Error, S3ErrorCode, S3Result};

use super::error::s3_error;

/// Everything but the unreserved characters of RFC 3986, as in the canonical requests of signature version 4.
const ENCODED_CHARACTERS: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// The decoded names and values. Each name stands once, so that nobody can read another value than the rules have seen.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct DecodedQuery(BTreeMap<String, String>);

impl DecodedQuery {
    /// Decodes a query as s3s does: `+` is a space. Unlike s3s, it rejects what can be read in two ways.
    pub(super) fn parse(query: &str) -> S3Result<Self> {
        let mut parameters = BTreeMap::new();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            if parameters.insert(decode_component(name)?, decode_component(value)?).is_some() {
                return Err(invalid_query_error("a name stands twice"));
            }
        }
        Ok(Self(parameters))
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }

    /// Encodes the query in the only way that the rest of the server gets to see. Signatures cover the decoded names
    /// and values, so they are the same for it as for the original.
    pub(super) fn to_canonical_string(&self) -> String {
        let encode = |text| utf8_percent_encode(text, ENCODED_CHARACTERS);
        let pairs: Vec<_> = self.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
        pairs.join("&")
    }
}

fn decode_component(text: &str) -> S3Result<String> {
    let bytes = text.as_bytes();
    let is_escape =
        |at: usize| bytes.get(at + 1..at + 3).is_some_and(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    if bytes.iter().enumerate().any(|(at, byte)| *byte == b'%' && !is_escape(at)) {
        return Err(invalid_query_error("`%` stands without two hexadecimal digits"));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    decoded.map(std::borrow::Cow::into_owned).map_err(|_| invalid_query_error("it is not UTF-8"))
}

fn invalid_query_error(problem: &str) -> S3Error {
    s3_error(S3ErrorCode::InvalidURI, format!("The query cannot be read: {problem}."))
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Encodes the characters whose turn it is, with digits of either case.
    pub(crate) fn encode_randomly(text: &str, choices: &[u8]) -> String {
        let choice = |at: usize| choices.get(at % choices.len().max(1)).copied().unwrap_or_default();
        let encode = |(at, byte): (usize, &u8)| match (choice(at) % 3, byte) {
            (0, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-') => char::from(*byte).to_string(),
            (1, _) => format!("%{byte:02x}"),
            _ => format!("%{byte:02X}"),
        };
        text.as_bytes().iter().enumerate().map(encode).collect()
    }

    #[test]
    fn ambiguous_queries_are_rejected() {
        for query in ["a=1&a=2", "a&%61=", "a=%", "a=%4", "%zz", "a=%G0", "%ff=1", "a=%C3", "x=%ed%a0%80"] {
            let error = DecodedQuery::parse(query).unwrap_err();
            assert_eq!(*error.code(), S3ErrorCode::InvalidURI, "{query}");
        }
    }

    #[test]
    fn spellings_of_one_query_are_equal() {
        let plain = DecodedQuery::parse("uploads&prefix=a b/ü").unwrap();
        for query in ["uploads=&prefix=a+b/%C3%BC", "&&prefix=a%20b%2f%c3%bc&upload%73&", "%75ploads&%70refix=a+b%2Fü"]
        {
            assert_eq!(DecodedQuery::parse(query).unwrap(), plain, "{query}");
        }
        assert_eq!(plain.to_canonical_string(), "prefix=a%20b%2F%C3%BC&uploads=");
    }

    proptest! {
        #[test]
        fn encoding_changes_no_parameter(
            parameters in prop::collection::btree_map("\\PC{1,12}", "\\PC{0,12}", 0..5), choices in prop::collection::vec(any::<u8>(), 1..40)
        ) {
            let encode = |text: &str| encode_randomly(text, &choices);
            let pairs: Vec<_> = parameters.iter().map(|(name, value)| format!("{}={}", encode(name), encode(value))).collect();
            let query = DecodedQuery::parse(&pairs.join("&")).unwrap();
            prop_assert_eq!(&query.0, &parameters);
            let canonical = query.to_canonical_string();
            prop_assert!(canonical.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%=&".contains(&byte)));
            prop_assert_eq!(DecodedQuery::parse(&canonical).unwrap(), query);
        }

        #[test]
        fn any_text_is_decoded_or_rejected(text in "\\PC{0,40}|[%&=+a0-2cfF]{0,40}") {
            if let Ok(query) = DecodedQuery::parse(&text) {
                prop_assert_eq!(DecodedQuery::parse(&query.to_canonical_string()).unwrap(), query);
            }
        }
    }
}
