//! Validates a report before a run.

use super::ReportQuery;
use super::columns::ReportColumns;
use super::options::{ReportCompression, ReportFormat};
use afterload_pipeline::Validator;
use afterload_tabular::write::format::CellFormat;
use afterload_target_db::{BindValues, SelectQuery};

/// The most items of a `for_each`, which mails the files.
const MAX_GROUPS: usize = 10_000;

impl ReportQuery {
    /// Reports every problem that the types do not exclude.
    pub(super) fn check_options(&self, check: &mut Validator<'_>) {
        check.check_connection(&["connection"], &self.connection, false);
        match (check.is_present(&["sql"]), check.is_present(&["sql_file"])) {
            _ if check.is_present(&["sheets"]) => {}
            (true, true) => check.report_invalid(&["sql_file"], "a report has only one of `sql` and `sql_file`", ""),
            (false, false) => check.report_invalid(&[], "a report needs `sql` or `sql_file`", ""),
            _ => {}
        }
        if let Some(text) = &self.sql {
            self.check_sql(&[], text, &self.bind, check);
        }
        self.check_formats(&self.columns, &["columns"], check);
        for (at, sheet) in self.sheets.iter().enumerate() {
            self.check_formats(&sheet.columns, &["sheets", &at.to_string(), "columns"], check);
        }
        if self.format == ReportFormat::Xlsx && self.compress != ReportCompression::None {
            check.report_invalid(&["compress"], "an `xlsx` file is packed already", "leave `compress` out");
        }
        self.check_csv_options(check);
        self.check_workbook_options(check);
        self.check_groups(check);
        if self.max_rows == 0 {
            check.report_invalid(&["max_rows"], "`max_rows` must be at least 1", "");
        }
        if self.timeout.as_millis() == 0 {
            check.report_invalid(&["timeout"], "`timeout` must be more than 0", "");
        }
    }

    fn check_groups(&self, check: &mut Validator<'_>) {
        match &self.group_by {
            Some(column) if column.is_empty() => {
                check.report_invalid(&["group_by"], "`group_by` must name a column of the query", "");
            }
            None if check.is_present(&["max_groups"]) => {
                check.report_invalid(&["max_groups"], "`max_groups` needs `group_by`", "leave it out");
            }
            _ => {}
        }
        if !(1..=MAX_GROUPS).contains(&self.max_groups) {
            let hint = "a `for_each` takes no more than 10,000 items";
            check.report_invalid(&["max_groups"], "`max_groups` must be from 1 to 10000", hint);
        }
    }

    /// Checks the SQL of the query at the path `at`.
    pub(super) fn check_sql(&self, at: &[&str], text: &str, bind: &BindValues, check: &mut Validator<'_>) {
        let path = [at, &["sql"]].concat();
        let path = path.as_slice();
        if text.contains("${{") {
            let hint = "write `:name` there, and `bind: { name: \"${{ … }}\" }` beside it";
            return check.report_invalid(path, "SQL cannot hold an expression", hint);
        }
        let select = match check.ctx.dialects.get(&self.connection) {
            Some(dialect) => SelectQuery::parse(text, *dialect),
            None => SelectQuery::parse_any(text),
        };
        let select = match select {
            Ok(select) => select,
            Err(error) => return check.report_refused(path, &error),
        };
        let allowed = check.ctx.functions.get(&self.connection).map(Vec::as_slice).unwrap_or_default();
        if let Err(error) = select.check_calls(allowed) {
            return check.report_refused(path, &error);
        }
        check.verify_query(path, &self.connection, text);
        for name in select.parameter_names().iter().filter(|name| !bind.contains_key(*name)) {
            check.report_invalid(path, format!("nothing fills `:{name}`"), format!("add `{name}` to `bind`"));
        }
        for name in bind.keys().filter(|name| !select.parameter_names().contains(name)) {
            let path = [at, &["bind", name.as_str()]].concat();
            check.report_invalid(&path, format!("the SQL has no `:{name}`"), "");
        }
    }

    fn check_formats(&self, columns: &ReportColumns, at: &[&str], check: &mut Validator<'_>) {
        for (name, column) in &columns.0 {
            let Some(code) = &column.format else { continue };
            let path = [at, &[name.as_str(), "format"]].concat();
            if code.is_empty() || code.chars().count() > 255 {
                check.report_invalid(&path, "`format` must have 1 to 255 characters", "");
            } else if self.format == ReportFormat::Csv && !CellFormat::new(code).is_supported() {
                let hint =
                    "such as `0.00`, `#,##0`, `0.0%`, `dd.mm.yyyy` or `yyyy-mm-dd hh:mm`; or shape it in the query";
                check.report_invalid(&path, format!("`{code}` is a format that a CSV cannot show"), hint);
            }
        }
    }
}
