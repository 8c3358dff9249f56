//! PostgreSQL's binary COPY format.

use crate::batch::{BatchCell, RowBatch};
use crate::table::DbColumnType;

/// The header of a binary COPY: the signature, no flags, no extension.
pub const COPY_HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// The trailer of a binary COPY.
pub const COPY_TRAILER: &[u8] = &[0xff, 0xff];

/// The time from 1970-01-01 to 2000-01-01, where PostgreSQL starts to count.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
const POSTGRES_EPOCH_DAYS: i32 = 10_957;
const DAY_MICROS: i64 = 86_400_000_000;

/// Appends the number of fields, which starts each row.
pub fn write_field_count(count: usize, out: &mut Vec<u8>) {
    // A table has at most 1,600 columns, so the count fits.
    out.extend_from_slice(&(count as i16).to_be_bytes());
}

/// Appends a 32-bit integer field.
pub fn write_int4(value: i32, out: &mut Vec<u8>) {
    write_field(&value.to_be_bytes(), out);
}

/// Appends a cell in the binary format of type `kind`. `bulk_load::is_directly_loadable` must allow the pair.
pub fn write_cell(batch: &RowBatch, cell: BatchCell, kind: DbColumnType, out: &mut Vec<u8>) {
    match (kind, cell) {
        (_, BatchCell::Null) => out.extend_from_slice(&(-1_i32).to_be_bytes()),
        (DbColumnType::Bool, BatchCell::Bool(value)) => write_field(&[value.into()], out),
        (DbColumnType::Int2 | DbColumnType::Int4 | DbColumnType::Int8, BatchCell::Int(value)) => {
            write_integer(kind, value, out);
        }
        (DbColumnType::Int2 | DbColumnType::Int4 | DbColumnType::Int8, BatchCell::Bool(value)) => {
            write_integer(kind, value.into(), out);
        }
        (DbColumnType::Float4, BatchCell::Int(value)) => write_field(&(value as f32).to_be_bytes(), out),
        (DbColumnType::Float8, BatchCell::Int(value)) => write_field(&(value as f64).to_be_bytes(), out),
        (DbColumnType::Float4, BatchCell::Text { start, len }) => {
            write_field(&batch.text_at(start, len).parse::<f32>().unwrap_or(f32::NAN).to_be_bytes(), out);
        }
        (DbColumnType::Float8, BatchCell::Text { start, len }) => {
            write_field(&batch.text_at(start, len).parse::<f64>().unwrap_or(f64::NAN).to_be_bytes(), out);
        }
        (DbColumnType::Numeric, BatchCell::Int(value)) => write_numeric(&value.to_string(), out),
        (DbColumnType::Numeric, BatchCell::Text { start, len }) => write_numeric(batch.text_at(start, len), out),
        (DbColumnType::Date, BatchCell::Date(days)) => write_field(&(days - POSTGRES_EPOCH_DAYS).to_be_bytes(), out),
        (DbColumnType::Timestamp | DbColumnType::Timestamptz, BatchCell::Date(days)) => {
            write_field(&(i64::from(days - POSTGRES_EPOCH_DAYS) * DAY_MICROS).to_be_bytes(), out);
        }
        (DbColumnType::Timestamp | DbColumnType::Timestamptz, BatchCell::DateTime(micros)) => {
            write_field(&(micros - POSTGRES_EPOCH_MICROS).to_be_bytes(), out);
        }
        (DbColumnType::Uuid, BatchCell::Text { start, len }) => {
            let digits = batch.text_at(start, len).replace('-', "");
            write_field(&hex::decode(digits).unwrap_or_default(), out);
        }
        (DbColumnType::Jsonb, BatchCell::Text { start, len }) => {
            write_length(len as usize + 1, out);
            // The version of the `jsonb` format; 1 is the only one.
            out.push(1);
            out.extend_from_slice(batch.text_at(start, len).as_bytes());
        }
        (_, BatchCell::Text { start, len }) => {
            write_field(&batch.text_buffer[start as usize..(start + len) as usize], out);
        }
        (_, cell) => {
            let mut text = String::new();
            batch.render_cell(cell, &mut text);
            write_field(text.as_bytes(), out);
        }
    }
}

/// Appends an integer. The column rules have already checked its range.
fn write_integer(kind: DbColumnType, value: i64, out: &mut Vec<u8>) {
    match kind {
        DbColumnType::Int2 => write_field(&(value as i16).to_be_bytes(), out),
        DbColumnType::Int4 => write_field(&(value as i32).to_be_bytes(), out),
        _ => write_field(&value.to_be_bytes(), out),
    }
}

/// Appends a `numeric`: the number of base 10,000 digits, the weight of the first, the sign, the scale, the digits.
fn write_numeric(text: &str, out: &mut Vec<u8>) {
    let (negative, text) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let groups = whole.len().div_ceil(4);
    let at = out.len();
    out.extend_from_slice(&[0; 12]);
    let (mut count, mut skipped, mut last) = (0_usize, 0_usize, 0_usize);
    let mut push = |digits: &[u8], scale: u16, out: &mut Vec<u8>| {
        let value = digits.iter().fold(0_u16, |sum, digit| sum * 10 + u16::from(digit.wrapping_sub(b'0'))) * scale;
        if value == 0 && count == 0 {
            skipped += 1;
        } else {
            out.extend_from_slice(&value.to_be_bytes());
            count += 1;
            last = if value == 0 { last } else { count };
        }
    };
    let first = whole.len() - (groups.saturating_sub(1)) * 4;
    if groups > 0 {
        push(&whole.as_bytes()[..first], 1, out);
        whole.as_bytes()[first..].chunks(4).for_each(|digits| push(digits, 1, out));
    }
    for digits in fraction.as_bytes().chunks(4) {
        push(digits, 10_u16.pow(4 - digits.len() as u32), out);
    }
    out.truncate(at + 12 + last * 2);
    let weight = if last == 0 { 0 } else { groups as i64 - 1 - skipped as i64 };
    let sign: u16 = if negative && last > 0 { 0x4000 } else { 0 };
    let payload = (8 + last * 2) as i32;
    out[at..at + 4].copy_from_slice(&payload.to_be_bytes());
    out[at + 4..at + 6].copy_from_slice(&(last as u16).to_be_bytes());
    out[at + 6..at + 8].copy_from_slice(&(weight as i16).to_be_bytes());
    out[at + 8..at + 10].copy_from_slice(&sign.to_be_bytes());
    out[at + 10..at + 12].copy_from_slice(&(fraction.len() as u16).to_be_bytes());
}

fn write_field(bytes: &[u8], out: &mut Vec<u8>) {
    write_length(bytes.len(), out);
    out.extend_from_slice(bytes);
}

fn write_length(len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(&(len as i32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Encodes a number. Returns its digit count, weight, sign and scale, then the digits.
    fn words(text: &str) -> Vec<i16> {
        let mut out = Vec::new();
        write_numeric(text, &mut out);
        assert_eq!(i32::from_be_bytes(out[..4].try_into().unwrap()) as usize, out.len() - 4);
        out[4..].chunks(2).map(|word| i16::from_be_bytes(word.try_into().unwrap())).collect()
    }

    #[test]
    fn numeric_is_encoded_in_binary_format() {
        assert_eq!(words("0"), [0, 0, 0, 0]);
        assert_eq!(words("-0.00"), [0, 0, 0, 2]);
        assert_eq!(words("1"), [1, 0, 0, 0, 1]);
        assert_eq!(words("-12345.678"), [3, 1, 0x4000, 3, 1, 2345, 6780]);
        assert_eq!(words("10000"), [1, 1, 0, 0, 1]);
        assert_eq!(words("0.00001"), [1, -2, 0, 5, 1000]);
        assert_eq!(words("00012.5"), [2, 0, 0, 1, 12, 5000]);
    }
}
