//! The formats of sheets and of JSON Lines: their columns have no delimiter.

use std::sync::Arc;

use super::columns::ImportColumn;
use super::csv_format::{ColumnSource, CsvFormat, FileFormat, FormatStart, is_error_file};
use super::header_search::{WantedHeaders, find_header_row};
use super::{CsvImport, HeaderSpec, NumberSpec};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::read::csv_parser::{CsvDialect, CsvRecord};
use afterload_tabular::read::detect::{Confidence, DetectedEncoding};
use afterload_tabular::read::header_name::normalize_header;
use afterload_tabular::read::json_lines::{JsonColumns, collect_json_keys};
use afterload_tabular::read::text_encoding::TextEncoding;
use afterload_tabular::read::utf8_decoder::show_invalid_bytes;

/// The dialect of the error file.
fn error_dialect(spec: &CsvImport) -> Result<CsvDialect> {
    let quote = spec.quote_byte()?.unwrap_or(b'"');
    Ok(CsvDialect::new(spec.delimiter_byte()?.unwrap_or(b','), Some(quote)))
}

impl CsvFormat {
    /// Finds the header among the first rows of a sheet.
    ///
    /// # Errors
    /// `csv_empty`, or a fault of the header.
    pub fn from_rows(rows: &[CsvRecord], sheet: &str, spec: &CsvImport) -> Result<Self> {
        // An error file does not repeat the rows above the table.
        let name = |name| show_invalid_bytes(name, false).trim().to_owned();
        let corrected = rows.first().is_some_and(|row| is_error_file(&row.iter_fields().map(name).collect::<Vec<_>>()));
        let skipped = if corrected { 0 } else { spec.skip_rows };
        let below = rows.iter().position(|row| row.line > skipped).unwrap_or(rows.len());
        let wanted = WantedHeaders::new(&spec.columns);
        let deep = spec.skip_rows == 0 && matches!(spec.header, HeaderSpec::Flag(true));
        let found = find_header_row(&rows[below..], &wanted, deep);
        let start = FormatStart {
            encoding: DetectedEncoding { encoding: TextEncoding::utf8(), bom_len: 0, confidence: Confidence::High },
            dialect: error_dialect(spec)?,
            confidence: Confidence::High,
            offset: skipped,
            line: skipped + 1,
            whole: true,
        };
        let layout = Self::assemble(found, start, spec)?;
        Ok(Self { format: FileFormat::Xlsx, sheet: Some(sheet.to_owned()), ..layout })
    }

    /// Takes the keys of the first objects as columns, and those that the import can do without.
    ///
    /// # Errors
    /// `csv_empty` if no line is an object.
    pub fn from_json_lines(text: &[u8], whole: bool, encoding: DetectedEncoding, spec: &CsvImport) -> Result<Self> {
        let mut header = collect_json_keys(text, whole, spec.limits().columns);
        if header.is_empty() {
            return Err(Error::new(codes::CSV_EMPTY, "the file has no line that is a JSON object with members"));
        }
        // A later object may have a key that the first ones lack.
        let known = header.iter().map(|name| normalize_header(name)).collect::<Vec<_>>();
        let mut spellings = Vec::new();
        for (name, column) in spec.columns.iter().filter(|(_, column)| column.value.is_none()) {
            let wanted = column.wanted_headers(name);
            let found = wanted.iter().find_map(|name| {
                let name = normalize_header(name);
                known.iter().position(|known| *known == name)
            });
            let at = match found {
                Some(at) => at,
                None if column.default.is_some() => {
                    header.extend(wanted.first().cloned());
                    header.len() - 1
                }
                None => continue,
            };
            spellings.extend(wanted.into_iter().map(|name| (name, at)));
        }
        spellings.extend(header.iter().enumerate().map(|(at, name)| (name.clone(), at)));
        let columns = JsonColumns::new(&header, spellings.iter().map(|(name, at)| (name.as_str(), *at)));
        let named = CsvImport { header: HeaderSpec::Names(header), ..spec.clone() };
        let start = FormatStart {
            encoding,
            dialect: error_dialect(spec)?,
            confidence: Confidence::High,
            offset: if encoding.encoding.is_utf8() { encoding.bom_len as u64 } else { 0 },
            line: 1,
            whole,
        };
        let layout = Self::assemble(None, start, &named)?;
        Ok(Self { format: FileFormat::JsonLines(Arc::new(columns)), ..layout })
    }

    /// The marks before the fraction of numbers, by field. A sheet and JSON store numbers themselves: they become the text
    /// that the column expects, so that no mark is taken for another.
    pub fn number_marks(&self, spec: &CsvImport, sources: &[ColumnSource]) -> Vec<char> {
        let mut marks = vec!['.'; self.width];
        let fields = self.data_fields.as_deref();
        let mark = |column: &ImportColumn| {
            let number = column.number.as_ref().or(spec.number.as_ref());
            number.and_then(|number| NumberSpec::compile(number).ok()?.decimal.first().copied())
        };
        for (column, source) in spec.columns.values().zip(sources) {
            if let (ColumnSource::Field(field), Some(mark)) = (source, mark(column)) {
                let field = fields.map_or(*field, |fields| fields[*field]);
                marks[field] = mark;
            }
        }
        marks
    }

    /// The fields that columns are filled from.
    pub fn used_fields(&self, sources: &[ColumnSource]) -> Vec<usize> {
        let fields = self.data_fields.as_deref();
        let used = sources.iter().filter_map(|source| match source {
            ColumnSource::Field(field) => Some(fields.map_or(*field, |fields| fields[*field])),
            ColumnSource::Constant | ColumnSource::Missing => None,
        });
        used.collect()
    }
}
