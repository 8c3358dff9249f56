//! Converts times to a time zone.

use chrono::{NaiveDate, Offset, TimeZone};
use chrono_tz::Tz;

use super::ColumnDisplay;
use super::datetime::CellDateTime;
use super::format::CellFormat;
use afterload_target_db::CellType;

/// The offsets of UTC, as databases write them.
const UTC_OFFSETS: [&[u8]; 3] = [b"+00:00", b"+00", b"Z"];

/// Converts times in UTC to the local time of a zone. Times without an offset stay as they are.
#[derive(Clone, Debug)]
pub struct LocalTimes {
    zone: Tz,
    text: Vec<u8>,
}

impl LocalTimes {
    /// Creates a converter. `None` if there is no such zone.
    pub fn new(zone: &str) -> Option<Self> {
        Some(Self { zone: zone.parse().ok()?, text: Vec::new() })
    }

    /// Returns a cell in local time, with its offset if no format shows it. SQLite has no type for times, so its texts are
    /// times only in a column with a format of dates.
    pub fn convert_cell<'a>(
        &'a mut self,
        column: &ColumnDisplay,
        kind: CellType,
        value: &'a [u8],
        with_offset: bool,
    ) -> &'a [u8] {
        let dated = column.format.as_ref().is_some_and(CellFormat::is_date);
        match kind {
            CellType::Timestamp => self.convert(value, with_offset && !dated),
            CellType::Text if dated => self.convert(value, false),
            _ => value,
        }
    }

    fn convert<'a>(&'a mut self, value: &'a [u8], with_offset: bool) -> &'a [u8] {
        match self.write_local(value, with_offset) {
            Some(()) => &self.text,
            None => value,
        }
    }

    /// Writes `2024-02-29 13:00:00.5+01:00`. The fraction stays as it is.
    fn write_local(&mut self, value: &[u8], with_offset: bool) -> Option<()> {
        let time = UTC_OFFSETS.iter().find_map(|offset| value.strip_suffix(*offset))?;
        let moment = CellDateTime::parse(time)?;
        let (hour, minute, second) = moment.time_of_day();
        moment.micros?;
        let date = NaiveDate::from_ymd_opt(i32::try_from(moment.year).ok()?, moment.month, moment.day)?;
        let local = self.zone.from_utc_datetime(&date.and_hms_opt(hour, minute, second)?);
        self.text.clear();
        self.text.extend_from_slice(local.naive_local().format("%Y-%m-%d %H:%M:%S").to_string().as_bytes());
        if let Some(point) = time.iter().position(|byte| *byte == b'.') {
            self.text.extend_from_slice(&time[point..]);
        }
        if with_offset {
            let seconds = local.offset().fix().local_minus_utc();
            let (sign, minutes) = (if seconds < 0 { '-' } else { '+' }, seconds.abs() / 60);
            self.text.extend_from_slice(format!("{sign}{:02}:{:02}", minutes / 60, minutes % 60).as_bytes());
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_in_utc_become_local_times() {
        let mut times = LocalTimes::new("Europe/Paris").unwrap();
        let plain = ColumnDisplay::default();
        let dated = ColumnDisplay { format: Some(CellFormat::new("dd.mm.yyyy hh:mm")), ..plain.clone() };
        for (column, kind, value, with_offset, expected) in [
            (&plain, CellType::Timestamp, "2024-02-29 12:00:00.5+00", true, "2024-02-29 13:00:00.5+01:00"),
            (&plain, CellType::Timestamp, "2024-12-31 23:30:00+00", true, "2025-01-01 00:30:00+01:00"),
            (&plain, CellType::Timestamp, "2024-07-01 12:00:00+00", false, "2024-07-01 14:00:00"),
            (&plain, CellType::Timestamp, "2024-07-01 12:00:00", true, "2024-07-01 12:00:00"),
            (&plain, CellType::Timestamp, "infinity", true, "infinity"),
            (&plain, CellType::Text, "2024-07-01T12:00:00Z", true, "2024-07-01T12:00:00Z"),
            (&dated, CellType::Text, "2024-07-01T12:00:00Z", true, "2024-07-01 14:00:00"),
            (&dated, CellType::Timestamp, "2024-07-01 12:00:00+00", true, "2024-07-01 14:00:00"),
            (&dated, CellType::Date, "2024-07-01", true, "2024-07-01"),
        ] {
            let local = times.convert_cell(column, kind, value.as_bytes(), with_offset);
            assert_eq!(std::str::from_utf8(local).unwrap(), expected, "{value}");
        }
        let mut times = LocalTimes::new("America/St_Johns").unwrap();
        let local = times.convert_cell(&plain, CellType::Timestamp, b"2024-01-01 00:00:00+00", true);
        assert_eq!(local, b"2023-12-31 20:30:00-03:30");
        assert!(LocalTimes::new("Middle/Earth").is_none());
    }
}
