//! Validates the `with:` block of `csv.import` before a run.

use encoding_rs::Encoding;

use super::column_codec::ColumnCodec;
use super::columns::{ImportColumn, ImportColumnType};
use super::{CsvImport, HeaderSpec, csv_format};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_pipeline::Validator;
use afterload_target_db::{self as connections, DbColumnType};

impl CsvImport {
    pub(super) fn check_options(&self, check: &mut Validator<'_>) {
        check.check_connection(&["connection"], &self.connection, !self.dry_run);
        self.check_format(check);
        if self.columns.is_empty() && check.is_readable(&["columns"]) {
            check.report_invalid(&["columns"], "`columns` names no column", "list the columns of the table to import");
        }
        for (name, column) in &self.columns {
            check_column(name, column, check);
        }
        self.check_conflict(check);
        if !(1..=100_000).contains(&self.chunk) {
            check.report_invalid(&["chunk"], "`chunk` must be from 1 to 100000", "10000 is a good choice");
        }
        if self.errors.file.is_empty() || self.errors.file.contains(['/', '\\', '\0', '\r', '\n']) {
            check.report_invalid(
                &["errors", "file"],
                "`errors.file` must be the name of a file",
                "such as `rejected.csv`",
            );
        }
        if self.report.is_some() {
            check.report_unsupported(&["report"], "`report`");
        }
    }

    fn check_format(&self, check: &mut Validator<'_>) {
        let settings = [
            ("encoding", self.declared_encoding().err()),
            ("delimiter", self.delimiter_byte().err()),
            ("quote", self.quote_byte().err()),
        ];
        for (field, error) in settings {
            if let Some(error) = error {
                check.report_invalid(&[field], error.message(), error.hint_text().unwrap_or_default());
            }
        }
        match &self.header {
            HeaderSpec::Flag(true) => {}
            HeaderSpec::Flag(false) => {
                let hint = "write `header: [first, second, …]`, as the columns stand in the file";
                check.report_invalid(&["header"], "a file without a header needs the names of its columns", hint);
            }
            HeaderSpec::Names(names) => {
                let repeated = names.iter().enumerate().find(|(at, name)| names[..*at].contains(name));
                if let Some((_, name)) = repeated {
                    check.report_invalid(&["header"], format!("`header` names `{name}` twice"), "");
                }
                if names.is_empty() {
                    check.report_invalid(&["header"], "`header` names no column", "");
                }
            }
        }
    }

    fn check_conflict(&self, check: &mut Validator<'_>) {
        let Some(conflict) = &self.into.on_conflict else { return };
        let path = ["into", "on_conflict", "keys"];
        if conflict.keys.is_empty() {
            check.report_invalid(&path, "`keys` names no column", "name the columns of a unique constraint");
        }
        for key in conflict.keys.iter().filter(|key| !self.columns.contains_key(*key)) {
            if check.is_present(&["columns", key]) || !check.is_readable(&["columns"]) && self.columns.is_empty() {
                continue;
            }
            check.report_invalid(&path, format!("key `{key}` is not imported"), "add it to `columns`");
        }
    }

    /// The requested encoding; `None` for `auto`.
    pub(super) fn declared_encoding(&self) -> Result<Option<&'static Encoding>> {
        match self.encoding.as_str() {
            "auto" => Ok(None),
            label => csv_format::encoding_for_label(label).map(Some).ok_or_else(|| {
                setting_error(
                    format!("unknown encoding `{label}`"),
                    "such as `auto`, `utf-8`, `utf-16le` or `windows-1252`",
                )
            }),
        }
    }

    /// The requested delimiter; `None` for `auto`.
    pub(super) fn delimiter_byte(&self) -> Result<Option<u8>> {
        match self.delimiter.as_bytes() {
            b"auto" => Ok(None),
            b"tab" => Ok(Some(b'\t')),
            [byte] if byte.is_ascii() && !matches!(byte, b'\r' | b'\n' | b'"' | 0) => Ok(Some(*byte)),
            _ => Err(setting_error(
                format!("`{}` is not a delimiter", self.delimiter),
                "`auto`, `tab`, or one ASCII character",
            )),
        }
    }

    /// The quote; `None` if quotes are ordinary characters.
    pub(super) fn quote_byte(&self) -> Result<Option<u8>> {
        match self.quote.as_bytes() {
            b"none" | b"" => Ok(None),
            [byte] if byte.is_ascii() && !byte.is_ascii_control() => Ok(Some(*byte)),
            _ => Err(setting_error(format!("`{}` is not a quote", self.quote), "`none`, or one ASCII character")),
        }
    }
}

fn setting_error(message: String, hint: &str) -> Error {
    Error::new(codes::WITH_INVALID, message).with_hint(hint)
}

fn check_column(name: &str, column: &ImportColumn, check: &mut Validator<'_>) {
    let at = |field| ["columns", name, field];
    let later = [("unique", column.unique), ("lookup", column.lookup.is_some()), ("split", column.split.is_some())];
    for (field, _) in later.into_iter().filter(|(_, used)| *used) {
        check.report_unsupported(&at(field), &format!("`{field}` of a column"));
    }
    if !check.is_readable(&at("type")) {
        return;
    }
    let untyped = connections::TableColumn {
        name: name.to_owned(),
        column_type: DbColumnType::Text,
        type_name: String::new(),
        not_null: false,
        max_length: None,
    };
    // Without a declared type, only the table decides whether `min` and `max` fit.
    let limited = column.kind.is_none() && (column.min.is_some() || column.max.is_some());
    let assumed = match limited {
        true => ImportColumn { min: None, max: None, ..column.clone() },
        false => column.clone(),
    };
    if let Err((field, message)) = ColumnCodec::new(&assumed, &untyped, false).map(drop) {
        check.report_invalid(&at(field), message, "");
    }
    if column.min_length > column.max_length && column.max_length.is_some() {
        check.report_invalid(&at("min_length"), "`min_length` is greater than `max_length`", "");
    }
    if column.formats.is_empty() {
        return;
    }
    if !matches!(column.kind, None | Some(ImportColumnType::Date | ImportColumnType::Datetime)) {
        check.report_invalid(
            &at("formats"),
            "`formats` is for dates and times",
            "set `type: date` or `type: datetime`",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use afterload_pipeline::ValidationContext;
    use afterload_spanned_yaml as yaml;
    use afterload_step_api::Step;

    fn found(with: serde_json::Value) -> Vec<(&'static str, String)> {
        let mut whole = json!({ "source": "${{ params.file }}", "into": { "table": "t" }, "columns": { "a": {} } });
        for (key, value) in with.as_object().unwrap() {
            whole[key] = value.clone();
        }
        let step: CsvImport = serde_json::from_value(whole).unwrap();
        let around = ValidationContext { connections: Some(["app".to_owned()].into()), ..ValidationContext::default() };
        let node = yaml::parse("").unwrap();
        let mut check = Validator::new(&node, &around);
        step.check(&mut check);
        check.finish().into_iter().map(|problem| (problem.code.name(), problem.message)).collect()
    }

    #[test]
    fn minimal_import_is_valid() {
        assert_eq!(found(json!({})), []);
    }

    #[test]
    fn invalid_options_are_reported() {
        let cases = [
            (json!({ "connection": "x" }), "unknown connection `x`"),
            (json!({ "columns": {} }), "`columns` names no column"),
            (json!({ "columns": { "a": { "pattern": "(" } } }), "`pattern` is not a regular expression"),
            (json!({ "columns": { "a": { "type": "enum" } } }), "needs `values`"),
            (
                json!({ "columns": { "a": { "type": "integer", "formats": ["%Y"] } } }),
                "`formats` is for dates and times",
            ),
            (json!({ "columns": { "a": { "min_length": 3, "max_length": 2 } } }), "`min_length` is greater"),
            (json!({ "into": { "table": "t", "on_conflict": { "keys": ["b"], "action": "skip" } } }), "key `b`"),
            (json!({ "encoding": "klingon" }), "unknown encoding `klingon`"),
            (json!({ "delimiter": "ab" }), "`ab` is not a delimiter"),
            (json!({ "quote": "é" }), "`é` is not a quote"),
            (json!({ "header": false }), "needs the names of its columns"),
            (json!({ "header": ["a", "a"] }), "names `a` twice"),
            (json!({ "chunk": 0 }), "`chunk` must be"),
            (json!({ "errors": { "file": "../x.csv" } }), "`errors.file`"),
        ];
        for (with, message) in cases {
            let problems = found(with.clone());
            let [(code, text)] = problems.as_slice() else { panic!("{with}: {problems:?}") };
            assert!(*code == "definition_invalid" && text.contains(message), "{with}: {text}");
        }
    }

    #[test]
    fn unsupported_options_are_rejected() {
        let columns = json!({ "a": { "unique": true, "lookup": { "table": "users" }, "split": "," } });
        let codes = found(json!({ "columns": columns, "report": { "table": "imports" } }));
        assert_eq!(codes.iter().map(|(code, _)| *code).collect::<Vec<_>>(), ["not_supported_yet"; 4]);
    }

    #[test]
    fn unknown_fields_are_rejected() {
        let with = json!({ "source": "${{ x }}", "into": { "table": "t" }, "columns": { "a": { "typo": 1 } } });
        assert!(serde_json::from_value::<CsvImport>(with).unwrap_err().to_string().contains("unknown field `typo`"));
    }
}
