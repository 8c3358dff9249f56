//! The options of a column under `columns:`.

use schemars::JsonSchema;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use afterload_target_db::{BatchColumnType, DbColumnType};

/// The rules of one column.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImportColumn {
    /// The names that the header may have for it, regardless of case and surrounding space; default: the column's own name.
    #[serde(rename = "match", deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    pub matches: Vec<String>,
    /// What the cells are; default: what the table's column stores.
    #[serde(rename = "type")]
    pub kind: Option<ImportColumnType>,
    /// Refuses rows where the cell is empty.
    pub required: bool,
    /// The least value: a number, or for dates and times one of them.
    pub min: Option<Value>,
    /// The greatest value: a number, or for dates and times one of them.
    pub max: Option<Value>,
    /// The fewest characters.
    pub min_length: Option<usize>,
    /// The most characters.
    pub max_length: Option<usize>,
    /// A regular expression that has to match somewhere in the cell; anchor it with `^` and `$` to match all of it.
    pub pattern: Option<String>,
    /// The values that an `enum` may have; other types may be limited to a list too.
    pub values: Option<Vec<String>>,
    /// The value of empty cells. A column with a default may be missing from the header; `default: null` says just that.
    #[serde(deserialize_with = "deserialize_some")]
    pub default: Option<Value>,
    /// How dates and times are written, such as `%d.%m.%Y`; the first that fits is taken. Default: ISO 8601. Times without
    /// a zone are UTC.
    pub formats: Vec<String>,
    /// Cells that mean nothing; default: the empty cell.
    pub null_values: Option<Vec<String>>,
    /// Takes space off both ends; default true.
    pub trim: Option<bool>,
    /// Turns the cell into upper or lower case.
    pub case: Option<TextCase>,
    /// Refuses a second row with the same value. Not supported yet.
    #[schemars(extend("deprecated" = true))]
    pub unique: bool,
    /// Looks the value up in another table. Not supported yet.
    #[schemars(extend("deprecated" = true))]
    pub lookup: Option<Value>,
    /// Splits the cell into several. Not supported yet.
    #[schemars(extend("deprecated" = true))]
    pub split: Option<Value>,
}

/// What cells are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportColumnType {
    /// Any text.
    String,
    /// A whole number.
    Integer,
    /// A decimal number, kept exactly.
    #[serde(alias = "number")]
    Decimal,
    /// `true`/`false`, `yes`/`no`, `t`/`f`, `y`/`n`, `on`/`off`, `1`/`0`.
    Boolean,
    /// A day.
    Date,
    /// A time.
    Datetime,
    /// An e-mail address.
    Email,
    /// An absolute URL with a host.
    Url,
    /// A UUID, with or without hyphens.
    Uuid,
    /// One of `values`.
    Enum,
    /// JSON.
    Json,
}

/// Upper or lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum TextCase {
    /// `ABC`.
    Upper,
    /// `abc`.
    Lower,
}

impl ImportColumnType {
    /// The default type if none is given: the type that the table's column stores.
    pub fn from_db_type(kind: DbColumnType) -> Self {
        match kind {
            DbColumnType::Bool => Self::Boolean,
            DbColumnType::Int2 | DbColumnType::Int4 | DbColumnType::Int8 => Self::Integer,
            DbColumnType::Float4 | DbColumnType::Float8 | DbColumnType::Numeric => Self::Decimal,
            DbColumnType::Date => Self::Date,
            DbColumnType::Timestamp | DbColumnType::Timestamptz => Self::Datetime,
            DbColumnType::Uuid => Self::Uuid,
            DbColumnType::Json | DbColumnType::Jsonb => Self::Json,
            DbColumnType::Text | DbColumnType::Other => Self::String,
        }
    }

    /// The type that a parsed cell has in a batch.
    pub fn cell_shape(self) -> BatchColumnType {
        match self {
            Self::String | Self::Email | Self::Url | Self::Enum => BatchColumnType::Text,
            Self::Integer => BatchColumnType::Integer,
            Self::Decimal => BatchColumnType::Decimal,
            Self::Boolean => BatchColumnType::Boolean,
            Self::Date => BatchColumnType::Date,
            Self::Datetime => BatchColumnType::DateTime,
            Self::Uuid => BatchColumnType::Uuid,
            Self::Json => BatchColumnType::Json,
        }
    }
}

#[derive(Deserialize, JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "the schema of what `one_or_many` reads")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

fn one_or_many<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<String>, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::String(name) => Ok(vec![name]),
        value => Vec::deserialize(&value).map_err(|_| {
            D::Error::invalid_value(Unexpected::Other(&format!("`{value}`")), &"a name or a list of names")
        }),
    }
}

/// Distinguishes `default: null` from a missing default.
fn deserialize_some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
