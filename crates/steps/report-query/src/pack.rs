//! How the bytes of a report are packed. The same bytes in the same pieces give the same file: no times, no names of
//! machines, and the cheapest level, which costs a quarter of the usual one.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use zip::write::{SimpleFileOptions, StreamWriter};
use zip::{CompressionMethod, DateTime, ZipWriter};

use super::pipe::Pipe;
use afterload_core::error::{Error, Result};

const LEVEL: u32 = 1;

/// An archive that is written from its beginning to its end.
pub type Archive = ZipWriter<StreamWriter<Pipe>>;

/// What takes the bytes of one file.
pub enum Pack {
    /// As they are.
    Plain(Pipe),
    /// As gzip.
    Gzip(Box<GzEncoder<Pipe>>),
    /// As the entry at hand of a zip archive.
    Zip(Box<Archive>),
}

impl Pack {
    /// As gzip.
    pub fn gzip(pipe: Pipe) -> Self {
        Self::Gzip(Box::new(GzEncoder::new(pipe, Compression::new(LEVEL))))
    }

    /// As the only file, of this name, in a zip archive.
    ///
    /// # Errors
    /// `report_failed` for a name that no archive takes.
    pub fn zip(pipe: Pipe, name: &str) -> Result<Self> {
        let mut archive = archive(pipe);
        archive.start_file(name, options().large_file(true)).map_err(failed)?;
        Ok(Self::Zip(Box::new(archive)))
    }

    /// Takes everything out of the buffer.
    ///
    /// # Errors
    /// `report_failed` for more than the format can hold.
    pub fn take(&mut self, buffer: &mut Vec<u8>) -> Result<()> {
        match self {
            Self::Plain(pipe) => {
                let room = Vec::with_capacity(buffer.capacity());
                pipe.send(std::mem::replace(buffer, room));
                return Ok(());
            }
            Self::Gzip(encoder) => encoder.write_all(buffer).map_err(failed)?,
            Self::Zip(archive) => archive.write_all(buffer).map_err(failed)?,
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
            Self::Gzip(encoder) => encoder.finish().map_err(failed)?.finish(),
            Self::Zip(archive) => archive.finish().map_err(failed)?.into_inner().finish(),
        }
        Ok(())
    }
}

/// An empty archive.
pub fn archive(pipe: Pipe) -> Archive {
    ZipWriter::new_stream(pipe)
}

/// How its entries are written.
pub fn options() -> SimpleFileOptions {
    SimpleFileOptions::default()
        .compression_method(CompressionMethod::Deflated)
        .compression_level(Some(LEVEL.into()))
        .last_modified_time(DateTime::DEFAULT)
}

/// Only what the format cannot hold fails: the pipe behind it never does.
pub fn failed(error: impl std::fmt::Display) -> Error {
    Error::permanent("report_failed", format!("the file cannot be written: {error}"))
}
