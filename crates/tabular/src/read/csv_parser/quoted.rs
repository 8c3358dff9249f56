//! Quoted fields, and the recovery from quotes that never close.

use memchr::memchr2;

use super::{CsvParser, CsvRecord, LineBreak, ParserState, RecordFault};
use afterload_core::work::count_steps;

/// How many bytes behind the first line of a quoted field the parser searches for the closing quote, at the least.
const MAX_QUOTE_SEARCH_BYTES: usize = 8 << 20;

impl CsvParser {
    /// Reads the text of a quoted field. Returns true if its quote turns out to be unclosed.
    pub(super) fn read_quoted(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> bool {
        let Some(quote) = self.dialect.quote else { return false };
        if let (true, Some(line_break)) = (self.inner_quotes, self.line_break) {
            // Stray quotes and line ends in one field are hopeless. A search for its end would take long.
            if line_break.cr && input.first() == Some(&b'\n') {
                self.consume_bytes(input, 1);
            }
            self.recover_unclosed(record);
            return true;
        }
        let found = memchr2(quote, self.dialect.escape.unwrap_or(quote), input);
        let text = &input[..found.unwrap_or(input.len())];
        count_steps(text.len() + 1);
        let first_break = if self.line_break.is_none() { memchr2(b'\n', b'\r', text) } else { None };
        if let Some(at) = first_break {
            self.cross_first_line_end(at, input, record);
            return false;
        }
        if self.line_break.is_some()
            && self.raw.len() + text.len() > MAX_QUOTE_SEARCH_BYTES.max(self.limits.field_bytes)
        {
            self.recover_unclosed(record);
            return true;
        }
        if memchr2(b'\n', b'\r', text).is_some() {
            for &byte in text {
                match byte {
                    b'\n' | b'\r' => self.count_line_end(byte),
                    _ => self.cr = false,
                }
            }
        } else if !text.is_empty() {
            self.cr = false;
        }
        self.append_text(text, record);
        self.consume_bytes(input, text.len());
        if let Some(&byte) = input.first() {
            self.consume_bytes(input, 1);
            self.cr = false;
            (self.state, self.blanks) = match Some(byte) == self.dialect.escape && byte != quote {
                true => (ParserState::Escaped, 0),
                false => (ParserState::QuoteSeen, 0),
            };
        }
        false
    }

    /// Reads up to and with the first line end of a quoted field. From here on the bytes are kept, because they must be
    /// read again if the quote never closes.
    fn cross_first_line_end(&mut self, at: usize, input: &mut &[u8], record: &mut CsvRecord) {
        let byte = input[at];
        self.append_text(&input[..at], record);
        let length = record.bytes.len();
        if at > 0 {
            self.cr = false;
        }
        self.count_line_end(byte);
        self.append_text(&[byte], record);
        self.consume_bytes(input, at + 1);
        self.line_break = Some(LineBreak { length, cr: byte == b'\r' });
    }

    /// An escape makes a quote or another escape part of the text. Before other bytes it is text itself, as in paths.
    pub(super) fn read_escaped(&mut self, byte: u8, input: &mut &[u8], record: &mut CsvRecord) {
        if Some(byte) == self.dialect.quote || Some(byte) == self.dialect.escape {
            self.append_text(&[byte], record);
            self.consume_bytes(input, 1);
        } else if let Some(escape) = self.dialect.escape {
            self.append_text(&[escape], record);
        }
        self.state = ParserState::Quoted;
    }

    /// Reads a byte after a quote that may have closed the field. Returns true if this ends the record.
    pub(super) fn read_behind_quote(&mut self, byte: u8, input: &mut &[u8], record: &mut CsvRecord) -> bool {
        let (two, ends) = (self.state == ParserState::TwoQuotes, matches!(byte, b'\n' | b'\r'));
        if ends || byte == self.dialect.delimiter {
            if two {
                self.append_quote(record);
            }
            return self.end_field(input, record);
        }
        if two {
            self.append_quote(record);
            self.state = ParserState::Quoted;
        } else if self.state == ParserState::QuoteSeen && Some(byte) == self.dialect.quote {
            self.consume_bytes(input, 1);
            if self.inner_quotes {
                self.state = ParserState::TwoQuotes;
            } else {
                self.append_quote(record);
                self.state = ParserState::Quoted;
            }
        } else if byte == b' ' {
            self.blanks += 1;
            self.consume_bytes(input, 1);
            self.state = ParserState::QuoteBlank;
        } else if self.line_break.is_some() {
            // The quote that opens this text rather belongs to a later field, so the first quote was never closed.
            self.recover_unclosed(record);
            return true;
        } else {
            self.read_stray_quote(record);
        }
        false
    }

    /// Text follows a closing quote on the line on which the field begins.
    fn read_stray_quote(&mut self, record: &mut CsvRecord) {
        if self.dialect.lenient_quotes {
            self.inner_quotes = true;
            self.append_quote(record);
            self.state = ParserState::Quoted;
        } else {
            record.fault.get_or_insert(RecordFault::StrayQuote);
            self.state = ParserState::Field;
        }
        for _ in 0..std::mem::take(&mut self.blanks) {
            self.append_text(b" ", record);
        }
    }

    /// Ends the record with the line on which the unclosed quote opens. The bytes behind that line are read again.
    pub(super) fn recover_unclosed(&mut self, record: &mut CsvRecord) {
        let raw = std::mem::take(&mut self.raw);
        if let Some(LineBreak { length, cr }) = self.line_break.take() {
            record.bytes.truncate(length);
            let done = usize::from(cr && raw.first() == Some(&b'\n'));
            self.offset -= (raw.len() - done) as u64;
            self.line = self.opened + 1;
            self.unread = Some((raw, done));
        }
        // The quote stays, so that the rejected row looks as it was.
        if let Some(quote) = self.dialect.quote {
            record.bytes.insert(record.field_start(), quote);
        }
        self.close_field(record);
        record.fault = Some(RecordFault::UnclosedQuote { line: self.opened });
        self.finish_record(record);
    }
}
