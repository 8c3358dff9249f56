//! The CSV parser: a state machine that accepts bytes in any pieces and holds at most one record.
//!
//! It accepts the same input as the `csv` crate. It also knows where each quote opened and where each record ended,
//! even in files with CR line ends. A record that cannot be used is returned with its fault, and the next record
//! follows. A quote that never closes costs its own line: the parser reads the lines after it again.

mod quoted;

use std::collections::VecDeque;

use memchr::{memchr, memchr2, memchr3, memchr3_iter};

pub use super::csv_dialect::{CsvDialect, CsvLimits};
pub use super::csv_record::{CsvRecord, RecordFault};
use afterload_core::work::count_steps;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ParserState {
    /// Before a record; line ends are skipped here.
    Start,
    /// Before the first byte of a field.
    FieldStart,
    /// After blanks at the start of a field; a quote may follow.
    FieldBlank,
    /// In an unquoted field.
    Field,
    /// In a quoted field.
    Quoted,
    /// After the escape byte in a quoted field.
    Escaped,
    /// After a quote in a quoted field: the end of the field, or the first of two quotes.
    QuoteSeen,
    /// After two quotes in a field with stray quotes: a doubled quote, or a quote and the end of the field.
    TwoQuotes,
    /// After a closing quote and blanks.
    QuoteBlank,
    /// After a CR that ended a record; a LF may follow.
    AfterCr,
}

/// The first line end inside a quoted field.
#[derive(Clone, Copy, Debug)]
struct LineBreak {
    /// The length of the record before the line end.
    length: usize,
    /// Whether the line ends with a CR.
    cr: bool,
}

/// The state of the parser between two pieces of input.
#[derive(Clone, Debug)]
pub struct CsvParser {
    dialect: CsvDialect,
    limits: CsvLimits,
    state: ParserState,
    /// The offset of the next byte.
    offset: u64,
    /// The line of the next byte.
    line: u64,
    /// Whether the previous byte was a CR that already counted as a line end.
    cr: bool,
    /// The line of the current field, or of its opening quote.
    opened: u64,
    /// Blanks after a closing quote.
    blanks: usize,
    /// Whether the current field holds a stray quote, which only a lenient dialect allows.
    inner_quotes: bool,
    /// The first line end in the current quoted field, and the bytes behind it.
    line_break: Option<LineBreak>,
    raw: Vec<u8>,
    /// Bytes to read again before further input, and how many of them are done.
    pending: VecDeque<(Vec<u8>, usize)>,
    /// Bytes behind an unclosed quote, on their way to `pending`.
    unread: Option<(Vec<u8>, usize)>,
    /// Empty lines since they were last taken.
    blank_lines: u64,
}

impl CsvParser {
    /// Creates a parser whose first byte has this offset and line.
    pub fn new(dialect: CsvDialect, offset: u64, line: u64) -> Self {
        Self {
            dialect,
            limits: CsvLimits::default(),
            state: ParserState::Start,
            offset,
            line,
            cr: false,
            opened: line,
            blanks: 0,
            inner_quotes: false,
            line_break: None,
            raw: Vec::new(),
            pending: VecDeque::new(),
            unread: None,
            blank_lines: 0,
        }
    }

    /// Sets the limits of records.
    #[must_use]
    pub fn with_limits(mut self, limits: CsvLimits) -> Self {
        self.limits = limits;
        self
    }

    /// The line of the next byte.
    pub fn current_line(&self) -> u64 {
        self.line
    }

    /// The number of empty lines since the last call.
    pub fn take_blank_lines(&mut self) -> u64 {
        std::mem::take(&mut self.blank_lines)
    }

    /// Parses bytes and removes them from `input`. Returns true when `record` is complete. A record that cannot be used
    /// has its fault.
    pub fn read_record(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> bool {
        while let Some((segment, done)) = self.pending.pop_front() {
            let mut rest = &segment[done..];
            let found = self.read_segment(&mut rest, record);
            let done = segment.len() - rest.len();
            if done < segment.len() {
                self.pending.push_front((segment, done));
            }
            self.queue_unread();
            if found {
                return true;
            }
        }
        let found = self.read_segment(input, record);
        self.queue_unread();
        found
    }

    /// Ends the input. Returns true if `record` is complete; then call it again, because more records may follow.
    pub fn finish(&mut self, record: &mut CsvRecord) -> bool {
        let mut nothing: &[u8] = &[];
        if self.read_record(&mut nothing, record) {
            return true;
        }
        match self.state {
            ParserState::Start => return false,
            ParserState::AfterCr => {}
            ParserState::Quoted | ParserState::Escaped => {
                self.recover_unclosed(record);
                self.queue_unread();
                return true;
            }
            ParserState::TwoQuotes => {
                self.append_quote(record);
                self.close_field(record);
            }
            ParserState::FieldStart
            | ParserState::FieldBlank
            | ParserState::Field
            | ParserState::QuoteSeen
            | ParserState::QuoteBlank => self.close_field(record),
        }
        self.finish_record(record)
    }

    fn queue_unread(&mut self) {
        if let Some(unread) = self.unread.take() {
            self.pending.push_front(unread);
        }
    }

    fn read_segment(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> bool {
        while let Some(&byte) = input.first() {
            count_steps(1);
            match self.state {
                ParserState::Start => match byte {
                    b'\n' | b'\r' => {
                        self.consume_bytes(input, 1);
                        let before = self.line;
                        self.count_line_end(byte);
                        self.blank_lines += self.line - before;
                    }
                    _ if self.read_plain_record(input, record) => return true,
                    _ => {
                        record.clear();
                        record.line = self.line;
                        self.cr = false;
                        self.state = ParserState::FieldStart;
                    }
                },
                ParserState::FieldStart | ParserState::FieldBlank => self.start_field(byte, input, record),
                ParserState::Field => {
                    let found = memchr3(self.dialect.delimiter, b'\n', b'\r', input);
                    let text = &input[..found.unwrap_or(input.len())];
                    count_steps(text.len() + 1);
                    self.append_text(text, record);
                    self.consume_bytes(input, text.len());
                    if found.is_some() && self.end_field(input, record) {
                        return true;
                    }
                }
                ParserState::Quoted => {
                    if self.read_quoted(input, record) {
                        return true;
                    }
                }
                ParserState::Escaped => self.read_escaped(byte, input, record),
                ParserState::QuoteSeen | ParserState::TwoQuotes | ParserState::QuoteBlank => {
                    if self.read_behind_quote(byte, input, record) {
                        return true;
                    }
                }
                ParserState::AfterCr => {
                    if byte == b'\n' {
                        self.consume_bytes(input, 1);
                    }
                    return self.finish_record(record);
                }
            }
        }
        false
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
                if self.dialect.escape.is_some_and(|escape| memchr(escape, &text[field.clone()]).is_some()) {
                    return false;
                }
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
            } else if text[start] == b' ' && self.is_quoted_behind_blanks(&text[start..at]) {
                return false;
            }
            let full = record.ends.len() == self.limits.columns
                || record.bytes.len() + field.len() > self.limits.record_bytes
                || field.len() > self.limits.field_bytes;
            if full {
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

    fn is_quoted_behind_blanks(&self, field: &[u8]) -> bool {
        self.dialect.quote.is_some() && field.iter().find(|byte| **byte != b' ') == self.dialect.quote.as_ref()
    }

    fn consume_bytes(&mut self, input: &mut &[u8], count: usize) {
        if self.line_break.is_some() {
            self.raw.extend_from_slice(&input[..count]);
        }
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

    /// Reads the first byte of a field, or one after blanks. A quote after blanks is a quote, too.
    fn start_field(&mut self, byte: u8, input: &mut &[u8], record: &mut CsvRecord) {
        if Some(byte) == self.dialect.quote {
            self.opened = self.line;
            self.inner_quotes = false;
            self.cr = false;
            record.bytes.truncate(record.field_start());
            self.consume_bytes(input, 1);
            self.state = ParserState::Quoted;
        } else if byte == b' ' && self.dialect.delimiter != b' ' && self.dialect.quote.is_some() {
            self.opened = self.line;
            self.append_text(b" ", record);
            self.consume_bytes(input, 1);
            self.state = ParserState::FieldBlank;
        } else {
            self.opened = self.line;
            self.state = ParserState::Field;
        }
    }

    /// Ends the field at the next delimiter or line end. Returns true if this also ends the record.
    fn end_field(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> bool {
        self.close_field(record);
        let byte = input[0];
        self.consume_bytes(input, 1);
        if byte == self.dialect.delimiter {
            self.state = ParserState::FieldStart;
            return false;
        }
        self.line += 1;
        if byte == b'\r' {
            self.state = ParserState::AfterCr;
            return false;
        }
        self.finish_record(record)
    }

    fn close_field(&mut self, record: &mut CsvRecord) {
        self.line_break = None;
        self.raw.clear();
        if record.ends.len() < self.limits.columns {
            record.ends.push(record.bytes.len() as u32);
            return;
        }
        record.bytes.truncate(record.field_start());
        record.fault.get_or_insert(RecordFault::TooManyColumns { limit: self.limits.columns });
    }

    /// Appends text to the field. What exceeds a limit is dropped.
    fn append_text(&mut self, text: &[u8], record: &mut CsvRecord) {
        let limits = self.limits;
        let field_room = limits.field_bytes.saturating_sub(record.bytes.len() - record.field_start());
        let room = field_room.min(limits.record_bytes.saturating_sub(record.bytes.len()));
        if text.len() <= room {
            record.bytes.extend_from_slice(text);
            return;
        }
        record.bytes.extend_from_slice(&text[..room]);
        record.fault.get_or_insert(if room == field_room {
            RecordFault::FieldTooLarge { line: self.opened, limit: limits.field_bytes }
        } else {
            RecordFault::RecordTooLarge { limit: limits.record_bytes }
        });
    }

    fn append_quote(&mut self, record: &mut CsvRecord) {
        if let Some(quote) = self.dialect.quote {
            self.append_text(&[quote], record);
        }
    }
}

#[cfg(test)]
mod tests;
