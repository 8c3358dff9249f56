//! The `pattern` of a text param: a regular expression that is compiled once, with its pipeline.

use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

/// How much memory a compiled pattern may take. `\w` alone takes some 50 kB, because letters of any script match.
const MAX_COMPILED_BYTES: usize = 8 << 20;

/// A compiled regular expression.
#[derive(Clone, Debug)]
pub struct TextPattern(Regex);

impl TextPattern {
    /// Compiles a pattern.
    ///
    /// # Errors
    /// The reason why it is not a regular expression, or that it is too large.
    pub fn compile(pattern: &str) -> Result<Self, String> {
        let compiled = RegexBuilder::new(pattern).size_limit(MAX_COMPILED_BYTES).build();
        compiled.map(Self).map_err(|error| match error {
            regex::Error::CompiledTooBig(_) => "it is too large".to_owned(),
            error => {
                let text = error.to_string();
                text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
            }
        })
    }

    /// True if the pattern matches a part of the text.
    pub fn is_match(&self, text: &str) -> bool {
        self.0.is_match(text)
    }

    /// The match with which the text begins, if there is one that is not empty.
    pub fn match_prefix<'t>(&self, text: &'t str) -> Option<&'t str> {
        // The leftmost match is returned, so a later one means that there is none at the start.
        let found = self.0.find(text)?;
        (found.start() == 0 && !found.is_empty()).then(|| found.as_str())
    }

    /// The pattern as the pipeline writes it.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }
}

impl PartialEq for TextPattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Serialize for TextPattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for TextPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::compile(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_is_matched_at_the_start_alone() {
        let prefix = |pattern, text| TextPattern::compile(pattern).unwrap().match_prefix(text).map(str::to_owned);
        assert_eq!(prefix("[a-z]+", "ann, bob").as_deref(), Some("ann"));
        assert_eq!(prefix("a|b", "ba").as_deref(), Some("b"));
        assert_eq!(prefix("[a-z]+", ", ann"), None);
        assert_eq!(prefix("[a-z]*", ", ann"), None);
    }

    #[test]
    fn pattern_is_limited_in_size() {
        assert!(TextPattern::compile(r"^\w{1,32}$").is_ok());
        assert_eq!(TextPattern::compile(r"(\w{100}){100}").unwrap_err(), "it is too large");
        assert_eq!(TextPattern::compile("[").unwrap_err(), "unclosed character class");
    }
}
