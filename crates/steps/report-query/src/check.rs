//! What can be said of a report before it runs.

use super::format::Format;
use super::{Compress, FileFormat, ReportQuery};
use afterload_pipeline::Check;
use afterload_target_db::Select;

impl ReportQuery {
    /// Records every problem that types cannot show.
    pub(super) fn problems(&self, check: &mut Check<'_>) {
        check.connection(&["connection"], &self.connection, false);
        match (check.written(&["sql"]), check.written(&["sql_file"])) {
            (true, true) => check.problem(&["sql_file"], "a report has only one of `sql` and `sql_file`", ""),
            (false, false) => check.problem(&[], "a report needs `sql` or `sql_file`", ""),
            _ => {}
        }
        if let Some(text) = &self.sql {
            self.check_sql(text, check);
        }
        self.check_columns(check);
        if self.format == FileFormat::Xlsx && self.compress != Compress::None {
            check.problem(&["compress"], "an `xlsx` file is packed already", "leave `compress` out");
        }
        if self.max_rows == 0 {
            check.problem(&["max_rows"], "`max_rows` must be at least 1", "");
        }
        if self.timeout.millis() == 0 {
            check.problem(&["timeout"], "`timeout` must be more than 0", "");
        }
    }

    fn check_sql(&self, text: &str, check: &mut Check<'_>) {
        if text.contains("${{") {
            let hint = "write `:name` there, and `bind: { name: \"${{ … }}\" }` beside it";
            return check.problem(&["sql"], "SQL cannot hold an expression", hint);
        }
        let select = match check.around.dialects.get(&self.connection) {
            Some(dialect) => Select::parse(text, *dialect),
            None => Select::parse_any(text),
        };
        let select = match select {
            Ok(select) => select,
            Err(error) => return check.refused(&["sql"], &error),
        };
        for name in select.names().iter().filter(|name| !self.bind.contains_key(*name)) {
            check.problem(&["sql"], format!("nothing fills `:{name}`"), format!("add `{name}` to `bind`"));
        }
        for name in self.bind.keys().filter(|name| !select.names().contains(name)) {
            check.problem(&["bind", name], format!("the SQL has no `:{name}`"), "");
        }
    }

    fn check_columns(&self, check: &mut Check<'_>) {
        for (name, column) in &self.columns.0 {
            let Some(code) = &column.format else { continue };
            let path = ["columns", name, "format"];
            if code.is_empty() || code.chars().count() > 255 {
                check.problem(&path, "`format` must have 1 to 255 characters", "");
            } else if self.format == FileFormat::Csv && !Format::new(code).is_known() {
                let hint =
                    "such as `0.00`, `#,##0`, `0.0%`, `dd.mm.yyyy` or `yyyy-mm-dd hh:mm`; or shape it in the query";
                check.problem(&path, format!("`{code}` is a format that a CSV cannot show"), hint);
            }
        }
    }
}
