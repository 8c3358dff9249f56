//! The JSON Lines writer: one object per row, with the column names of the query. Numbers stay numbers at any length.

use memchr::memchr2;

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_target_db::CellType;

/// Encodes the text before each value: `{"id":`, then `,"name":`.
///
/// # Errors
/// `report_columns_repeated` if two columns have the same name: one would hide the other in the object.
pub fn encode_keys(columns: &[String]) -> Result<Vec<Vec<u8>>> {
    let mut keys = Vec::new();
    for (index, name) in columns.iter().enumerate() {
        if columns[..index].contains(name) {
            return Err(Error::new(codes::REPORT_COLUMNS_REPEATED, format!("two columns are called `{name}`")));
        }
        let mut key = vec![if index == 0 { b'{' } else { b',' }];
        write_string(name.as_bytes(), &mut key);
        key.push(b':');
        keys.push(key);
    }
    Ok(keys)
}

/// Writes a value.
pub fn write_value(cell: Option<(CellType, &[u8])>, out: &mut Vec<u8>) {
    let Some((sort, value)) = cell else { return out.extend_from_slice(b"null") };
    match sort {
        CellType::Number | CellType::Float | CellType::Bool => out.extend_from_slice(value),
        CellType::Text | CellType::Date => write_string(value, out),
        CellType::Timestamp => write_datetime(value, out),
        // JSON strings contain no raw line ends. Line ends between values may become spaces.
        CellType::Json => {
            let start = out.len();
            out.extend_from_slice(value);
            if memchr2(b'\n', b'\r', value).is_some() {
                out[start..].iter_mut().filter(|byte| matches!(**byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
            }
        }
    }
}

/// Writes a time in the format of RFC 3339: `2024-02-29T12:00:00Z`.
fn write_datetime(value: &[u8], out: &mut Vec<u8>) {
    let (date, time) = match value.iter().position(|byte| *byte == b' ') {
        Some(10) => (&value[..10], &value[11..]),
        _ => return write_string(value, out),
    };
    out.push(b'"');
    out.extend_from_slice(date);
    out.push(b'T');
    match time.strip_suffix(b"+00") {
        Some(time) => out.extend_from_slice(&[time, b"Z"].concat()),
        None => out.extend_from_slice(time),
    }
    out.push(b'"');
}

fn write_string(value: &[u8], out: &mut Vec<u8>) {
    out.push(b'"');
    let special = |byte: &u8| *byte < 0x20 || matches!(byte, b'"' | b'\\');
    match value.iter().any(special) {
        false => out.extend_from_slice(value),
        true => {
            for byte in value {
                match byte {
                    b'"' | b'\\' => out.extend_from_slice(&[b'\\', *byte]),
                    b'\n' => out.extend_from_slice(b"\\n"),
                    b'\r' => out.extend_from_slice(b"\\r"),
                    b'\t' => out.extend_from_slice(b"\\t"),
                    0..0x20 => out.extend_from_slice(format!("\\u{byte:04x}").as_bytes()),
                    _ => out.push(*byte),
                }
            }
        }
    }
    out.push(b'"');
}
