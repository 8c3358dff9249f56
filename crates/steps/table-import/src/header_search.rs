//! Finds the header: the delimiter under which it has the wanted names, and the line where it stands below other text.

use std::collections::{BTreeMap, HashSet};

use super::columns::ImportColumn;
use afterload_tabular::read::csv_parser::{CsvDialect, CsvLimits, CsvParser, CsvRecord, RecordFault};
use afterload_tabular::read::header_name::normalize_header;
use afterload_tabular::read::utf8_decoder::show_invalid_bytes;

/// How many records are searched for the header.
pub const MAX_HEADER_RECORDS: usize = 100;

/// The text below skipped lines, from the beginning of a file.
pub struct HeadText<'a> {
    /// The text in UTF-8.
    pub text: &'a [u8],
    /// Whether this is the rest of the file.
    pub whole: bool,
    /// The limits of records.
    pub limits: CsvLimits,
    /// The offset of the text.
    pub offset: u64,
    /// The line of the text.
    pub line: u64,
}

/// The names that the columns of an import look for, in their normal form.
pub struct WantedHeaders {
    /// For each column its names, and whether the file must have one of them.
    columns: Vec<(Vec<String>, bool)>,
}

/// A record that may be the header.
#[derive(Clone, Debug)]
pub struct HeaderRecord {
    /// The names.
    pub names: Vec<String>,
    /// The delimiter by which the record was read.
    pub delimiter: u8,
    /// How many of the columns it has.
    pub matched: usize,
    /// Whether it has all columns that the file must have.
    pub complete: bool,
    /// What is wrong with the record.
    pub fault: Option<RecordFault>,
    /// Whether the sample ends before the record.
    pub unfinished: bool,
    /// Its line.
    pub line: u64,
    /// The offset after it.
    pub end: u64,
    /// The line after it.
    pub next_line: u64,
}

impl WantedHeaders {
    /// Collects the names.
    pub fn new(columns: &BTreeMap<String, ImportColumn>) -> Self {
        let from_file = columns.iter().filter(|(_, column)| column.value.is_none());
        let names = from_file.map(|(name, column)| {
            let wanted = column.wanted_headers(name).iter().map(|name| normalize_header(name)).collect();
            (wanted, column.default.is_none())
        });
        Self { columns: names.collect() }
    }

    /// Counts the columns that the names have. Also returns whether no needed one is missing.
    fn match_names(&self, names: &[String]) -> (usize, bool) {
        let known = names.iter().map(|name| normalize_header(name)).collect::<HashSet<_>>();
        let has = |wanted: &[String]| wanted.iter().any(|name| known.contains(name));
        let matched = self.columns.iter().filter(|(wanted, _)| has(wanted)).count();
        (matched, self.columns.iter().all(|(wanted, needed)| !needed || has(wanted)))
    }
}

/// Finds the header. The first record that is not blank is the header. If it has none of the wanted columns, `deep` allows a
/// later one that has all of them. The delimiter under which most wanted columns exist wins, then the earlier one of the list.
pub fn find_header(
    head: &HeadText<'_>,
    delimiters: &[u8],
    dialect: CsvDialect,
    wanted: &WantedHeaders,
    deep: bool,
) -> Option<HeaderRecord> {
    let mut first: Option<HeaderRecord> = None;
    for &delimiter in delimiters {
        let found = read_head(head, CsvDialect { delimiter, ..dialect }, wanted, 1).into_iter().next();
        if let Some(found) = found
            && first.as_ref().is_none_or(|best| found.matched > best.matched)
        {
            first = Some(found);
        }
    }
    let first = first?;
    if first.complete || first.matched > 0 || !deep {
        return Some(first);
    }
    let mut below = delimiters.iter().flat_map(|&delimiter| {
        read_head(head, CsvDialect { delimiter, ..dialect }, wanted, MAX_HEADER_RECORDS).into_iter().skip(1)
    });
    // One name alone could as well be the cell of a row.
    let found = below.find(|found| found.complete && found.matched > 1 && found.fault.is_none());
    Some(found.unwrap_or(first))
}

/// Reads up to `count` records that are not blank.
fn read_head(head: &HeadText<'_>, dialect: CsvDialect, wanted: &WantedHeaders, count: usize) -> Vec<HeaderRecord> {
    let mut parser = CsvParser::new(dialect, head.offset, head.line).with_limits(head.limits);
    let (mut input, mut record, mut found) = (head.text, CsvRecord::default(), Vec::new());
    while found.len() < count {
        let mut unfinished = false;
        if !parser.read_record(&mut input, &mut record) {
            // Only the first record matters if the sample ends within it.
            unfinished = !head.whole;
            if (unfinished && !found.is_empty()) || !parser.finish(&mut record) {
                break;
            }
        }
        if record.is_blank() {
            continue;
        }
        let next_line = parser.current_line();
        found.push(HeaderRecord { unfinished, ..HeaderRecord::new(&record, dialect.delimiter, next_line, wanted) });
    }
    found
}

/// Finds the header among the first rows of a sheet, as [`find_header`] does in a text.
pub fn find_header_row(rows: &[CsvRecord], wanted: &WantedHeaders, deep: bool) -> Option<HeaderRecord> {
    let filled = rows.iter().filter(|row| !row.is_blank()).take(MAX_HEADER_RECORDS);
    let mut records = filled.map(|row| HeaderRecord::new(row, b',', row.line + 1, wanted));
    let first = records.next()?;
    if first.complete || first.matched > 0 || !deep {
        return Some(first);
    }
    let found = records.find(|found| found.complete && found.matched > 1 && found.fault.is_none());
    Some(found.unwrap_or(first))
}

impl HeaderRecord {
    fn new(record: &CsvRecord, delimiter: u8, next_line: u64, wanted: &WantedHeaders) -> Self {
        let name = |field| show_invalid_bytes(field, false).trim().to_owned();
        let names = record.iter_fields().map(name).collect::<Vec<_>>();
        let (matched, complete) = wanted.match_names(&names);
        let CsvRecord { line, end, fault, .. } = *record;
        Self { names, delimiter, matched, complete, fault, unfinished: false, line, end, next_line }
    }
}
