//! Validates a report before a run.

use super::{FormulaMode, ReportCompression, ReportFormat, ReportQuery};
use afterload_pipeline::Validator;
use afterload_tabular::write::format::CellFormat;
use afterload_target_db::SelectQuery;

impl ReportQuery {
    /// Reports every problem that the types do not exclude.
    pub(super) fn check_options(&self, check: &mut Validator<'_>) {
        check.check_connection(&["connection"], &self.connection, false);
        match (check.is_present(&["sql"]), check.is_present(&["sql_file"])) {
            (true, true) => check.report_invalid(&["sql_file"], "a report has only one of `sql` and `sql_file`", ""),
            (false, false) => check.report_invalid(&[], "a report needs `sql` or `sql_file`", ""),
            _ => {}
        }
        if let Some(text) = &self.sql {
            self.check_sql(text, check);
        }
        self.check_columns(check);
        if self.format == ReportFormat::Xlsx && self.compress != ReportCompression::None {
            check.report_invalid(&["compress"], "an `xlsx` file is packed already", "leave `compress` out");
        }
        if self.format != ReportFormat::Csv && self.formulas == FormulaMode::Keep {
            let message = "`formulas` is for CSV; other formats keep texts apart from formulas";
            check.report_invalid(&["formulas"], message, "leave `formulas` out");
        }
        if self.max_rows == 0 {
            check.report_invalid(&["max_rows"], "`max_rows` must be at least 1", "");
        }
        if self.timeout.as_millis() == 0 {
            check.report_invalid(&["timeout"], "`timeout` must be more than 0", "");
        }
    }

    fn check_sql(&self, text: &str, check: &mut Validator<'_>) {
        if text.contains("${{") {
            let hint = "write `:name` there, and `bind: { name: \"${{ … }}\" }` beside it";
            return check.report_invalid(&["sql"], "SQL cannot hold an expression", hint);
        }
        let select = match check.ctx.dialects.get(&self.connection) {
            Some(dialect) => SelectQuery::parse(text, *dialect),
            None => SelectQuery::parse_any(text),
        };
        let select = match select {
            Ok(select) => select,
            Err(error) => return check.report_refused(&["sql"], &error),
        };
        let allowed = check.ctx.functions.get(&self.connection).map(Vec::as_slice).unwrap_or_default();
        if let Err(error) = select.check_calls(allowed) {
            return check.report_refused(&["sql"], &error);
        }
        check.verify_query(&["sql"], &self.connection, text);
        for name in select.parameter_names().iter().filter(|name| !self.bind.contains_key(*name)) {
            check.report_invalid(&["sql"], format!("nothing fills `:{name}`"), format!("add `{name}` to `bind`"));
        }
        for name in self.bind.keys().filter(|name| !select.parameter_names().contains(name)) {
            check.report_invalid(&["bind", name], format!("the SQL has no `:{name}`"), "");
        }
    }

    fn check_columns(&self, check: &mut Validator<'_>) {
        for (name, column) in &self.columns.0 {
            let Some(code) = &column.format else { continue };
            let path = ["columns", name, "format"];
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
