//! Params: their types, and the binding of given values.

mod bind;
mod coerce;
mod email;
mod faults;
mod form;
mod pattern;
mod record;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use afterload_core::exact_decimal::ExactDecimal;

pub use bind::{bind_params, estimate_params_size, find_invalid_params, unknown_param};
pub use coerce::{InvalidParam, check_file, coerce_value};
pub use faults::{InvalidParams, param_invalid};
pub use form::value_from_form;
pub use pattern::TextPattern;
pub use record::{OnMissingRow, RecordRule};

/// A checked param.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// The description for people.
    pub description: Option<String>,
    /// The type with its rules.
    #[serde(flatten)]
    pub kind: ParamType,
    /// True if a run needs a value.
    pub required: bool,
    /// The value if none is given.
    pub default: Option<Value>,
}

/// The type of a param, with its rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ParamType {
    /// Text.
    String {
        /// The minimum length in characters.
        min_length: Option<usize>,
        /// The maximum length in characters.
        max_length: Option<usize>,
        /// A regular expression that must match.
        pattern: Option<TextPattern>,
    },
    /// A whole number.
    Integer {
        /// The minimum.
        min: Option<ExactDecimal>,
        /// The maximum.
        max: Option<ExactDecimal>,
    },
    /// Any number.
    Number {
        /// The minimum.
        min: Option<ExactDecimal>,
        /// The maximum.
        max: Option<ExactDecimal>,
    },
    /// `true` or `false`.
    Boolean,
    /// A calendar date.
    Date,
    /// A time with its offset from UTC.
    Datetime,
    /// An e-mail address.
    Email {
        /// True if the mailbox may have letters outside ASCII.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        smtputf8: bool,
    },
    /// An `http` or `https` address.
    Url,
    /// An IP address.
    Ip,
    /// One of several words.
    Enum {
        /// The allowed words.
        values: Vec<String>,
    },
    /// A list.
    List {
        /// The type of each item; `None` allows any.
        items: Option<Box<ParamType>>,
        /// The most items; `None` is [`ParamType::DEFAULT_MAX_ITEMS`].
        max_items: Option<usize>,
    },
    /// A map with any fields.
    Object,
    /// A file in the store.
    File(FileRule),
    /// A reference to a row of a database.
    Record(RecordRule),
}

impl ParamType {
    /// The most items of a list that sets no `max_items`.
    pub const DEFAULT_MAX_ITEMS: usize = 10_000;

    /// The most items of a list; `None` for other types.
    pub fn max_items(&self) -> Option<usize> {
        match self {
            Self::List { max_items, .. } => Some(max_items.unwrap_or(Self::DEFAULT_MAX_ITEMS)),
            _ => None,
        }
    }
}

/// Which files a param accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileRule {
    /// Media types such as `text/csv` or `image/*`; any if empty.
    pub accept: Vec<String>,
    /// The largest size in bytes.
    pub max_size: Option<u64>,
}
