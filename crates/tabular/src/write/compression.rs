//! Compression of reports. Equal bytes in equal pieces give an equal file: archives contain no times and no host names.
//! The lowest level costs a quarter of the usual one.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::byte_pipe::BytePipe;
use crate::codes;
use afterload_core::error::{Error, Result};

const DEFLATE_LEVEL: u32 = 1;

/// A zip archive that is written as a stream.
pub type ZipStream = ZipWriter<StreamWriter<BytePipe>>;

/// The output of one file.
pub enum CompressedOutput {
    /// Uncompressed.
    Plain(BytePipe),
    /// Compressed with gzip.
    Gzip(Box<GzEncoder<BytePipe>>),
    /// The current entry of a zip archive.
    Zip(Box<ZipStream>),
}

impl CompressedOutput {
    /// Creates a gzip output.
    pub fn new_gzip(pipe: BytePipe) -> Self {
        Self::Gzip(Box::new(GzEncoder::new(pipe, Compression::new(DEFLATE_LEVEL))))
    }

    /// Creates a zip archive with one file of this name.
    ///
    /// # Errors
    /// `report_failed` if an archive cannot contain the name.
    pub fn new_zip(pipe: BytePipe, name: &str) -> Result<Self> {
        let mut archive = new_zip_stream(pipe);
        archive.start_file(name, entry_options().large_file(true)).map_err(write_error)?;
        Ok(Self::Zip(Box::new(archive)))
    }

    /// Writes the whole buffer and empties it.
    ///
    /// # Errors
    /// `report_failed` if the output exceeds a limit of the format.
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

    /// Completes the file.
    ///
    /// # Errors
    /// `report_failed` if the output exceeds a limit of the format.
    pub fn finish(self) -> Result<()> {
        match self {
            Self::Plain(pipe) => pipe.finish(),
            Self::Gzip(encoder) => encoder.finish().map_err(write_error)?.finish(),
            Self::Zip(archive) => archive.finish().map_err(write_error)?.into_inner().finish(),
        }
        Ok(())
    }
}

/// Creates an empty archive.
pub fn new_zip_stream(pipe: BytePipe) -> ZipStream {
    ZipWriter::new_stream(pipe)
}

/// The options of all entries.
pub fn entry_options() -> SimpleFileOptions {
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(DEFLATE_LEVEL.into()))
        .last_modified_time(DateTime::DEFAULT)
}

/// Creates the error for output that the format cannot contain. The pipe itself never fails.
pub fn write_error(error: impl std::fmt::Display) -> Error {
    Error::new(codes::REPORT_FAILED, format!("the file cannot be written: {error}"))
}
