//! XML of a workbook, event by event, with a limit on what one event may hold.

use std::io::{self, BufRead, BufReader, Read};

use quick_xml::Reader;
use quick_xml::events::{BytesStart, Event};

use crate::codes;
use crate::read::unpack::{UnpackedReader, unpack_error};
use afterload_core::error::{Error, Result};

/// The largest text or element. A cell holds 32,767 characters.
const MAX_EVENT_BYTES: usize = 4 << 20;
/// How deep elements may stand. Those of workbooks need about ten levels.
const MAX_DEPTH: usize = 64;
const READ_BUFFER_SIZE: usize = 64 << 10;

/// Reads the events of a part of a workbook.
pub struct PartReader<R: Read> {
    reader: Reader<EventLimit<BufReader<UnpackedReader<R>>>>,
    buffer: Vec<u8>,
    depth: usize,
}

/// Fails if one event takes too many bytes.
struct EventLimit<R> {
    inner: R,
    left: usize,
}

impl<R: BufRead> Read for EventLimit<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(into)?;
        self.consume(count);
        Ok(count)
    }
}

impl<R: BufRead> BufRead for EventLimit<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.left == 0 {
            let message = format!("an element or a text is larger than {MAX_EVENT_BYTES} bytes");
            return Err(io::Error::other(invalid_workbook(message)));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.left = self.left.saturating_sub(count);
        self.inner.consume(count);
    }
}

impl<R: Read> PartReader<R> {
    /// Reads the unpacked bytes of a part.
    pub fn new(part: UnpackedReader<R>) -> Self {
        let inner = BufReader::with_capacity(READ_BUFFER_SIZE, part);
        let reader = Reader::from_reader(EventLimit { inner, left: MAX_EVENT_BYTES });
        Self { reader, buffer: Vec::new(), depth: 0 }
    }

    /// Reads the next event.
    ///
    /// # Errors
    /// `workbook_invalid`, or the error of the archive.
    pub fn next_event(&mut self) -> Result<Event<'_>> {
        self.buffer.clear();
        self.reader.get_mut().left = MAX_EVENT_BYTES;
        let event = self.reader.read_event_into(&mut self.buffer).map_err(|error| xml_error(&error))?;
        match &event {
            Event::Start(_) if self.depth == MAX_DEPTH => {
                return Err(invalid_workbook(format!("its elements stand more than {MAX_DEPTH} levels deep")));
            }
            Event::Start(_) => self.depth += 1,
            Event::End(_) => self.depth = self.depth.saturating_sub(1),
            Event::Eof if self.depth > 0 => return Err(invalid_workbook("a part of it ends early")),
            _ => {}
        }
        Ok(event)
    }

    /// The number of unpacked bytes that have been read.
    pub fn unpacked(&mut self) -> u64 {
        self.reader.get_mut().inner.get_ref().unpacked()
    }
}

/// The error of a workbook that cannot be read.
pub fn invalid_workbook(message: impl std::fmt::Display) -> Error {
    Error::new(codes::WORKBOOK_INVALID, format!("the workbook cannot be read: {message}"))
}

fn xml_error(error: &quick_xml::Error) -> Error {
    match error {
        quick_xml::Error::Io(error) => unpack_error(error),
        error => invalid_workbook(error),
    }
}

/// The value of an attribute, regardless of the prefix of its name.
///
/// # Errors
/// `workbook_invalid`
pub fn find_attribute(element: &BytesStart<'_>, name: &[u8]) -> Result<Option<String>> {
    for attribute in element.attributes().with_checks(false) {
        let attribute = attribute.map_err(invalid_workbook)?;
        if attribute.key.local_name().as_ref() != name {
            continue;
        }
        let raw = std::str::from_utf8(&attribute.value).map_err(invalid_workbook)?;
        let value = quick_xml::escape::unescape(raw).map_err(invalid_workbook)?;
        return Ok(Some(value.into_owned()));
    }
    Ok(None)
}

/// Adds what an event says in text. Other events say nothing.
///
/// # Errors
/// `workbook_invalid` if the text is not UTF-8, or names an unknown entity.
pub fn append_text(event: &Event<'_>, text: &mut String) -> Result<()> {
    match event {
        Event::Text(part) => text.push_str(&part.xml10_content().map_err(invalid_workbook)?),
        Event::CData(part) => text.push_str(&part.xml10_content().map_err(invalid_workbook)?),
        Event::GeneralRef(name) => {
            let letter = match (name.resolve_char_ref().map_err(invalid_workbook)?, &name[..]) {
                (Some(letter), _) => letter,
                (None, b"amp") => '&',
                (None, b"lt") => '<',
                (None, b"gt") => '>',
                (None, b"quot") => '"',
                (None, b"apos") => '\'',
                (None, _) => return Err(invalid_workbook("it names an unknown entity")),
            };
            text.push(letter);
        }
        _ => {}
    }
    Ok(())
}

/// Decodes characters that XML cannot hold, which spreadsheets write as `_x000D_`, from `start` on.
pub fn decode_control_characters(text: &mut String, start: usize) {
    if !text[start..].contains("_x") {
        return;
    }
    let encoded = text.split_off(start);
    let mut rest = encoded.as_str();
    while let Some(at) = rest.find("_x") {
        text.push_str(&rest[..at]);
        rest = &rest[at..];
        let digits = rest.get(2..6).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let letter = digits
            .filter(|_| rest.as_bytes().get(6) == Some(&b'_'))
            .and_then(|digits| u32::from_str_radix(digits, 16).ok())
            .and_then(char::from_u32);
        match letter {
            Some(letter) => {
                text.push(letter);
                rest = &rest[7..];
            }
            None => {
                text.push_str("_x");
                rest = &rest[2..];
            }
        }
    }
    text.push_str(rest);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_decoded() {
        for (text, decoded) in [
            ("plain", "plain"),
            ("a_x000D_\nb", "a\r\nb"),
            ("_x005F_x0041_", "_x0041_"),
            ("_x12_ _x00zz_ _xD800_ _x", "_x12_ _x00zz_ _xD800_ _x"),
        ] {
            let mut found = format!("_x0041_{text}");
            decode_control_characters(&mut found, 7);
            assert_eq!(found, format!("_x0041_{decoded}"));
        }
    }
}
