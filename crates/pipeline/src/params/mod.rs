//! Params: their types, and binding what a run is given to them.

mod bind;
mod coerce;
mod form;
mod record;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use bind::{bind_params, find_invalid_params, invalid_param_details, params_invalid};
pub use coerce::{InvalidParam, check_file, coerce_value};
pub use form::value_from_form;
pub use record::{OnMissingRow, RecordRule};

/// A checked param.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Param {
    /// What it is for, for people.
    pub description: Option<String>,
    /// What it must be.
    #[serde(flatten)]
    pub kind: ParamType,
    /// Whether a run must be given it.
    pub required: bool,
    /// The value where none is given.
    pub default: Option<Value>,
}

/// What a param must be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ParamType {
    /// Text.
    String {
        /// The fewest characters.
        min_length: Option<usize>,
        /// The most characters.
        max_length: Option<usize>,
        /// A regular expression that must match, checked when the pipeline was loaded.
        pattern: Option<String>,
    },
    /// A whole number.
    Integer {
        /// The least.
        min: Option<f64>,
        /// The most.
        max: Option<f64>,
    },
    /// Any number.
    Number {
        /// The least.
        min: Option<f64>,
        /// The most.
        max: Option<f64>,
    },
    /// `true` or `false`.
    Boolean,
    /// A day.
    Date,
    /// A moment with its offset from UTC.
    Datetime,
    /// An e-mail address.
    Email,
    /// An `http` or `https` address.
    Url,
    /// An IP address.
    Ip,
    /// One of some words.
    Enum {
        /// The words.
        values: Vec<String>,
    },
    /// A list.
    List {
        /// What each item must be; anything if not said.
        items: Option<Box<ParamType>>,
    },
    /// A map with any fields.
    Object,
    /// A file in the store.
    File(FileRule),
    /// A reference to a row of a database.
    Record(RecordRule),
}

/// Which files a param accepts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct FileRule {
    /// Media types such as `text/csv` or `image/*`; any if empty.
    pub accept: Vec<String>,
    /// The largest size in bytes.
    pub max_size: Option<u64>,
}
