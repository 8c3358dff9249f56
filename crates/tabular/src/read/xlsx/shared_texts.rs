//! The texts that the cells of a workbook share. They stay in memory, so they have a limit.

use std::io::Read;

use quick_xml::events::Event;

use super::xml::{PartReader, append_text, decode_control_characters};
use crate::codes;
use afterload_core::error::{Error, Result};

/// The texts, in one buffer.
#[derive(Debug, Default)]
pub struct SharedTexts {
    text: String,
    ends: Vec<u32>,
}

impl SharedTexts {
    /// Reads all texts. `max` is the memory that they may take.
    ///
    /// # Errors
    /// `workbook_texts_too_large`, `workbook_invalid`, or the error of the archive.
    pub fn read<R: Read>(mut part: PartReader<R>, max: u64) -> Result<Self> {
        let mut texts = Self::default();
        let (mut in_text, mut phonetic, mut start) = (false, false, 0);
        loop {
            let event = part.next_event()?;
            match &event {
                Event::Eof => return Ok(texts),
                Event::Start(element) => match element.local_name().as_ref() {
                    b"t" => in_text = !phonetic,
                    // How the text is spoken, beside it.
                    b"rPh" => phonetic = true,
                    _ => {}
                },
                Event::End(element) => match element.local_name().as_ref() {
                    b"t" => in_text = false,
                    b"rPh" => phonetic = false,
                    b"si" => {
                        decode_control_characters(&mut texts.text, start);
                        start = texts.text.len();
                        texts.ends.push(start as u32);
                    }
                    _ => {}
                },
                Event::Empty(element) if element.local_name().as_ref() == b"si" => texts.ends.push(start as u32),
                event if in_text => append_text(event, &mut texts.text)?,
                _ => {}
            }
            let size = (texts.text.len() + texts.ends.len() * size_of::<u32>()) as u64;
            if size > max.min(u32::MAX.into()) {
                let message = format!("the workbook shares more than {max} bytes of text between its cells");
                return Err(Error::new(codes::WORKBOOK_TEXTS_TOO_LARGE, message));
            }
        }
    }

    /// The text of this number.
    pub fn get(&self, index: usize) -> Option<&str> {
        let end = *self.ends.get(index)? as usize;
        let start = index.checked_sub(1).map_or(0, |before| self.ends[before] as usize);
        self.text.get(start..end)
    }
}
