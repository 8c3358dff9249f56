//! Sends rows to PostgreSQL with a binary COPY, and tells errors of rows from errors of the load.

use sqlx::PgConnection;

use super::error_class::may_concern_row;
use super::{pg_copy, sqlstate};
use crate::batch::RowBatch;
use crate::table::DbColumnType;
use afterload_core::error::Error;

/// How many bytes are sent at once.
pub(super) const COPY_BUFFER_BYTES: usize = 128 << 10;

/// Why rows could not be loaded.
pub(super) enum LoadError {
    /// One of the rows may be at fault.
    MaybeRow(Error),
    /// Another error, which ends the load.
    Other(Error),
}

impl LoadError {
    pub(super) fn into_error(self) -> Error {
        match self {
            Self::MaybeRow(error) | Self::Other(error) => error,
        }
    }
}

/// Sends rows with a binary COPY, each with its number if it has one. Returns how many the server took.
pub(super) async fn send_rows(
    connection: &mut PgConnection,
    copy: &str,
    batch: &RowBatch,
    rows: impl Iterator<Item = (Option<i32>, usize)>,
    kinds: &[DbColumnType],
    buffer: &mut Vec<u8>,
) -> Result<u64, LoadError> {
    let mut copy = connection.copy_in_raw(copy).await.map_err(classify_load_error)?;
    buffer.clear();
    buffer.extend_from_slice(pg_copy::COPY_HEADER);
    for (number, row) in rows {
        pg_copy::write_field_count(kinds.len() + usize::from(number.is_some()), buffer);
        if let Some(number) = number {
            pg_copy::write_int4(number, buffer);
        }
        for (cell, kind) in batch.row_cells(row).iter().zip(kinds) {
            pg_copy::write_cell(batch, *cell, *kind, buffer);
        }
        if buffer.len() >= COPY_BUFFER_BYTES {
            copy.send(&buffer[..]).await.map_err(classify_load_error)?;
            buffer.clear();
        }
    }
    buffer.extend_from_slice(pg_copy::COPY_TRAILER);
    copy.send(&buffer[..]).await.map_err(classify_load_error)?;
    copy.finish().await.map_err(classify_load_error)
}

/// Decides whether a row may be at fault, or certainly the whole load.
pub(super) fn classify_load_error(error: sqlx::Error) -> LoadError {
    match sqlstate(&error) {
        Some(state) if may_concern_row(&state) => LoadError::MaybeRow(error.into()),
        _ => LoadError::Other(error.into()),
    }
}
