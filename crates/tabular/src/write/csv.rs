//! The CSV writer: RFC 4180 in UTF-8, with LF as the line end. Null is an empty field, and an empty text is `""`. What a
//! spreadsheet would run as a formula is guarded. [`StyledCsv`](super::csv_style::StyledCsv) writes other styles.

use super::ColumnDisplay;
use crate::formula::is_spreadsheet_formula;
use afterload_target_db::CellType;

const fn is_special(byte: u8) -> bool {
    (byte == b',') | (byte == b'"') | (byte == b'\n') | (byte == b'\r')
}

/// The bytes that make quotes necessary.
const CSV_SPECIAL_BYTES: [bool; 256] = {
    let (mut special, mut byte) = ([false; 256], 0);
    while byte < special.len() {
        special[byte] = is_special(byte as u8);
        byte += 1;
    }
    special
};

/// Whether a field needs quotes. Blocks of sixteen bytes without an early exit let the compiler use vector
/// instructions.
fn needs_quotes(value: &[u8]) -> bool {
    let (whole, rest) = value.as_chunks::<16>();
    whole.iter().any(|bytes| bytes.iter().fold(false, |any, byte| any | is_special(*byte)))
        || rest.iter().any(|byte| CSV_SPECIAL_BYTES[usize::from(*byte)])
}

/// Writes the header.
pub fn write_header(shapes: &[ColumnDisplay], out: &mut Vec<u8>) {
    for (column, shape) in shapes.iter().enumerate() {
        if column > 0 {
            out.push(b',');
        }
        write_text(shape.title.as_bytes(), out);
    }
    out.push(b'\n');
}

/// Writes a cell.
pub fn write_cell(shape: &ColumnDisplay, cell: Option<(CellType, &[u8])>, scratch: &mut Vec<u8>, out: &mut Vec<u8>) {
    let Some((sort, value)) = cell else { return };
    if let Some(format) = &shape.format {
        scratch.clear();
        let shown = match sort {
            CellType::Number | CellType::Float => format.write_number(value, scratch),
            CellType::Text | CellType::Date | CellType::Timestamp => format.write_datetime(value, scratch),
            CellType::Bool | CellType::Json => false,
        };
        if shown {
            return write_quoted(scratch, false, out);
        }
    }
    match sort {
        CellType::Text | CellType::Json => write_text(value, out),
        // These values never contain special bytes.
        CellType::Number | CellType::Float | CellType::Bool | CellType::Date | CellType::Timestamp => {
            out.extend_from_slice(value);
        }
    }
}

fn write_text(value: &[u8], out: &mut Vec<u8>) {
    match value.is_empty() {
        true => out.extend_from_slice(b"\"\""),
        false => write_quoted(value, is_spreadsheet_formula(value), out),
    }
}

fn write_quoted(value: &[u8], guard: bool, out: &mut Vec<u8>) {
    write_value(value, needs_quotes(value), guard, out);
}

/// Writes a value, in quotes or plain, with or without a guard in front.
pub(super) fn write_value(value: &[u8], quoted: bool, guard: bool, out: &mut Vec<u8>) {
    if quoted {
        out.push(b'"');
    }
    if guard {
        out.push(b'\'');
    }
    match quoted {
        false => out.extend_from_slice(value),
        true => {
            for byte in value {
                if *byte == b'"' {
                    out.push(b'"');
                }
                out.push(*byte);
            }
            out.push(b'"');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::needs_quotes;

    #[test]
    fn special_byte_at_any_position_needs_quotes() {
        for length in 0..40 {
            let plain = vec![b'x'; length];
            assert!(!needs_quotes(&plain));
            for (at, byte) in (0..length).flat_map(|at| b",\"\n\r".map(|byte| (at, byte))) {
                let mut value = plain.clone();
                value[at] = byte;
                assert!(needs_quotes(&value), "{byte} at {at} of {length}");
            }
        }
    }
}
