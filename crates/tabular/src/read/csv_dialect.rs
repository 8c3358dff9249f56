//! The delimiter, the quoting and the limits of a CSV file.

/// The delimiter and the quoting of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvDialect {
    /// The byte between fields.
    pub delimiter: u8,
    /// The quote around fields; `None` if quotes are ordinary characters.
    pub quote: Option<u8>,
    /// The byte that makes a quote part of the text, beside a doubled quote.
    pub escape: Option<u8>,
    /// Whether quotes inside a quoted field are text unless the field ends behind them.
    pub lenient_quotes: bool,
}

impl CsvDialect {
    /// A dialect with strict, doubled quotes.
    pub const fn new(delimiter: u8, quote: Option<u8>) -> Self {
        Self { delimiter, quote, escape: None, lenient_quotes: false }
    }
}

/// The limits of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsvLimits {
    /// The maximum size of a field in bytes.
    pub field_bytes: usize,
    /// The maximum size of a record in bytes.
    pub record_bytes: usize,
    /// The maximum number of fields.
    pub columns: usize,
}

impl CsvLimits {
    /// The maximum size of a field, unless another is set.
    pub const DEFAULT_FIELD_BYTES: usize = 1 << 20;
    /// The maximum number of fields, unless another is set: as many as a sheet of a workbook has.
    pub const DEFAULT_COLUMNS: usize = 16_384;
    const MIN_RECORD_BYTES: usize = 4 << 20;

    /// Limits for fields and columns. A record may hold at least four such fields.
    pub const fn new(field_bytes: usize, columns: usize) -> Self {
        let all = field_bytes.saturating_mul(4);
        let record_bytes = if all > Self::MIN_RECORD_BYTES { all } else { Self::MIN_RECORD_BYTES };
        Self { field_bytes, record_bytes, columns }
    }
}

impl Default for CsvLimits {
    fn default() -> Self {
        Self::new(Self::DEFAULT_FIELD_BYTES, Self::DEFAULT_COLUMNS)
    }
}
