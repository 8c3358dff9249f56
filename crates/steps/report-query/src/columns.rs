//! The columns of a report.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::write::format::CellFormat;
use afterload_tabular::write::{self, ColumnDisplay};

/// How a column is shown.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReportColumn {
    /// What stands in the header instead of its name.
    pub title: Option<String>,
    /// How its values are shown: a format of spreadsheets, such as `0.00`, `#,##0` or `dd.mm.yyyy`. In CSV those are
    /// written that are made of digits, or of parts of a date; JSONL always holds the values themselves.
    pub format: Option<String>,
    /// The width of the column in a workbook, in characters.
    #[schemars(range(min = 1, max = 255))]
    pub width: Option<u16>,
    /// What stands below the column in a workbook: a formula that follows its filters. A table that continues on another sheet
    /// gets the value alone.
    pub total: Option<ColumnTotal>,
}

/// What stands below a column.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ColumnTotal {
    /// The sum of its numbers.
    Sum,
    /// The average of its numbers.
    Average,
    /// Its least number or date.
    Min,
    /// Its greatest number or date.
    Max,
    /// How many cells have a value.
    Count,
}

impl From<ColumnTotal> for write::ColumnTotal {
    fn from(total: ColumnTotal) -> Self {
        match total {
            ColumnTotal::Sum => Self::Sum,
            ColumnTotal::Average => Self::Average,
            ColumnTotal::Min => Self::Min,
            ColumnTotal::Max => Self::Max,
            ColumnTotal::Count => Self::Count,
        }
    }
}

/// The columns that something is said of, by their names in the query.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(transparent)]
pub struct ReportColumns(pub BTreeMap<String, ReportColumn>);

impl ReportColumns {
    /// Combines all columns of the query, in its order, with their options.
    ///
    /// # Errors
    /// `report_columns_missing` if the query has no columns, `report_column_unknown` if it lacks a configured one.
    pub fn resolve_columns(&self, names: &[String]) -> Result<Vec<ColumnDisplay>> {
        if names.is_empty() {
            return Err(Error::new(codes::REPORT_COLUMNS_MISSING, "the query gives no columns"));
        }
        if let Some(unknown) = self.0.keys().find(|name| !names.contains(*name)) {
            return Err(unknown_column_error(unknown, names, "columns"));
        }
        let shape = |name: &String| {
            let said = self.0.get(name).cloned().unwrap_or_default();
            let format = said.format.map(|code| CellFormat::new(&code));
            let title = said.title.unwrap_or_else(|| name.clone());
            ColumnDisplay { title, format, width: said.width, total: said.total.map(Into::into) }
        };
        Ok(names.iter().map(shape).collect())
    }
}

/// The error of a field that names a column which the query does not give.
pub fn unknown_column_error(unknown: &str, names: &[String], field: &str) -> Error {
    let known = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let message = format!("the query gives no column `{unknown}`, which `{field}` names");
    Error::new(codes::REPORT_COLUMN_UNKNOWN, message).with_hint(format!("it gives {known}"))
}
