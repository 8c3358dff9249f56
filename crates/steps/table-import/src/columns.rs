//! The options of a column under `columns:`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::de::{Error as _, Unexpected};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use afterload_tabular::read::number_format::NumberFormat;
use afterload_target_db::{BatchColumnType, DbColumnType};

/// The rules of one column.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ImportColumn {
    /// The names that the header may have for it, regardless of case, blanks, invisible characters and Unicode forms; default:
    /// the column's own name.
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
    /// The values that an `enum` may have, in any case: the cell becomes the value as it stands here. Other types may be limited
    /// to a list too.
    pub values: Option<Vec<String>>,
    /// What cells stand for, such as `{ Active: 1, Inactive: 0 }`, in any case. Cells that are not listed stay as they are.
    pub map: BTreeMap<String, Value>,
    /// The value of empty cells. A column with a default may be missing from the header; `default: null` says just that. An
    /// update of a row that is there leaves a missing column as it is.
    #[serde(deserialize_with = "deserialize_some")]
    pub default: Option<Value>,
    /// The value of every row. The file cannot change it, even if it has such a header.
    #[serde(deserialize_with = "deserialize_some")]
    pub value: Option<Value>,
    /// What an empty cell does: `default` writes the default, or nothing if there is none; `null` writes null; `keep` leaves the
    /// row that is there as it is.
    #[serde(deserialize_with = "blank_action")]
    #[schemars(with = "Option<BlankAction>")]
    pub on_blank: BlankAction,
    /// Fills new rows only: an update leaves the column as it is.
    pub insert_only: bool,
    /// How dates and times are written, such as `%d.%m.%Y`; the first that fits is taken. `%Y` takes four digits, `%y` two, and
    /// `%Z` takes `UTC`, an offset or a name such as `Europe/Paris`. `excel` and `excel_1904` are serial numbers. Default: ISO 8601.
    pub formats: Vec<String>,
    /// The zone of times without one, such as `Europe/Paris`; default: UTC. Times that the zone has twice or never are rejected.
    pub timezone: Option<String>,
    /// Two-digit years (`%y`) belong to the hundred years from this one; default: 1970.
    pub year_pivot: Option<i32>,
    /// How numbers are written; default: the import's `number`, or `1234.56`.
    pub number: Option<NumberSpec>,
    /// The words for true, in any case; default: `true`, `t`, `yes`, `y`, `on`, `1`.
    pub true_values: Option<Vec<String>>,
    /// The words for false, in any case; default: `false`, `f`, `no`, `n`, `off`, `0`.
    pub false_values: Option<Vec<String>>,
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

/// What an empty cell does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BlankAction {
    /// Writes the default of the column.
    #[default]
    Default,
    /// Writes null.
    Null,
    /// Leaves the row that is there as it is. A new row has null.
    Keep,
}

/// How numbers are written.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum NumberSpec {
    /// As in a locale, such as `de`, `fr-CH` or `en-IN`.
    Locale(String),
    /// By each mark.
    Marks(NumberMarks),
}

/// The marks of numbers. Numbers that do not fit exactly are rejected.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NumberMarks {
    /// A locale whose marks are taken where none are named here.
    pub locale: Option<String>,
    /// The mark before the fraction; default: `.`.
    pub decimal: Option<char>,
    /// The mark between groups of three digits; default: none. A blank stands for all kinds of blanks.
    pub thousands: Option<char>,
    /// Whether a currency may stand beside the number: a symbol, or a code of three letters. It is left out.
    pub currency: bool,
    /// Whether a percent sign may follow the number: `12%` is 0.12.
    pub percent: bool,
    /// What else than a leading minus makes a number negative.
    pub negative: NegativeStyle,
}

/// How negative numbers are written, beside a leading minus.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum NegativeStyle {
    /// `-5` only.
    #[default]
    Minus,
    /// `(5)`.
    Brackets,
    /// `5-`.
    Trailing,
}

/// What cells are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ImportColumnType {
    /// Any text.
    String,
    /// A whole number. `1.0` is one.
    Integer,
    /// A decimal number, kept exactly.
    #[serde(alias = "number")]
    Decimal,
    /// `true`/`false`, `yes`/`no`, `t`/`f`, `y`/`n`, `on`/`off`, `1`/`0`, or the words of `true_values` and `false_values`.
    Boolean,
    /// A day. A time of midnight may follow.
    Date,
    /// A time.
    Datetime,
    /// An e-mail address.
    Email,
    /// An absolute URL with a host.
    Url,
    /// A UUID, with or without hyphens.
    Uuid,
    /// One of `values`, in any case.
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

impl ImportColumn {
    /// The names that the header may have for the column.
    pub fn wanted_headers(&self, name: &str) -> Vec<String> {
        if self.matches.is_empty() { vec![name.to_owned()] } else { self.matches.clone() }
    }
}

impl NumberSpec {
    /// Compiles the format.
    ///
    /// # Errors
    /// The reason why the format is not one.
    pub fn compile(&self) -> Result<NumberFormat, String> {
        let locale = |name: &str| {
            let unknown =
                || format!("`{name}` is not a known locale of numbers; name its `decimal` and `thousands` marks");
            NumberFormat::for_locale(name).ok_or_else(unknown)
        };
        let marks = match self {
            Self::Locale(name) => return locale(name),
            Self::Marks(marks) => marks,
        };
        let mut format = marks.locale.as_deref().map_or_else(|| Ok(NumberFormat::default()), locale)?;
        if let Some(decimal) = marks.decimal {
            format.decimal = vec![decimal];
        }
        if let Some(thousands) = marks.thousands {
            format.thousands = NumberFormat::thousands_like(thousands);
        }
        let is_mark = |mark: &char| !mark.is_alphanumeric() && !"+-()%".contains(*mark);
        if !format.decimal.iter().chain(&format.thousands).all(is_mark) {
            return Err("`decimal` and `thousands` must be marks such as `.` and `,`".into());
        }
        if format.decimal.iter().any(|mark| format.thousands.contains(mark)) {
            return Err("`decimal` and `thousands` must be different marks".into());
        }
        format.currency = marks.currency;
        format.percent = marks.percent;
        format.brackets = marks.negative == NegativeStyle::Brackets;
        format.trailing_minus = marks.negative == NegativeStyle::Trailing;
        Ok(format)
    }
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

/// In YAML, `null` is no text.
fn blank_action<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BlankAction, D::Error> {
    match Value::deserialize(deserializer)? {
        Value::Null => Ok(BlankAction::Null),
        value => BlankAction::deserialize(&value).map_err(|_| {
            D::Error::invalid_value(Unexpected::Other(&format!("`{value}`")), &"`keep`, `null` or `default`")
        }),
    }
}
