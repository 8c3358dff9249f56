//! The parser of JSON Lines: one object per line, whose keys name the columns. Like the CSV parser, it accepts bytes in any
//! pieces and holds at most one record.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use memchr::memchr;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::csv_dialect::CsvLimits;
use super::csv_record::{CsvRecord, RecordFault};
use super::header_name::normalize_header;

/// The columns of a file: the keys of its objects.
#[derive(Clone, Debug, Default)]
pub struct JsonColumns {
    fields: HashMap<String, usize>,
    /// Keys in another spelling than that of the first object.
    spellings: HashMap<String, usize>,
    width: usize,
}

/// The members of an object in their order.
struct JsonObject<'a>(Vec<(String, &'a RawValue)>);

/// The parser.
#[derive(Clone, Debug)]
pub struct JsonLinesParser {
    columns: Arc<JsonColumns>,
    /// The mark before the fraction of numbers, by column.
    marks: Vec<char>,
    limits: CsvLimits,
    offset: u64,
    line: u64,
    blank_lines: u64,
    /// The start of a line whose end has not been read.
    held: Vec<u8>,
    /// Whether the rest of a line that is too long is left out.
    is_cut: bool,
}

impl<'de: 'a, 'a> Deserialize<'de> for JsonObject<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Vec<(String, &'de RawValue)>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry::<String, &'de RawValue>()? {
                    members.push(member);
                }
                Ok(members)
            }
        }
        deserializer.deserialize_map(Members).map(JsonObject)
    }
}

/// The keys of the objects in a text, in the order in which they appear. `whole` says that the text does not end in a line.
pub fn collect_json_keys(text: &[u8], whole: bool, max: usize) -> Vec<String> {
    let mut keys: Vec<String> = Vec::new();
    let mut known = std::collections::HashSet::new();
    let end = if whole { text.len() } else { memchr::memrchr(b'\n', text).unwrap_or(0) };
    for line in text[..end].split(|byte| *byte == b'\n') {
        let Ok(JsonObject(members)) = serde_json::from_slice::<JsonObject<'_>>(line) else { continue };
        for (key, _) in members {
            if keys.len() < max && known.insert(key.clone()) {
                keys.push(key);
            }
        }
    }
    keys
}

impl JsonColumns {
    /// Columns of these names, and others under which they are known.
    pub fn new<'a>(names: &[String], spellings: impl Iterator<Item = (&'a str, usize)>) -> Self {
        let fields = names.iter().enumerate().map(|(at, name)| (name.clone(), at)).collect();
        Self {
            fields,
            spellings: spellings.map(|(name, at)| (normalize_header(name), at)).collect(),
            width: names.len(),
        }
    }

    fn find(&self, key: &str) -> Option<usize> {
        let exact = self.fields.get(key);
        exact.or_else(|| self.spellings.get(&normalize_header(key))).copied()
    }
}

impl JsonLinesParser {
    /// Creates a parser whose first byte has this offset and line. Numbers are written with the mark of their column.
    pub fn new(columns: Arc<JsonColumns>, marks: Vec<char>, limits: CsvLimits, offset: u64, line: u64) -> Self {
        Self { columns, marks, limits, offset, line, blank_lines: 0, held: Vec::new(), is_cut: false }
    }

    /// The line of the next byte.
    pub fn current_line(&self) -> u64 {
        self.line
    }

    /// The number of empty lines since the last call.
    pub fn take_blank_lines(&mut self) -> u64 {
        std::mem::take(&mut self.blank_lines)
    }

    /// Parses bytes and removes them from `input`. Returns true when `record` is complete.
    pub fn read_record(&mut self, input: &mut &[u8], record: &mut CsvRecord) -> bool {
        loop {
            let Some(end) = memchr(b'\n', input) else {
                self.hold(input);
                *input = &[];
                return false;
            };
            let (line, rest) = (&input[..end], &input[end + 1..]);
            *input = rest;
            let found = if self.held.is_empty() && line.len() <= self.limits.record_bytes {
                self.offset += line.len() as u64;
                self.parse_line(line, 1, record)
            } else {
                self.hold(line);
                self.parse_held(1, record)
            };
            if found {
                return true;
            }
        }
    }

    /// Ends the input. Returns true if `record` is complete; then call it again.
    pub fn finish(&mut self, record: &mut CsvRecord) -> bool {
        !self.held.is_empty() && self.parse_held(0, record)
    }

    fn hold(&mut self, bytes: &[u8]) {
        let room = self.limits.record_bytes.saturating_sub(self.held.len());
        self.offset += bytes.len() as u64;
        self.is_cut |= bytes.len() > room;
        self.held.extend_from_slice(&bytes[..bytes.len().min(room)]);
    }

    fn parse_held(&mut self, line_end: u64, record: &mut CsvRecord) -> bool {
        let held = std::mem::take(&mut self.held);
        let found = self.parse_line(&held, line_end, record);
        // The memory is used again.
        self.held = held;
        self.held.clear();
        found
    }

    /// Parses a line whose bytes are counted already. Returns false if it is blank.
    fn parse_line(&mut self, line: &[u8], line_end: u64, record: &mut CsvRecord) -> bool {
        let at = self.line;
        self.offset += line_end;
        self.line += line_end;
        let is_cut = std::mem::take(&mut self.is_cut);
        if line.trim_ascii().is_empty() && !is_cut {
            self.blank_lines += line_end;
            return false;
        }
        record.clear();
        (record.line, record.end) = (at, self.offset);
        if is_cut {
            record.fault = Some(RecordFault::RecordTooLarge { limit: self.limits.record_bytes });
            self.show_line(line, record);
            return true;
        }
        match serde_json::from_slice::<JsonObject<'_>>(line) {
            Ok(JsonObject(members)) => self.fill_record(members, record),
            Err(_) => {
                record.fault = Some(RecordFault::InvalidJson);
                self.show_line(line, record);
            }
        }
        true
    }

    /// Keeps a line that is no object in the first field, for the error file.
    fn show_line(&self, line: &[u8], record: &mut CsvRecord) {
        let shown = line.trim_ascii();
        record.bytes.extend_from_slice(&shown[..shown.len().min(self.limits.field_bytes)]);
        record.ends.push(record.bytes.len() as u32);
        record.pad_fields(self.columns.width);
    }

    fn fill_record(&self, members: Vec<(String, &RawValue)>, record: &mut CsvRecord) {
        let mut cells: Vec<Cow<'_, str>> = vec![Cow::Borrowed(""); self.columns.width];
        for (key, value) in members {
            // Of two equal keys the last one counts, as everywhere in JSON.
            if let Some(at) = self.columns.find(&key) {
                cells[at] = cell_text(value.get(), self.marks.get(at).copied().unwrap_or('.'));
            }
        }
        for cell in cells {
            if cell.len() > self.limits.field_bytes {
                let fault = RecordFault::FieldTooLarge { line: record.line, limit: self.limits.field_bytes };
                record.fault.get_or_insert(fault);
            } else {
                record.bytes.extend_from_slice(cell.as_bytes());
            }
            record.ends.push(record.bytes.len() as u32);
        }
    }
}

/// The text of a value: of a string its characters, of null nothing, of lists and objects their JSON.
fn cell_text(value: &str, mark: char) -> Cow<'_, str> {
    match value.as_bytes().first() {
        Some(b'"') => match serde_json::from_str::<String>(value) {
            Ok(text) => Cow::Owned(text),
            Err(_) => Cow::Borrowed(value),
        },
        Some(b'n') => Cow::Borrowed(""),
        Some(b'-' | b'0'..=b'9') if mark != '.' && value.contains('.') => {
            Cow::Owned(value.replace('.', mark.encode_utf8(&mut [0; 4])))
        }
        _ => Cow::Borrowed(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8], piece: usize) -> Vec<(u64, Vec<String>, bool)> {
        let names = ["id".to_owned(), "name".to_owned(), "more".to_owned()];
        let columns = JsonColumns::new(&names, [("Full Name", 1)].into_iter());
        let limits = CsvLimits { field_bytes: 100, record_bytes: 200, columns: 10 };
        let mut parser = JsonLinesParser::new(Arc::new(columns), vec!['.', '.', ','], limits, 0, 1);
        let (mut record, mut found) = (CsvRecord::default(), Vec::new());
        let mut keep = |record: &CsvRecord| {
            let cells = record.iter_fields().map(|cell| String::from_utf8_lossy(cell).into_owned()).collect();
            found.push((record.line, cells, record.fault.is_some()));
        };
        for mut input in text.chunks(piece) {
            while parser.read_record(&mut input, &mut record) {
                keep(&record);
            }
        }
        while parser.finish(&mut record) {
            keep(&record);
        }
        assert_eq!((record.end, parser.take_blank_lines()), (text.len() as u64, 2));
        found
    }

    #[test]
    fn lines_are_records_in_any_pieces() {
        let long = format!("{{\"id\": \"{}\"}}", "x".repeat(300));
        let text = format!(
            "{{\"id\": 1, \"full name\": \"Z\\u00fc\\n\", \"other\": 1}}\r\n\n{{\"more\": {{\"a\": [1, \"x\"]}}, \"id\": null}}\n \n\
             {{\"id\": 12345678901234567890, \"more\": 1.50}}\n[1]\n{{\"id\": \n{long}\n{{\"id\": true, \"name\": \"\\ud800\"}}\n{{\"name\": \"last\", \"id\": 1e5}}"
        );
        let expected = [
            (1, ["1", "Zü\n", ""], false),
            (3, ["", "", "{\"a\": [1, \"x\"]}"], false),
            (5, ["12345678901234567890", "", "1,50"], false),
            (6, ["[1]", "", ""], true),
            (7, ["{\"id\":", "", ""], true),
        ];
        for piece in [1, 7, 10_000] {
            let found = read(text.as_bytes(), piece);
            for (found, (line, cells, fault)) in found.iter().zip(&expected) {
                let cells = cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>();
                assert_eq!(*found, (*line, cells, *fault));
            }
            assert_eq!((found.len(), found[5].2), (8, true));
            assert_eq!(found[7], (10, vec!["1e5".to_owned(), "last".into(), String::new()], false));
        }
    }

    #[test]
    fn keys_are_collected_in_order() {
        let text = b"{\"b\":1,\"a\":2}\nbroken\n{\"a\":3,\"c\":4}\n{\"cut\":1";
        assert_eq!(collect_json_keys(text, false, 10), ["b", "a", "c"]);
        assert_eq!(collect_json_keys(text, true, 2), ["b", "a"]);
    }
}
