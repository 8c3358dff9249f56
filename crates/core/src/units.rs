//! Durations (`30s`, `10m`, `2h`, `7d`, `1w`), sizes (`20mb`) and percentages (`5%`) as users write them.

use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::str::FromStr;

use schemars::JsonSchema;
use serde::de::{Error as _, Unexpected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A quantity that users write as text.
pub trait Quantity: FromStr<Err = UnexpectedQuantity> {
    /// What is expected, with examples.
    const EXPECTED: &'static str;
}

/// The text is not the quantity that is expected. The message quotes nothing of the text, which may hold a secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnexpectedQuantity {
    /// What is expected, with examples.
    pub expected: &'static str,
}

impl fmt::Display for UnexpectedQuantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.expected)
    }
}

impl std::error::Error for UnexpectedQuantity {}

/// A length of time: a whole number and one of `ms s m h d w`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(transparent)]
pub struct HumanDuration(
    #[schemars(with = "String", regex(pattern = r"^[0-9]+(ms|s|m|h|d|w)$"))] pub std::time::Duration,
);

const DURATION_UNITS: [(&str, u64); 6] =
    [("ms", 1), ("s", 1_000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000), ("w", 604_800_000)];

impl HumanDuration {
    /// The duration in milliseconds.
    pub fn as_millis(self) -> i64 {
        i64::try_from(self.0.as_millis()).unwrap_or(i64::MAX)
    }
}

impl Quantity for HumanDuration {
    const EXPECTED: &'static str = "a duration such as `30s`, `10m`, `2h`, `7d` or `1w`";
}

impl FromStr for HumanDuration {
    type Err = UnexpectedQuantity;

    fn from_str(text: &str) -> Result<Self, UnexpectedQuantity> {
        let (number, unit) = split_unit(text);
        let factor = DURATION_UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
        let (Some(factor), true) = (factor, is_whole_number(number)) else {
            return Err(UnexpectedQuantity { expected: Self::EXPECTED });
        };
        let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        match millis {
            Some(millis) if millis <= i64::MAX as u64 => Ok(Self(std::time::Duration::from_millis(millis))),
            _ => Err(UnexpectedQuantity { expected: "a shorter duration such as `1w`" }),
        }
    }
}

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis() as u64;
        let (unit, factor) = DURATION_UNITS
            .iter()
            .rev()
            .find(|(_, factor)| millis.is_multiple_of(*factor))
            .unwrap_or(&DURATION_UNITS[0]);
        if millis == 0 { f.write_str("0s") } else { write!(f, "{}{unit}", millis / factor) }
    }
}

/// A number of bytes: a whole number and one of `b kb mb gb` (1 kb = 1024 b), or a plain number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, JsonSchema)]
#[schemars(transparent)]
pub struct ByteSize(#[schemars(with = "String", regex(pattern = r"^[0-9]+ *(b|kb|mb|gb)?$"))] pub u64);

impl Quantity for ByteSize {
    const EXPECTED: &'static str = "a size such as `64kb`, `20mb` or `2gb`";
}

impl FromStr for ByteSize {
    type Err = UnexpectedQuantity;

    fn from_str(text: &str) -> Result<Self, UnexpectedQuantity> {
        let (number, unit) = split_unit(text);
        let shift = match unit.to_ascii_lowercase().as_str() {
            "" | "b" => Some(0),
            "kb" => Some(10),
            "mb" => Some(20),
            "gb" => Some(30),
            _ => None,
        };
        let (Some(shift), true) = (shift, is_whole_number(number)) else {
            return Err(UnexpectedQuantity { expected: Self::EXPECTED });
        };
        let size = number.parse::<u64>().ok().and_then(|number| number.checked_mul(1 << shift));
        size.map(Self).ok_or(UnexpectedQuantity { expected: "a smaller size such as `2gb`" })
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [("gb", 30), ("mb", 20), ("kb", 10)];
        match units.iter().find(|(_, shift)| self.0 > 0 && self.0.is_multiple_of(1 << shift)) {
            Some((unit, shift)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}b", self.0),
        }
    }
}

/// A share of a whole: `0%` to `100%`, held as a fraction from 0 to 1.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd, JsonSchema)]
#[schemars(transparent)]
pub struct Percentage(#[schemars(with = "String", regex(pattern = r"^[0-9]+(\.[0-9]+)?%$"))] pub f64);

impl Quantity for Percentage {
    const EXPECTED: &'static str = "a share such as `5%` or `0.5%`, at most `100%`";
}

impl FromStr for Percentage {
    type Err = UnexpectedQuantity;

    fn from_str(text: &str) -> Result<Self, UnexpectedQuantity> {
        let percent = text.strip_suffix('%').and_then(|number| number.trim().parse::<f64>().ok());
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        percent.map(|percent| Self(percent / 100.0)).ok_or(UnexpectedQuantity { expected: Self::EXPECTED })
    }
}

impl fmt::Display for Percentage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}%", self.0 * 100.0)
    }
}

/// True for a queue name: a small letter, then at most 62 small letters, digits, `-` and `_`.
pub fn is_queue_name(name: &str) -> bool {
    name.len() <= 63
        && name.starts_with(|first: char| first.is_ascii_lowercase())
        && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '_')
}

/// True for an event name of the application: letters, digits, `.`, `_` and `-`, at most 100.
pub fn is_event_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=100).contains(&name.len()) && name.bytes().all(allowed)
}

/// Formats `1234567` as `1,234,567`.
pub fn group_digits(number: u64) -> String {
    let digits = number.to_string();
    let groups = digits.as_bytes().rchunks(3).rev().map(String::from_utf8_lossy);
    groups.collect::<Vec<_>>().join(",")
}

fn split_unit(text: &str) -> (&str, &str) {
    let at = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(at);
    (number, unit.trim())
}

fn is_whole_number(digits: &str) -> bool {
    !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// Reads a quantity, so that every error says what is expected.
struct QuantityVisitor<T>(PhantomData<T>);

impl<T: Quantity> Visitor<'_> for QuantityVisitor<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(|fault: UnexpectedQuantity| E::invalid_value(Unexpected::Str(text), &fault.expected))
    }
}

macro_rules! impl_serde_as_text {
    ($($name:ident),*) => {$(
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(QuantityVisitor::<Self>(PhantomData))
            }
        }
    )*};
}
impl_serde_as_text!(HumanDuration, ByteSize, Percentage);

/// Reads an address to listen on. The standard error message does not explain the expected format.
///
/// # Errors
/// Fails for any text that is not an address.
pub fn listen_address<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    let text = String::deserialize(deserializer)?;
    let expected = "an address such as `127.0.0.1:8080`";
    text.parse().map_err(|_| D::Error::invalid_value(Unexpected::Str(&text), &expected))
}
