//! The CSV parser: a state machine that accepts bytes in any pieces and holds at most one record.
//!
//! It accepts the same input as the `csv` crate. It also knows where each quote opened and where each record ended,
//! even in files with CR line ends. Its limits keep an unclosed quote from swallowing the rest of the file.

use memchr::{memchr, memchr2, memchr3, memchr3_iter};

use crate::codes;
use afterload_core::error::{Error, ErrorCode, Result};
use afterload_core::work::count_steps;

/// The maximum size of a field.
pub const MAX_FIELD_BYTES: usize = 64 << 10;
/// The maximum size of a record.
pub const MAX_RECORD_BYTES: usize = 1 << 20;
/// The maximum number of columns.
pub const MAX_CSV_COLUMNS: usize = 1024;
/// How far the parser searches for the closing quote of an oversized field. The result decides which error it reports.
const MAX_QUOTE_SEARCH_BYTES: usize = 16 << 20;

/// The delimiter and quote of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvDialect {
    /// The byte between fields.
    pub delimiter: u8,
    /// The quote around fields; `None` if quotes are ordinary characters.
    pub quote: Option<u8>,
}

/// One record, with its fields in one buffer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CsvRecord {
    /// The text of all fields, without quotes.
    pub bytes: Vec<u8>,
    /// The end offset of each field in `bytes`.
    pub ends: Vec<u32>,
    /// The line on which the record begins, from 1.
    pub line: u64,
    /// The offset after the record and its line end.
    pub end: u64,
    /// Whether text follows a closing quote.
    pub stray_quote: bool,
}

impl CsvRecord {
    /// Iterates over the fields.
    pub fn iter_fields(&self) -> impl Iterator<Item = &[u8]> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).map(|(start, end)| &self.bytes[start as usize..*end as usize])
    }

    /// Removes the fields after the first `width` if all of them are empty. Some exports end their rows with
    /// delimiters.
    pub fn drop_trailing_empty(&mut self, width: usize) {
        let filled = |end: &u32| (*end as usize) < self.bytes.len();
        if self.ends.len() > width && !width.checked_sub(1).and_then(|last| self.ends.get(last)).is_none_or(filled) {
            self.ends.truncate(width);
        }
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.stray_quote = false;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParserState {
    /// Before a record; line ends are skipped here.
    Start,
    /// Before the first byte of a field.
    FieldStart,
    /// In an unquoted field.
    Field,
    /// In a quoted field.
    Quoted,
    /// After a quote in a quoted field: the end of the field, or the first of two quotes.
    QuoteSeen,
    /// After a CR that ended a record; a LF may follow.
    AfterCr,
}

/// The state of the parser between two pieces of input.
#[derive(Clone, Debug)]
pub struct CsvParser {
    dialect: CsvDialect,
    state: ParserState,
    /// The offset of the next byte.
    offset: u64,
    /// The line of the next byte.
    line: u64,
    /// Whether the previous byte was a CR that already counted as a line end.
    cr: bool,
    /// Line and offset of the current field, or of its opening quote.
    opened: (u64, u64),
    /// Bytes of a quoted field beyond its limit.
    excess_bytes: usize,
}

impl CsvParser {
    /// Creates a parser whose first byte has this offset and line.
    pub fn new(dialect: CsvDialect, offset: u64, line: u64) -> Self {
        Self { dialect, state: ParserState::Start, offset, line, cr: false, opened: (line, offset), excess_bytes: 0 }
    }

    /// The line of the next byte.
    pub fn current_line(&self) -> u64 {
        self.line
    }

    /// Parses bytes and removes them from `input`. Returns true when `record` is complete.
    ///
    /// # Errors
    /// `csv_field_too_large`, `csv_record_too_large`, `csv_too_many_columns`, `csv_unclosed_quote`, each with `line` and
    /// `offset` in its details.
    pub fn read_record(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> Result<bool> {
        while let Some(&byte) = input.first() {
            count_steps(1);
            match self.state {
                ParserState::Start => match byte {
                    b'\n' | b'\r' => {
                        self.consume_bytes(input, 1);
                        self.count_line_end(byte);
                    }
                    _ if self.read_plain_record(input, record) => return Ok(true),
                    _ => {
                        record.clear();
                        record.line = self.line;
                        self.cr = false;
                        self.state = ParserState::FieldStart;
                    }
                },
                ParserState::FieldStart if Some(byte) == self.dialect.quote => {
                    self.opened = (self.line, self.offset);
                    self.excess_bytes = 0;
                    self.cr = false;
                    self.consume_bytes(input, 1);
                    self.state = ParserState::Quoted;
                }
                ParserState::FieldStart => {
                    self.opened = (self.line, self.offset);
                    self.state = ParserState::Field;
                }
                ParserState::Field => {
                    let found = memchr3(self.dialect.delimiter, b'\n', b'\r', input);
                    let text = &input[..found.unwrap_or(input.len())];
                    count_steps(text.len() + 1);
                    self.append_text(text, record)?;
                    self.consume_bytes(input, text.len());
                    if found.is_some() && self.end_field(input, record)? {
                        return Ok(true);
                    }
                }
                ParserState::Quoted => self.read_quoted(input, record)?,
                ParserState::QuoteSeen if Some(byte) == self.dialect.quote => {
                    let text = [byte];
                    self.append_quoted(&text, record)?;
                    self.consume_bytes(input, 1);
                    self.state = ParserState::Quoted;
                }
                ParserState::QuoteSeen => {
                    let ends = byte == self.dialect.delimiter || byte == b'\n' || byte == b'\r';
                    match (ends, self.excess_bytes > 0) {
                        (true, true) => return Err(self.field_too_large()),
                        (true, false) if self.end_field(input, record)? => return Ok(true),
                        (true, false) => {}
                        (false, true) => return Err(self.unclosed_quote()),
                        (false, false) => {
                            record.stray_quote = true;
                            self.state = ParserState::Field;
                        }
                    }
                }
                ParserState::AfterCr => {
                    if byte == b'\n' {
                        self.consume_bytes(input, 1);
                    }
                    return Ok(self.finish_record(record));
                }
            }
        }
        Ok(false)
    }

    /// The fast path for a record that is complete in the input and has no special cases. It needs no state. Otherwise
    /// it consumes nothing, and the state machine takes over.
    fn read_plain_record(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> bool {
        let (text, delimiter) = (*input, self.dialect.delimiter);
        record.clear();
        record.line = self.line;
        let (mut start, mut behind, mut searched) = (0, 0, 0);
        if self.dialect.quote == Some(delimiter) {
            return false;
        }
        for at in memchr3_iter(delimiter, b'\n', b'\r', text) {
            count_steps(at + 1 - searched);
            searched = at + 1;
            if at < behind {
                continue;
            }
            let mut field = start..at;
            if self.dialect.quote == Some(text[start]) {
                let Some(length) = memchr(text[start], &text[start + 1..]) else {
                    count_steps(text.len() - start);
                    return false;
                };
                count_steps(length + 1);
                let close = start + 1 + length;
                field = start + 1..close;
                if close >= at {
                    // This delimiter is part of the text. The real one comes after the closing quote.
                    if memchr2(b'\n', b'\r', &text[field]).is_some() {
                        return false;
                    }
                    behind = close + 1;
                    continue;
                }
                if close + 1 != at {
                    return false;
                }
            }
            let full = record.ends.len() == MAX_CSV_COLUMNS || record.bytes.len() + field.len() > MAX_RECORD_BYTES;
            if full || field.len() > MAX_FIELD_BYTES {
                return false;
            }
            record.bytes.extend_from_slice(&text[field]);
            record.ends.push(record.bytes.len() as u32);
            if text[at] == delimiter {
                start = at + 1;
                continue;
            }
            let length = match (text[at], text.get(at + 1)) {
                (b'\n', _) => 1,
                (_, Some(b'\n')) => 2,
                (_, Some(_)) => 1,
                (_, None) => return false,
            };
            self.consume_bytes(input, at + length);
            self.line += 1;
            return self.finish_record(record);
        }
        count_steps(text.len() - searched);
        false
    }

    /// Ends the input. Returns true if `record` is complete.
    ///
    /// # Errors
    /// The same errors as [`CsvParser::read_record`].
    pub fn finish(&mut self, record: &mut CsvRecord) -> Result<bool> {
        match self.state {
            ParserState::Start => Ok(false),
            ParserState::AfterCr => Ok(self.finish_record(record)),
            ParserState::Quoted => Err(self.unclosed_quote()),
            ParserState::QuoteSeen if self.excess_bytes > 0 => Err(self.field_too_large()),
            ParserState::FieldStart | ParserState::Field | ParserState::QuoteSeen => {
                self.push_field_end(record)?;
                Ok(self.finish_record(record))
            }
        }
    }

    /// The error for a record that is incomplete at the end of the input.
    pub fn unfinished_error(&self, record: &CsvRecord) -> Error {
        match self.state {
            ParserState::Quoted | ParserState::QuoteSeen => self.unclosed_quote(),
            _ => self.record_too_large(record),
        }
    }

    fn consume_bytes(&mut self, input: &mut &[u8], count: usize) {
        *input = &input[count..];
        self.offset += count as u64;
    }

    /// Counts lines. LF, CR and CRLF each end one line.
    fn count_line_end(&mut self, byte: u8) {
        if byte == b'\r' || !self.cr {
            self.line += 1;
        }
        self.cr = byte == b'\r';
    }

    fn finish_record(&mut self, record: &mut CsvRecord) -> bool {
        record.end = self.offset;
        self.state = ParserState::Start;
        self.cr = false;
        true
    }

    /// Ends the field at the next delimiter or line end. Returns true if this also ends the record.
    fn end_field(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> Result<bool> {
        self.push_field_end(record)?;
        let byte = input[0];
        self.consume_bytes(input, 1);
        if byte == self.dialect.delimiter {
            self.state = ParserState::FieldStart;
            return Ok(false);
        }
        self.line += 1;
        if byte == b'\r' {
            self.state = ParserState::AfterCr;
            return Ok(false);
        }
        Ok(self.finish_record(record))
    }

    fn push_field_end(&mut self, record: &mut CsvRecord) -> Result<()> {
        if record.ends.len() == MAX_CSV_COLUMNS {
            return Err(self.record_error(
                codes::CSV_TOO_MANY_COLUMNS,
                format!("a record has more than {MAX_CSV_COLUMNS} columns"),
                record,
            ));
        }
        record.ends.push(record.bytes.len() as u32);
        Ok(())
    }

    fn append_text(&mut self, text: &[u8], record: &mut CsvRecord) -> Result<()> {
        let start = record.ends.last().map_or(0, |end| *end as usize);
        if record.bytes.len() - start + text.len() > MAX_FIELD_BYTES {
            return Err(self.field_too_large());
        }
        if record.bytes.len() + text.len() > MAX_RECORD_BYTES {
            return Err(self.record_too_large(record));
        }
        record.bytes.extend_from_slice(text);
        Ok(())
    }

    fn read_quoted(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> Result<()> {
        let Some(quote) = self.dialect.quote else { return Ok(()) };
        let found = memchr(quote, input);
        let text = &input[..found.unwrap_or(input.len())];
        count_steps(text.len() + 1);
        if memchr3(b'\n', b'\r', b'\n', text).is_some() {
            for &byte in text {
                match byte {
                    b'\n' | b'\r' => self.count_line_end(byte),
                    _ => self.cr = false,
                }
            }
        } else if !text.is_empty() {
            self.cr = false;
        }
        self.append_quoted(text, record)?;
        self.consume_bytes(input, text.len());
        if found.is_some() {
            self.consume_bytes(input, 1);
            self.cr = false;
            self.state = ParserState::QuoteSeen;
        }
        Ok(())
    }

    fn append_quoted(&mut self, text: &[u8], record: &mut CsvRecord) -> Result<()> {
        let start = record.ends.last().map_or(0, |end| *end as usize);
        if self.excess_bytes == 0 && record.bytes.len() - start + text.len() <= MAX_FIELD_BYTES {
            return self.append_text(text, record);
        }
        self.excess_bytes += text.len().max(1);
        if self.excess_bytes > MAX_QUOTE_SEARCH_BYTES { Err(self.unclosed_quote()) } else { Ok(()) }
    }

    fn unclosed_quote(&self) -> Error {
        let (line, offset) = self.opened;
        let message = format!("the quote that opens on line {line} (byte {offset}) is never closed");
        error_at(codes::CSV_UNCLOSED_QUOTE, message, line, offset).with_hint(
            "close the quote, double it if it is part of the text, or say `quote: none` if the file has no quoting",
        )
    }

    fn field_too_large(&self) -> Error {
        let (line, offset) = self.opened;
        let message = format!("a field on line {line} (byte {offset}) is larger than {} KiB", MAX_FIELD_BYTES >> 10);
        error_at(codes::CSV_FIELD_TOO_LARGE, message, line, offset)
    }

    fn record_too_large(&self, record: &CsvRecord) -> Error {
        self.record_error(
            codes::CSV_RECORD_TOO_LARGE,
            format!("a record is larger than {} KiB", MAX_RECORD_BYTES >> 10),
            record,
        )
    }

    fn record_error(&self, code: ErrorCode, message: String, record: &CsvRecord) -> Error {
        let message = format!("{message}: it begins on line {} and goes beyond byte {}", record.line, self.opened.1);
        error_at(code, message, record.line, self.opened.1)
    }
}

fn error_at(code: ErrorCode, message: String, line: u64, offset: u64) -> Error {
    Error::new(code, message).with_details(serde_json::json!({ "line": line, "offset": offset }))
}

#[cfg(test)]
mod tests {
    use afterload_core::work::assert_linear;
    use proptest::prelude::*;

    use super::*;

    const COMMA: CsvDialect = CsvDialect { delimiter: b',', quote: Some(b'"') };

    /// Reads all records, with the input split into pieces of these sizes.
    fn read(input: &[u8], sizes: &[usize]) -> Result<Vec<CsvRecord>> {
        let mut parser = CsvParser::new(COMMA, 0, 1);
        let (mut record, mut records) = (CsvRecord::default(), Vec::new());
        let (mut rest, mut sizes) = (input, sizes.iter().cycle());
        while !rest.is_empty() {
            let size = sizes.next().map_or(rest.len(), |size| (*size).clamp(1, rest.len()));
            let (mut piece, after) = rest.split_at(size);
            while parser.read_record(&mut piece, &mut record)? {
                records.push(record.clone());
            }
            rest = after;
        }
        if parser.finish(&mut record)? {
            records.push(record);
        }
        Ok(records)
    }

    fn texts(records: &[CsvRecord]) -> Vec<Vec<String>> {
        let fields =
            |record: &CsvRecord| record.iter_fields().map(|field| String::from_utf8_lossy(field).into()).collect();
        records.iter().map(fields).collect()
    }

    fn refusal(input: &[u8]) -> (&'static str, serde_json::Value) {
        let error = read(input, &[4096]).unwrap_err();
        (error.code().name(), error.details().unwrap().clone())
    }

    #[test]
    fn hostile_files_take_linear_work() {
        for shape in [
            "\"",
            "\"\"",
            "\"a,",
            "\"a\n",
            "a,\"b\n",
            "a\"b,\n",
            "\"a\"b\n",
            "a,",
            "\n",
            "\r",
            "\"a\",\"b\"\n",
            "\"\n\",x",
        ] {
            assert_linear(shape, |count| shape.repeat(count), |text| drop(read(text.as_bytes(), &[64 << 10])));
            assert_linear(
                shape,
                |count| format!("\"{}\"", shape.repeat(count)),
                |text| drop(read(text.as_bytes(), &[])),
            );
        }
    }

    #[test]
    fn all_line_ends_are_parsed_and_counted() {
        for end in ["\n", "\r\n", "\r"] {
            let text = format!("a,b{end}{end}\"1{end}x\",2{end}3,{end},");
            let records = read(text.as_bytes(), &[]).unwrap();
            assert_eq!(texts(&records), [vec!["a", "b"], vec![&format!("1{end}x"), "2"], vec!["3", ""], vec!["", ""]]);
            assert_eq!(records.iter().map(|record| record.line).collect::<Vec<_>>(), [1, 3, 5, 6], "{end:?}");
            assert_eq!(records[0].end as usize, 3 + end.len());
            assert_eq!(records[3].end as usize, text.len());
        }
    }

    #[test]
    fn unclosed_quote_error_has_line_and_offset() {
        let mut input = b"a,b\n1,2\nx,\"open\n".to_vec();
        let place = serde_json::json!({ "line": 3, "offset": 10 });
        assert_eq!(refusal(&input), ("csv_unclosed_quote", place.clone()));
        input.extend(b"1,2\n".repeat(100_000));
        assert_eq!(refusal(&input), ("csv_unclosed_quote", place.clone()));
        input.extend(b"1,2\n".repeat(5_000_000));
        assert_eq!(refusal(&input), ("csv_unclosed_quote", place));
    }

    #[test]
    fn limits_are_enforced() {
        let long = "x".repeat(MAX_FIELD_BYTES);
        assert!(read(format!("{long},\"{long}\"\n").as_bytes(), &[777]).is_ok());
        assert_eq!(refusal(format!("a\n{long}x\n").as_bytes()).0, "csv_field_too_large");
        let place = serde_json::json!({ "line": 2, "offset": 2 });
        assert_eq!(refusal(format!("a\n\"{long}x\"\n").as_bytes()), ("csv_field_too_large", place));
        assert_eq!(refusal(format!("{long},").repeat(17).as_bytes()).0, "csv_record_too_large");
        assert!(read(",".repeat(MAX_CSV_COLUMNS - 1).as_bytes(), &[]).is_ok());
        assert_eq!(refusal(",".repeat(MAX_CSV_COLUMNS).as_bytes()).0, "csv_too_many_columns");
    }

    #[test]
    fn text_after_closing_quote_sets_stray_quote() {
        let records = read(b"\"a\"b,c\n\"d\",e\n", &[]).unwrap();
        assert_eq!(texts(&records), [["ab", "c"], ["d", "e"]]);
        assert_eq!([records[0].stray_quote, records[1].stray_quote], [true, false]);
    }

    proptest! {
        #[test]
        fn csv_crate_output_is_parsed_back(rows in prop::collection::vec(prop::collection::vec("[a-c,\"\r\n é]{0,6}", 3), 0..20),
                                                sizes in prop::collection::vec(1_usize..9, 1..9)) {
            let mut writer = csv::Writer::from_writer(Vec::new());
            for row in &rows {
                writer.write_record(row).unwrap();
            }
            let input = writer.into_inner().unwrap();
            let records = read(&input, &sizes).unwrap();
            prop_assert_eq!(texts(&records), rows);
        }

        #[test]
        fn chunk_sizes_do_not_matter(input in "[ab,\"\r\n]{0,60}", sizes in prop::collection::vec(1_usize..5, 1..9)) {
            let (whole, cut) = (read(input.as_bytes(), &[]), read(input.as_bytes(), &sizes));
            match (whole, cut) {
                (Ok(whole), Ok(cut)) => {
                    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(input.as_bytes());
                    let theirs = reader.records().map(|row| row.unwrap().iter().map(str::to_owned).collect::<Vec<_>>());
                    prop_assert_eq!(texts(&whole), theirs.collect::<Vec<_>>());
                    prop_assert_eq!(whole, cut);
                }
                (Err(whole), Err(cut)) => prop_assert_eq!(whole.to_string(), cut.to_string()),
                (whole, cut) => prop_assert!(false, "{:?} and {:?}", whole, cut),
            }
        }

        #[test]
        fn parsing_resumes_after_any_record(input in "[ab,\r\n]{0,60}") {
            let records = read(input.as_bytes(), &[]).unwrap();
            for (index, record) in records.iter().enumerate() {
                let rest = &input.as_bytes()[record.end as usize..];
                let next_line = input[..record.end as usize].replace("\r\n", "\n").matches(['\r', '\n']).count() as u64 + 1;
                let mut parser = CsvParser::new(COMMA, record.end, next_line);
                let (mut next, mut piece) = (CsvRecord::default(), rest);
                let found = parser.read_record(&mut piece, &mut next).unwrap() || parser.finish(&mut next).unwrap();
                prop_assert_eq!(found.then_some(&next), records.get(index + 1));
            }
        }
    }
}
