//! What the numbers of cells stand for, by their formats: dates and times are numbers, too.

use std::collections::HashMap;
use std::io::Read;

use quick_xml::events::Event;

use super::xml::{PartReader, find_attribute};
use afterload_core::error::Result;

/// The most formats that a workbook may have; Excel allows 65,490.
const MAX_STYLES: usize = 100_000;

/// What a number stands for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CellStyle {
    /// Itself.
    #[default]
    Number,
    /// A date.
    Date,
    /// A time of day.
    Time,
    /// A date with a time.
    DateTime,
    /// Hours that may be more than a day has.
    Duration,
}

/// Reads the styles of a workbook.
///
/// # Errors
/// `workbook_invalid`, or the error of the archive.
pub fn read_styles<R: Read>(mut part: PartReader<R>) -> Result<Vec<CellStyle>> {
    let (mut formats, mut styles, mut in_cells) = (HashMap::new(), Vec::new(), false);
    loop {
        let event = part.next_event()?;
        match &event {
            Event::Eof => return Ok(styles),
            Event::Start(element) | Event::Empty(element) => match element.local_name().as_ref() {
                b"numFmt" if formats.len() < MAX_STYLES => {
                    let id = find_attribute(element, b"numFmtId")?.and_then(|id| id.parse::<u32>().ok());
                    if let (Some(id), Some(code)) = (id, find_attribute(element, b"formatCode")?) {
                        formats.insert(id, style_of_format(&code));
                    }
                }
                b"cellXfs" => in_cells = true,
                b"xf" if in_cells && styles.len() < MAX_STYLES => {
                    let id = find_attribute(element, b"numFmtId")?.and_then(|id| id.parse::<u32>().ok());
                    let id = id.unwrap_or(0);
                    styles.push(formats.get(&id).copied().unwrap_or_else(|| style_of_builtin(id)));
                }
                _ => {}
            },
            Event::End(element) if element.local_name().as_ref() == b"cellXfs" => in_cells = false,
            _ => {}
        }
    }
}

/// The meaning of the formats that every workbook has.
fn style_of_builtin(id: u32) -> CellStyle {
    match id {
        14..=17 | 27..=31 | 36 | 50..=54 | 57 | 58 => CellStyle::Date,
        18..=21 | 32..=35 | 45 | 47 | 55 | 56 => CellStyle::Time,
        22 => CellStyle::DateTime,
        46 => CellStyle::Duration,
        _ => CellStyle::Number,
    }
}

/// The meaning of a format such as `dd.mm.yyyy hh:mm`.
fn style_of_format(code: &str) -> CellStyle {
    let (mut date, mut time, mut month) = (false, false, false);
    let mut letters = code.chars();
    while let Some(letter) = letters.next() {
        match letter.to_ascii_lowercase() {
            // Another format follows, for negative numbers.
            ';' => break,
            '"' => while letters.next().is_some_and(|inner| inner != '"') {},
            '\\' | '_' | '*' => {
                letters.next();
            }
            '[' => {
                let inner = letters.by_ref().take_while(|inner| *inner != ']').collect::<String>().to_ascii_lowercase();
                let is_elapsed = |unit| !inner.is_empty() && inner.chars().all(|letter| letter == unit);
                if ['h', 'm', 's'].into_iter().any(is_elapsed) {
                    return CellStyle::Duration;
                }
            }
            'y' | 'd' => date = true,
            'h' | 's' => time = true,
            'm' => month = true,
            _ => {}
        }
    }
    match (date || month && !time, time) {
        (true, true) => CellStyle::DateTime,
        (true, false) => CellStyle::Date,
        (false, true) => CellStyle::Time,
        (false, false) => CellStyle::Number,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_separate_dates_from_numbers() {
        for (code, style) in [
            ("General", CellStyle::Number),
            ("#,##0.00 \"days\";[Red]-#,##0.00", CellStyle::Number),
            ("0.00E+00", CellStyle::Number),
            ("_-* #,##0.00\\ \\d_-", CellStyle::Number),
            ("@", CellStyle::Number),
            ("dd.mm.yyyy", CellStyle::Date),
            ("[$-407]mmm\\-yy;@", CellStyle::Date),
            ("mmmm", CellStyle::Date),
            ("h:mm AM/PM", CellStyle::Time),
            ("mm:ss.0", CellStyle::Time),
            ("yyyy\\-mm\\-dd\"T\"hh:mm", CellStyle::DateTime),
            ("[h]:mm:ss", CellStyle::Duration),
            ("[mm]:ss", CellStyle::Duration),
        ] {
            assert_eq!(style_of_format(code), style, "{code}");
        }
        assert_eq!(
            [0, 14, 20, 22, 46].map(style_of_builtin).map(|style| style == CellStyle::Number),
            [true, false, false, false, false]
        );
    }
}
