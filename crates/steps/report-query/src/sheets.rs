//! The queries of a report: one, or one for each sheet of a workbook.

use schemars::JsonSchema;
use serde::Deserialize;

use super::ReportQuery;
use super::columns::ReportColumns;
use super::options::LongTexts;
use super::writer::SheetSpec;
use crate::codes;
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_pipeline::Templated;
use afterload_tabular::write::xlsx::SheetLayout;
use afterload_target_db::{BindValues, SelectQuery, SelectRequest};

/// A sheet of a workbook with a query of its own.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ReportSheet {
    /// The name of the sheet; what spreadsheets forbid in a name is replaced, and a name that another sheet has gets a number.
    pub name: Templated<String>,
    /// One `SELECT`, as in `sql` of the report.
    #[serde(default)]
    pub sql: Option<String>,
    /// A file with the `SELECT` instead.
    #[serde(default)]
    pub sql_file: Option<String>,
    /// The values of the parameters.
    #[serde(default)]
    pub bind: BindValues,
    /// How columns are shown, by their names in the query.
    #[serde(default)]
    pub columns: ReportColumns,
}

impl ReportQuery {
    /// The queries with their values, in the order of the sheets.
    pub(super) fn select_requests(&self, dialect: Dialect) -> Result<Vec<SelectRequest>> {
        let request = |sql: &Option<String>, values: &BindValues| -> Result<SelectRequest> {
            let Some(text) = sql else {
                return Err(Error::new(codes::REPORT_SQL_MISSING, "the definition holds no SQL"));
            };
            Ok(SelectRequest { select: SelectQuery::parse(text, dialect)?, values: values.clone() })
        };
        if !self.sheets.is_empty() {
            return self.sheets.iter().map(|sheet| request(&sheet.sql, &sheet.bind)).collect();
        }
        let SelectRequest { select, values } = request(&self.sql, &self.bind)?;
        let select = match &self.group_by {
            Some(column) => select.grouped_by(column),
            None => select,
        };
        Ok(vec![SelectRequest { select, values }])
    }

    /// How the rows of each query are shown.
    pub(super) fn sheet_specs(&self) -> Result<Vec<SheetSpec>> {
        let spec = |name: Option<&Templated<String>>, columns: &ReportColumns| -> Result<SheetSpec> {
            let layout = SheetLayout {
                name: name.cloned().map(Templated::into_value).transpose()?,
                frozen_header: self.frozen_header,
                autofilter: self.autofilter,
                cut_texts: self.long_texts == LongTexts::Cut,
            };
            Ok(SheetSpec { layout, columns: columns.clone() })
        };
        match self.sheets.as_slice() {
            [] => spec(self.sheet.as_ref(), &self.columns).map(|only| vec![only]),
            sheets => sheets.iter().map(|sheet| spec(Some(&sheet.name), &sheet.columns)).collect(),
        }
    }
}
