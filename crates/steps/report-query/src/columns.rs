//! The columns of a report.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::write::ColumnDisplay;
use afterload_tabular::write::format::CellFormat;

/// How a column is shown.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ReportColumn {
    /// What stands in the header instead of its name.
    pub title: Option<String>,
    /// How its values are shown: a format of spreadsheets, such as `0.00`, `#,##0` or `dd.mm.yyyy`. In CSV those are
    /// written that are made of digits, or of parts of a date; JSONL always holds the values themselves.
    pub format: Option<String>,
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
            let known = names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            let message = format!("the query gives no column `{unknown}`, which `columns` names");
            return Err(Error::new(codes::REPORT_COLUMN_UNKNOWN, message).with_hint(format!("it gives {known}")));
        }
        let shape = |name: &String| {
            let said = self.0.get(name).cloned().unwrap_or_default();
            let format = said.format.map(|code| CellFormat::new(&code));
            ColumnDisplay { title: said.title.unwrap_or_else(|| name.clone()), format }
        };
        Ok(names.iter().map(shape).collect())
    }
}
