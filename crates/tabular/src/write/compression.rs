//! How the bytes of a report are packed. The same bytes in the same pieces give the same file: no times, no names of
//! machines, and the cheapest level, which costs a quarter of the usual one.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::byte_pipe::BytePipe;
use crate::codes;
use afterload_core::error::{Error, Result};

const DEFLATE_LEVEL: u32 = 1;

/// An archive that is written from its beginning to its end.
pub type ZipStream = ZipWriter<StreamWriter<BytePipe>>;

/// What takes the bytes of one file.
pub enum CompressedOutput {
    /// As they are.
    Plain(BytePipe),
    /// As gzip.
    Gzip(Box<GzEncoder<BytePipe>>),
    /// As the entry at hand of a zip archive.
    Zip(Box<ZipStream>),
}

impl CompressedOutput {
    /// As gzip.
    pub fn new_gzip(pipe: BytePipe) -> Self {
        Self::Gzip(Box::new(GzEncoder::new(pipe, Compression::new(DEFLATE_LEVEL))))
    }

    /// As the only file, of this name, in a zip archive.
    ///
    /// # Errors
    /// `report_failed` for a name that no archive takes.
    pub fn new_zip(pipe: BytePipe, name: &str) -> Result<Self> {
        let mut archive = new_zip_stream(pipe);
        archive.start_file(name, entry_options().large_file(true)).map_err(write_error)?;
        Ok(Self::Zip(Box::new(archive)))
    }

    /// Takes everything out of the buffer.
    ///
    /// # Errors
    /// `report_failed` for more than the format can hold.
    pub fn write_buffer(&mut self, buffer: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Plain(pipe) => {
                let room = Vec::with_capacity(buffer.capacity());
                pipe.send_chunk(std::mem::replace(buffer, room));
                return Ok(());
            }
            Self::Gzip(encoder) => encoder.write_all(buffer).map_err(write_error)?,
            Self::Zip(archive) => archive.write_all(buffer).map_err(write_error)?,
        }
        buffer.clear();
        Ok(())
    }

    /// Ends the file.
    ///
    /// # Errors
    /// `report_failed` for more than the format can hold.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Plain(pipe) => pipe.finish(),
            Self::Gzip(encoder) => encoder.finish().map_err(write_error)?.finish(),
            Self::Zip(archive) => archive.finish().map_err(write_error)?.into_inner().finish(),
        }
        Ok(())
    }
}

/// An empty archive.
pub fn new_zip_stream(pipe: BytePipe) -> ZipStream {
    ZipWriter::new_stream(pipe)
}

/// How its entries are written.
pub fn entry_options() -> SimpleFileOptions {
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(DEFLATE_LEVEL.into()))
        .last_modified_time(DateTime::DEFAULT)
}

/// Only what the format cannot hold fails: the pipe behind it never does.
pub fn write_error(error: impl std::fmt::Display) -> Error {
    Error::new(codes::REPORT_FAILED, format!("the file cannot be written: {error}"))
}
