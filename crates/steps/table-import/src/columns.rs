//! What `columns:` may say of a column.

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use afterload_target_db::{Kind, Shape};

/// The rules of one column.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Column {
    /// The names that the header may have for it, regardless of case and surrounding space; default: the column's own name.
    #[serde(rename = "match", deserialize_with = "one_or_many")]
    #[schemars(with = "OneOrMany")]
    pub matches: Vec<String>,
    /// What the cells are; default: what the table's column stores.
    #[serde(rename = "type")]
    pub kind: Option<ColumnType>,
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
    #[serde(deserialize_with = "present")]
    pub default: Option<Value>,
    /// How dates and times are written, such as `%d.%m.%Y`; the first that fits is taken. Default: ISO 8601. Times without
    /// a zone are UTC.
    pub formats: Vec<String>,
    /// Cells that mean nothing; default: the empty cell.
    pub null_values: Option<Vec<String>>,
    /// Takes space off both ends; default true.
    pub trim: Option<bool>,
    /// Turns the cell into upper or lower case.
    pub case: Option<Case>,
    /// Refuses a second row with the same value. Not supported yet.
    pub unique: bool,
    /// Looks the value up in another table. Not supported yet.
    pub lookup: Option<Value>,
    /// Splits the cell into several. Not supported yet.
    pub split: Option<Value>,
}

/// What cells are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnType {
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
pub enum Case {
    /// `ABC`.
    Upper,
    /// `abc`.
    Lower,
}

impl ColumnType {
    /// What people most likely mean where they name no type: what the table's column stores.
    pub fn of(kind: Kind) -> Self {
        match kind {
            Kind::Bool => Self::Boolean,
            Kind::Int2 | Kind::Int4 | Kind::Int8 => Self::Integer,
            Kind::Float4 | Kind::Float8 | Kind::Numeric => Self::Decimal,
            Kind::Date => Self::Date,
            Kind::Timestamp | Kind::Timestamptz => Self::Datetime,
            Kind::Uuid => Self::Uuid,
            Kind::Json | Kind::Jsonb => Self::Json,
            Kind::Text | Kind::Other => Self::String,
        }
    }

    /// How a checked cell is held.
    pub fn shape(self) -> Shape {
        match self {
            Self::String | Self::Email | Self::Url | Self::Enum => Shape::Text,
            Self::Integer => Shape::Integer,
            Self::Decimal => Shape::Decimal,
            Self::Boolean => Shape::Boolean,
            Self::Date => Shape::Date,
            Self::Datetime => Shape::DateTime,
            Self::Uuid => Shape::Uuid,
            Self::Json => Shape::Json,
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
        value => Vec::deserialize(value).map_err(|_| serde::de::Error::custom("expected a name or a list of names")),
    }
}

/// Tells `default: null` from no default.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}
