//! The options of a workbook.

use super::ReportQuery;
use super::columns::ReportColumns;
use super::options::ReportFormat;
use afterload_pipeline::{Templated, Validator};
use afterload_tabular::write::is_valid_sheet_name;

/// The fields that only a workbook has.
const WORKBOOK_FIELDS: [&str; 5] = ["autofilter", "frozen_header", "long_texts", "sheet", "sheets"];
/// The fields that each sheet has for itself.
const SHEET_FIELDS: [&str; 6] = ["bind", "columns", "group_by", "sheet", "sql", "sql_file"];
/// The maximum number of queries in a workbook.
const MAX_SHEETS: usize = 100;
/// The greatest width of a column that spreadsheets accept, in characters.
const MAX_COLUMN_WIDTH: u16 = 255;

impl ReportQuery {
    /// Reports the problems of the options of a workbook.
    pub(super) fn check_workbook_options(&self, check: &mut Validator<'_>) {
        if self.format != ReportFormat::Xlsx {
            for field in WORKBOOK_FIELDS {
                if check.is_present(&[field]) {
                    check.report_invalid(&[field], format!("`{field}` is an option of `xlsx`"), "leave it out");
                }
            }
        }
        check_sheet_name(self.sheet.as_ref(), &["sheet"], check);
        self.check_widths(&self.columns, &["columns"], check);
        if self.sheets.is_empty() {
            if check.is_present(&["sheets"]) {
                check.report_invalid(&["sheets"], "`sheets` is empty", "name a query, or leave it out");
            }
            return;
        }
        for field in SHEET_FIELDS {
            if check.is_present(&[field]) {
                let message = format!("a report with `sheets` has no `{field}` of its own");
                check.report_invalid(&[field], message, "leave it out, or write it into a sheet");
            }
        }
        if self.sheets.len() > MAX_SHEETS {
            check.report_invalid(&["sheets"], format!("a workbook has at most {MAX_SHEETS} queries"), "");
        }
        for (at, sheet) in self.sheets.iter().enumerate() {
            let at = at.to_string();
            check_sheet_name(Some(&sheet.name), &["sheets", &at, "name"], check);
            self.check_widths(&sheet.columns, &["sheets", &at, "columns"], check);
            match (&sheet.sql, &sheet.sql_file) {
                (Some(_), Some(_)) => {
                    check.report_invalid(&["sheets", &at], "a sheet has only one of `sql` and `sql_file`", "");
                }
                (None, None) => check.report_invalid(&["sheets", &at], "a sheet needs `sql` or `sql_file`", ""),
                (Some(text), None) => self.check_sql(&["sheets", &at], text, &sheet.bind, check),
                (None, Some(_)) => {}
            }
        }
    }

    fn check_widths(&self, columns: &ReportColumns, at: &[&str], check: &mut Validator<'_>) {
        for (name, column) in &columns.0 {
            for (field, is_set) in [("width", column.width.is_some()), ("total", column.total.is_some())] {
                if is_set && self.format != ReportFormat::Xlsx {
                    let message = format!("`{field}` is an option of `xlsx`");
                    check.report_invalid(&[at, &[name.as_str(), field]].concat(), message, "leave it out");
                }
            }
            if column.width.is_some_and(|width| !(1..=MAX_COLUMN_WIDTH).contains(&width)) {
                check.report_invalid(&[at, &[name.as_str(), "width"]].concat(), "`width` must be from 1 to 255", "");
            }
        }
    }
}

fn check_sheet_name(name: Option<&Templated<String>>, at: &[&str], check: &mut Validator<'_>) {
    if let Some(name) = name.and_then(Templated::as_literal)
        && !is_valid_sheet_name(name)
    {
        let hint = "use at most 31 characters, and none of `[ ] : * ? / \\`";
        check.report_invalid(at, format!("`{name}` cannot be the name of a sheet"), hint);
    }
}
