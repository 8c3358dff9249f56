//! Decodes columns from PostgreSQL's binary format into JSON.

use crate::codes;
use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat};
use serde_json::Value;
use sqlx::postgres::{PgRow, PgTypeKind, PgValueRef};
use sqlx::{Row, TypeInfo, ValueRef};

use crate::batch::DAYS_TO_1970;
use crate::statement::ResultMode;
use afterload_core::decimal::{decimal_to_json, float_to_json, parse_exact_json};
use afterload_core::error::{Error, Result};

/// PostgreSQL counts days and microseconds from 2000-01-01.
const DAYS_TO_2000: i32 = DAYS_TO_1970 + 10_957;
const MICROS_TO_2000: i64 = 946_684_800_000_000;

/// Decodes the value of a column.
///
/// For a maximum, the type must sort in JSON as it sorts in the database.
pub fn decode_value(row: &PgRow, index: usize, keep: ResultMode) -> Result<Value> {
    let raw = row.try_get_raw(index)?;
    if raw.is_null() {
        return Ok(Value::Null);
    }
    let info = raw.type_info().into_owned();
    let kind = info.name();
    let ordered = ["INT2", "INT4", "INT8", "TEXT", "VARCHAR", "UUID"].contains(&kind);
    if keep == ResultMode::MaxOfFirstColumn && !ordered {
        return Err(Error::new(codes::BATCH_CURSOR_INVALID, format!("a column of type `{kind}` cannot be a cursor"))
            .with_hint("let `RETURNING` give a whole number, a text or a UUID first, such as the primary key"));
    }
    decode_by_type(kind, &raw).unwrap_or_else(|| {
        let name = row.columns().get(index).map_or("", sqlx::Column::name);
        let message = format!("column `{name}` has the type `{kind}`, which has no JSON");
        Err(Error::new(codes::SQL_TYPE_UNSUPPORTED, message))
    })
}

/// Returns `None` for an unsupported type.
fn decode_by_type(kind: &str, raw: &PgValueRef<'_>) -> Option<Result<Value>> {
    let bytes = raw.as_bytes().unwrap_or_default();
    Some(match kind {
        "BOOL" => Ok((bytes == [1]).into()),
        "INT2" => fixed_bytes(bytes).map(|bytes| i16::from_be_bytes(bytes).into()),
        "INT4" => fixed_bytes(bytes).map(|bytes| i32::from_be_bytes(bytes).into()),
        "INT8" => fixed_bytes(bytes).map(|bytes| i64::from_be_bytes(bytes).into()),
        "OID" => fixed_bytes(bytes).map(|bytes| u32::from_be_bytes(bytes).into()),
        // Parsing the shortest text keeps 0.1 as 0.1.
        "FLOAT4" => fixed_bytes(bytes).map(|bytes| number_from_float_text(&f32::from_be_bytes(bytes).to_string())),
        "FLOAT8" => fixed_bytes(bytes).map(|bytes| number_from_float_text(&f64::from_be_bytes(bytes).to_string())),
        "NUMERIC" => return decode_numeric(bytes).map(|text| Ok(decimal_to_json(&text))),
        "DATE" => {
            return fixed_bytes(bytes)
                .map(|bytes| date_from_days(i32::from_be_bytes(bytes)).map(Value::from))
                .transpose();
        }
        "TIME" => {
            return fixed_bytes(bytes)
                .map(|bytes| time_from_micros(i64::from_be_bytes(bytes)).map(Value::from))
                .transpose();
        }
        "TIMESTAMP" => {
            return fixed_bytes(bytes)
                .map(|bytes| timestamp_from_micros(i64::from_be_bytes(bytes), false).map(Value::from))
                .transpose();
        }
        "TIMESTAMPTZ" => {
            return fixed_bytes(bytes)
                .map(|bytes| timestamp_from_micros(i64::from_be_bytes(bytes), true).map(Value::from))
                .transpose();
        }
        "UUID" => fixed_bytes::<16>(bytes).map(|bytes| {
            let hex = hex::encode(bytes);
            [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-").into()
        }),
        "JSON" => decode_json(bytes),
        // A version precedes the text.
        "JSONB" => decode_json(bytes.get(1..).unwrap_or_default()),
        "BYTEA" => Ok(format!("\\x{}", hex::encode(bytes)).into()),
        "VOID" => Ok(Value::Null),
        "TEXT" | "VARCHAR" | "BPCHAR" | "NAME" | "CHAR" | "\"CHAR\"" | "UNKNOWN" | "citext" | "CITEXT" => {
            Ok(String::from_utf8_lossy(bytes).into())
        }
        _ if matches!(raw.type_info().kind(), PgTypeKind::Enum(_)) => Ok(String::from_utf8_lossy(bytes).into()),
        _ => return None,
    })
}

fn fixed_bytes<const N: usize>(bytes: &[u8]) -> Result<[u8; N]> {
    bytes.try_into().map_err(|_| Error::new(codes::DATABASE_ERROR, "the database sent a value of another length"))
}

fn decode_json(text: &[u8]) -> Result<Value> {
    let invalid = |error: &dyn std::fmt::Display| {
        Error::new(codes::DATABASE_ERROR, format!("the database sent JSON that cannot be read: {error}"))
    };
    parse_exact_json(str::from_utf8(text).map_err(|error| invalid(&error))?).map_err(|error| invalid(&error))
}

/// A whole float becomes an integer, as PostgreSQL prints it.
fn number_from_float_text(text: &str) -> Value {
    match text.parse::<i64>() {
        Ok(whole) => whole.into(),
        Err(_) => float_to_json(text.parse().unwrap_or(f64::NAN)),
    }
}

/// Renders a `numeric` as decimal text. It holds groups of four digits, and `weight + 1` of them precede the point.
fn decode_numeric(bytes: &[u8]) -> Option<String> {
    let part = |index: usize| Some(u16::from_be_bytes([*bytes.get(2 * index)?, *bytes.get(2 * index + 1)?]));
    let (count, weight, sign, scale) = (part(0)?, part(1)? as i16, part(2)?, usize::from(part(3)?));
    let mut text = match sign {
        0 => String::new(),
        0x4000 => "-".into(),
        0xd000 => return Some("Infinity".into()),
        0xf000 => return Some("-Infinity".into()),
        _ => return Some("NaN".into()),
    };
    let group = |place: i32| match usize::try_from(place) {
        Ok(index) if index < usize::from(count) => part(4 + index),
        _ => Some(0),
    };
    let weight = i32::from(weight);
    for place in 0..=weight.max(0) {
        let digits = if weight < 0 { 0 } else { group(place)? };
        text.push_str(&if place == 0 { digits.to_string() } else { format!("{digits:04}") });
    }
    if scale > 0 {
        let mut fraction = String::new();
        let mut place = weight + 1;
        // The format leaves out zero groups between the point and the first stored group.
        let mut empty = -1 - weight;
        while fraction.len() < scale {
            if empty > 0 {
                fraction.push_str("0000");
                empty -= 1;
                place = 0;
            } else {
                fraction.push_str(&format!("{:04}", group(place.max(0))?));
                place = place.max(0) + 1;
            }
        }
        text.push('.');
        text.push_str(&fraction[..scale]);
    }
    Some(text)
}

fn date_from_days(days: i32) -> Option<String> {
    match days {
        i32::MAX => Some("infinity".into()),
        i32::MIN => Some("-infinity".into()),
        days => NaiveDate::from_num_days_from_ce_opt(days.checked_add(DAYS_TO_2000)?).map(|date| date.to_string()),
    }
}

fn time_from_micros(micros: i64) -> Option<String> {
    let seconds = u32::try_from(micros / 1_000_000).ok()?;
    let time = NaiveTime::from_num_seconds_from_midnight_opt(seconds, (micros % 1_000_000) as u32 * 1000)?;
    Some(time.format("%H:%M:%S%.f").to_string())
}

fn timestamp_from_micros(micros: i64, zoned: bool) -> Option<String> {
    match micros {
        i64::MAX => return Some("infinity".into()),
        i64::MIN => return Some("-infinity".into()),
        _ => {}
    }
    let time = DateTime::from_timestamp_micros(micros.checked_add(MICROS_TO_2000)?)?;
    let naive = |time: NaiveDateTime| time.format("%Y-%m-%dT%H:%M:%S%.f").to_string();
    Some(if zoned { time.to_rfc3339_opts(SecondsFormat::AutoSi, true) } else { naive(time.naive_utc()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numeric_is_decoded_to_decimal_text() {
        let encode = |weight: i16, sign: u16, scale: u16, groups: &[u16]| {
            let head = [groups.len() as u16, weight as u16, sign, scale];
            let bytes: Vec<u8> = head.iter().chain(groups).flat_map(|part| part.to_be_bytes()).collect();
            decode_numeric(&bytes)
        };
        for (text, found) in [
            ("0", encode(0, 0, 0, &[])),
            ("19.90", encode(0, 0, 2, &[19, 9000])),
            ("-1234567", encode(1, 0x4000, 0, &[123, 4567])),
            ("10000", encode(1, 0, 0, &[1])),
            ("0.0001", encode(-1, 0, 4, &[1])),
            ("0.00000001", encode(-2, 0, 8, &[1])),
            ("0.12345", encode(-1, 0, 5, &[1234, 5000])),
            ("100000000.5", encode(2, 0, 1, &[1, 0, 0, 5000])),
            ("NaN", encode(0, 0xc000, 0, &[])),
        ] {
            assert_eq!(found.as_deref(), Some(text));
        }
        assert_eq!(decode_numeric(&[0, 1]), None);
    }
}
