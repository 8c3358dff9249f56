//! Validates the `with:` block of `csv.import` before a run.

use super::column_codec::{CodecContext, ColumnCodec};
use super::columns::{BlankAction, ImportColumn, ImportColumnType, NumberSpec};
use super::{CsvImport, HeaderSpec, KeyConflictAction, QuoteMode, SheetSpec};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_pipeline::Validator;
use afterload_tabular::read::csv_parser::{CsvDialect, CsvLimits};
use afterload_tabular::read::text_encoding::TextEncoding;
use afterload_tabular::read::unpack::UnpackLimits;
use afterload_target_db::{self as connections, DbColumnType};

/// The largest field that may be set. Chunks of rows are much smaller than 4 GiB, so that 32 bits hold each offset.
const MAX_FIELD_BYTES: u64 = 64 << 20;
/// The most memory that may be set for the texts of a workbook.
const MAX_SHARED_TEXT: u64 = 1 << 30;

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
        self.check_limits(check);
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
            ("escape", self.escape_byte().err()),
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

    fn check_limits(&self, check: &mut Validator<'_>) {
        if !(1..=MAX_FIELD_BYTES).contains(&self.max_field_size.0) {
            check.report_invalid(&["max_field_size"], "`max_field_size` must be from 1b to 64mb", "1mb is the default");
        }
        if !(1..=65_536).contains(&self.max_columns) {
            check.report_invalid(&["max_columns"], "`max_columns` must be from 1 to 65536", "16384 is the default");
        }
        if self.unpack.max_size.0 == 0 || self.unpack.max_ratio == 0 {
            let message = "`unpack.max_size` and `unpack.max_ratio` must not be 0";
            check.report_invalid(&["unpack"], message, "16gb and 200 are the defaults");
        }
        if self.unpack.max_shared_text.0 > MAX_SHARED_TEXT {
            let message = "`unpack.max_shared_text` must be at most 1gb";
            check.report_invalid(&["unpack", "max_shared_text"], message, "64mb is the default");
        }
        if self.sheet == Some(SheetSpec::Number(0)) {
            check.report_invalid(&["sheet"], "`sheet` must be a name, or a number from 1", "");
        }
        if self.skip_footer > 1000 {
            check.report_invalid(&["skip_footer"], "`skip_footer` must be at most 1000", "");
        }
        if let Some(Err(message)) = self.number.as_ref().map(NumberSpec::compile) {
            check.report_invalid(&["number"], message, "such as `de`, or `{ decimal: \",\", thousands: \".\" }`");
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
        let path = ["into", "on_conflict", "update"];
        match &conflict.update {
            Some(_) if conflict.action != KeyConflictAction::Update => {
                check.report_invalid(
                    &path,
                    "`update` names columns, but `action` does not update",
                    "set `action: update`",
                );
            }
            Some(columns) => {
                for column in columns.iter().filter(|column| !self.columns.contains_key(*column)) {
                    check.report_invalid(&path, format!("column `{column}` is not imported"), "add it to `columns`");
                }
            }
            None => {}
        }
    }

    /// The requested encoding; `None` for `auto`.
    pub(super) fn declared_encoding(&self) -> Result<Option<TextEncoding>> {
        match self.encoding.as_str() {
            "auto" => Ok(None),
            label => TextEncoding::for_label(label).map(Some).ok_or_else(|| {
                setting_error(
                    format!("unknown encoding `{label}`"),
                    "such as `auto`, `utf-8`, `utf-16le`, `windows-1252`, `cp850` or `mac_roman`",
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

    /// The escape before quotes; `None` if only doubled quotes are text.
    fn escape_byte(&self) -> Result<Option<u8>> {
        let delimiter = self.delimiter_byte().ok().flatten();
        match self.escape.as_bytes() {
            b"none" | b"" => Ok(None),
            // A quote that escapes quotes is a doubled quote.
            escape if escape == self.quote.as_bytes() => Ok(None),
            [byte] if byte.is_ascii_punctuation() && Some(*byte) != delimiter => Ok(Some(*byte)),
            _ => Err(setting_error(
                format!("`{}` is not an escape", self.escape),
                "`none`, or one punctuation mark such as `\\` that is not the delimiter",
            )),
        }
    }

    /// The dialect, with a comma in place of the delimiter.
    pub(super) fn base_dialect(&self) -> Result<CsvDialect> {
        Ok(CsvDialect {
            escape: self.escape_byte()?,
            lenient_quotes: self.quotes == QuoteMode::Lenient,
            ..CsvDialect::new(b',', self.quote_byte()?)
        })
    }

    /// The limits of archives.
    pub(super) fn unpack_limits(&self) -> UnpackLimits {
        UnpackLimits { bytes: self.unpack.max_size.0, ratio: self.unpack.max_ratio }
    }

    /// The limits of records.
    pub(super) fn limits(&self) -> CsvLimits {
        CsvLimits::new(self.max_field_size.0.min(MAX_FIELD_BYTES) as usize, self.max_columns.min(65_536) as usize)
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
    // Without a declared type, only the table decides whether `min`, `max` and the format of numbers fit. What an expression
    // gives is known when the step runs.
    let mut assumed = column.clone();
    if column.kind.is_none() {
        (assumed.min, assumed.max, assumed.number) = (None, None, None);
    }
    if column.value.as_ref().and_then(serde_json::Value::as_str).is_some_and(|text| text.contains("${{")) {
        assumed.value = None;
    }
    if let Err((field, message)) = ColumnCodec::new(&assumed, &untyped, CodecContext::default()).map(drop) {
        check.report_invalid(&at(field), message, "");
    }
    check_column_options(name, column, check);
    if column.min_length > column.max_length && column.max_length.is_some() {
        check.report_invalid(&at("min_length"), "`min_length` is greater than `max_length`", "");
    }
    let dated = !column.formats.is_empty() || column.timezone.is_some() || column.year_pivot.is_some();
    if !dated {
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

/// Reports options that contradict each other.
fn check_column_options(name: &str, column: &ImportColumn, check: &mut Validator<'_>) {
    let at = |field| ["columns", name, field];
    if column.value.is_some() && (column.default.is_some() || !column.matches.is_empty()) {
        let message = "`value` is the same in every row, so `match` and `default` mean nothing beside it";
        check.report_invalid(&at("value"), message, "leave one of them out");
    }
    let has_default = column.default.as_ref().is_some_and(|default| !default.is_null());
    if column.on_blank == BlankAction::Keep && has_default {
        let message = "`on_blank: keep` and `default` contradict each other: an empty cell writes nothing";
        check.report_invalid(&at("on_blank"), message, "use `on_blank: default`, or leave `default` out");
    }
    let has_words = column.true_values.is_some() || column.false_values.is_some();
    if has_words && !matches!(column.kind, None | Some(ImportColumnType::Boolean)) {
        let message = "`true_values` and `false_values` are for booleans";
        check.report_invalid(&at("true_values"), message, "set `type: boolean`, or use `map`");
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
            (json!({ "escape": "ab" }), "`ab` is not an escape"),
            (json!({ "escape": ";", "delimiter": ";" }), "`;` is not an escape"),
            (json!({ "number": "xx" }), "`xx` is not a known locale"),
            (json!({ "max_field_size": "1gb" }), "`max_field_size` must be"),
            (json!({ "max_columns": 0 }), "`max_columns` must be"),
            (json!({ "skip_footer": 1001 }), "`skip_footer` must be"),
            (json!({ "sheet": "People" }), "`sheet` is for `table.import`"),
            (json!({ "entry": "a.csv" }), "`entry` is for `table.import`"),
            (json!({ "unpack": { "max_ratio": 0 } }), "must not be 0"),
            (json!({ "unpack": { "max_shared_text": "2gb" } }), "`unpack.max_shared_text` must be"),
            (json!({ "columns": { "a": { "value": 1, "default": 2 } } }), "`value` is the same in every row"),
            (json!({ "columns": { "a": { "on_blank": "keep", "default": 2 } } }), "`on_blank: keep`"),
            (json!({ "columns": { "a": { "type": "integer", "true_values": ["x"] } } }), "are for booleans"),
            (json!({ "columns": { "a": { "timezone": "Mars/Olympus" } } }), "is not a time zone"),
            (
                json!({ "into": { "table": "t", "on_conflict": { "keys": ["a"], "action": "update", "update": ["b"] } } }),
                "column `b` is not imported",
            ),
            (
                json!({ "into": { "table": "t", "on_conflict": { "keys": ["a"], "action": "skip", "update": ["a"] } } }),
                "`action` does not update",
            ),
            (json!({ "errors": { "file": "../x.csv" } }), "`errors.file`"),
        ];
        for (with, message) in cases {
            let problems = found(with.clone());
            let [(code, text)] = problems.as_slice() else { panic!("{with}: {problems:?}") };
            assert!(*code == "definition_invalid" && text.contains(message), "{with}: {text}");
        }
    }

    #[test]
    fn constants_may_be_expressions() {
        let columns = json!({ "a": { "type": "integer", "value": "${{ params.tenant }}" }, "b": { "number": "de" } });
        assert_eq!(found(json!({ "columns": columns, "number": { "decimal": "," } })), []);
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
