//! A param as written in the file. It is one flat struct for all types, because a tagged enum would lose the spans of
//! its errors.

use schemars::JsonSchema;
use serde::Deserialize;

use super::super::params::OnMissingRow;
use afterload_core::exact_decimal::ExactDecimal;
use afterload_core::units::ByteSize;

/// What a run has to be given under one name.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Param")]
pub struct ParamAst {
    /// The type.
    #[serde(rename = "type")]
    pub kind: ParamTypeName,
    /// What it is for, for people.
    #[serde(default)]
    pub description: Option<String>,
    /// Whether a run must be given it; default `true` unless there is a default.
    #[serde(default)]
    pub required: Option<bool>,
    /// The value where none is given.
    #[serde(default)]
    pub default: Option<serde_json::Value>,
    /// `string`: the fewest characters.
    #[serde(default)]
    pub min_length: Option<usize>,
    /// `string`: the most characters.
    #[serde(default)]
    pub max_length: Option<usize>,
    /// `string`: a regular expression that must match.
    #[serde(default)]
    pub pattern: Option<String>,
    /// `integer`, `number`: the least.
    #[serde(default)]
    pub min: Option<ExactDecimal>,
    /// `integer`, `number`: the most.
    #[serde(default)]
    pub max: Option<ExactDecimal>,
    /// `enum`: the choices.
    #[serde(default)]
    pub values: Option<Vec<String>>,
    /// `list`: what each item must be.
    #[serde(default)]
    pub items: Option<ItemAst>,
    /// `list`: the most items; default 10000.
    #[serde(default)]
    pub max_items: Option<usize>,
    /// `file`: the media types, such as `text/csv` or `image/*`.
    #[serde(default)]
    pub accept: Option<Vec<String>>,
    /// `file`: the largest size.
    #[serde(default)]
    pub max_size: Option<ByteSize>,
    /// `record`: the connection of its database.
    #[serde(default)]
    pub connection: Option<String>,
    /// `record`: its table.
    #[serde(default)]
    pub table: Option<String>,
    /// `record`: the column that identifies it, unique in the table; default `id`.
    #[serde(default)]
    pub key: Option<String>,
    /// `record`: what happens to a step that reads a row that is gone; default `fail`.
    #[serde(default)]
    pub missing: Option<OnMissingRow>,
}

/// What each item of a list must be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Item")]
pub struct ItemAst {
    /// The type.
    #[serde(rename = "type")]
    pub kind: ParamTypeName,
    /// `string`: the fewest characters.
    #[serde(default)]
    pub min_length: Option<usize>,
    /// `string`: the most characters.
    #[serde(default)]
    pub max_length: Option<usize>,
    /// `string`: a regular expression that must match.
    #[serde(default)]
    pub pattern: Option<String>,
    /// `integer`, `number`: the least.
    #[serde(default)]
    pub min: Option<ExactDecimal>,
    /// `integer`, `number`: the most.
    #[serde(default)]
    pub max: Option<ExactDecimal>,
    /// `enum`: the choices.
    #[serde(default)]
    pub values: Option<Vec<String>>,
    /// `file`: the media types, such as `text/csv` or `image/*`.
    #[serde(default)]
    pub accept: Option<Vec<String>>,
    /// `file`: the largest size.
    #[serde(default)]
    pub max_size: Option<ByteSize>,
}

impl From<ItemAst> for ParamAst {
    fn from(item: ItemAst) -> Self {
        let ItemAst { kind, min_length, max_length, pattern, min, max, values, accept, max_size } = item;
        Self {
            kind,
            description: None,
            required: None,
            default: None,
            min_length,
            max_length,
            pattern,
            min,
            max,
            values,
            items: None,
            max_items: None,
            accept,
            max_size,
            connection: None,
            table: None,
            key: None,
            missing: None,
        }
    }
}

/// The type of a param.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ParamTypeName {
    /// Text.
    String,
    /// A whole number.
    Integer,
    /// Any number.
    Number,
    /// `true` or `false`.
    Boolean,
    /// A day, `2026-01-31`.
    Date,
    /// A moment, `2026-01-31T09:30:00Z`.
    Datetime,
    /// An e-mail address.
    Email,
    /// An address that starts with `http://` or `https://`.
    Url,
    /// An IPv4 or IPv6 address.
    Ip,
    /// One of `values`.
    Enum,
    /// A list.
    List,
    /// A map with any fields.
    Object,
    /// A file in the store, never bytes.
    File,
    /// A reference to a row of a database, `app/tweets/42` or just its key; the row is read when a step runs.
    Record,
}
