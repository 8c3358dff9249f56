//! The invalid params of one request: the first ones, and the number of the others.

use serde_json::{Value, json};

use super::InvalidParam;
use crate::codes;
use afterload_core::error::Error;
use afterload_core::text::shorten_text;

/// How many invalid params an error lists. A caller decides how many there are, so the others are only counted.
const MAX_LISTED_FAULTS: usize = 20;
const MAX_NAME_CHARS: usize = 100;
const MAX_MESSAGE_CHARS: usize = 1_000;

/// The invalid params of one request.
#[derive(Clone, Debug, Default)]
pub struct InvalidParams {
    listed: Vec<(String, InvalidParam)>,
    others: usize,
}

impl InvalidParams {
    /// Adds a fault. `fault` is called only if it will be listed.
    pub fn add(&mut self, param: &str, fault: impl FnOnce() -> InvalidParam) {
        if self.listed.len() == MAX_LISTED_FAULTS {
            self.others += 1;
            return;
        }
        let InvalidParam { code, message } = fault();
        let message = shorten_text(&message, MAX_MESSAGE_CHARS).into_owned();
        self.listed.push((shorten_text(param, MAX_NAME_CHARS).into_owned(), InvalidParam { code, message }));
    }

    /// Adds the faults of `other` after its own.
    pub fn extend(&mut self, other: Self) {
        for (param, fault) in other.listed {
            self.add(&param, || fault);
        }
        self.others += other.others;
    }

    /// Removes the faults of the params for which `keep` is false.
    pub fn retain(&mut self, mut keep: impl FnMut(&str) -> bool) {
        self.listed.retain(|(param, _)| keep(param));
    }

    /// True if nothing is invalid.
    pub fn is_empty(&self) -> bool {
        self.listed.is_empty() && self.others == 0
    }

    /// The params that are listed.
    pub fn listed_params(&self) -> impl Iterator<Item = &str> {
        self.listed.iter().map(|(param, _)| param.as_str())
    }

    /// The error details: a list of `{param, code, message}`.
    pub fn to_details(&self) -> Value {
        let detail = |(name, fault): &(String, InvalidParam)| json!({ "param": name, "code": fault.code, "message": fault.message });
        self.listed.iter().map(detail).collect()
    }

    /// Creates the `params_invalid` error. Every rejection of params uses this one shape.
    pub fn to_error(&self) -> Error {
        let sentences: Vec<_> =
            self.listed.iter().map(|(name, fault)| format!("`{name}`: {}", fault.message)).collect();
        let mut message = format!("the params are not valid: {}", sentences.join("; "));
        if self.others > 0 {
            message.push_str(&format!("; and {} more", self.others));
        }
        Error::new(codes::PARAMS_INVALID, message).with_details(self.to_details())
    }
}

/// Creates the `params_invalid` error for one param.
pub fn param_invalid(param: &str, fault: InvalidParam) -> Error {
    let mut faults = InvalidParams::default();
    faults.add(param, || fault);
    faults.to_error()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_faults_are_listed_and_others_counted() {
        let (mut faults, mut made) = (InvalidParams::default(), 0);
        for number in 0..1_000 {
            faults.add(&format!("p{number}{}", "x".repeat(1_000)), || {
                made += 1;
                InvalidParam::new(codes::PARAM_UNKNOWN, "y".repeat(5_000))
            });
        }
        assert_eq!(made, MAX_LISTED_FAULTS, "faults that are not listed are not written");
        let error = faults.to_error();
        assert_eq!(error.details().unwrap().as_array().unwrap().len(), MAX_LISTED_FAULTS);
        assert!(error.message().ends_with("; and 980 more"), "{}", error.message());
        assert!(error.message().len() < MAX_LISTED_FAULTS * (MAX_MESSAGE_CHARS + MAX_NAME_CHARS + 20));
    }
}
