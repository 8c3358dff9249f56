//! Reads archives as streams, within limits: a small file must not unpack to one that fills memory or takes days.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use zip::ZipArchive;
use zip::read::ZipFile;
use zip::result::ZipError;

use crate::codes;
use afterload_core::error::{Error, Result};

/// A zip archive in a file.
pub type ZipFileArchive = ZipArchive<BufReader<File>>;
/// An entry of a zip archive that is being read.
pub type ZipEntryReader<'a> = UnpackedReader<ZipFile<'a, BufReader<File>>>;

/// Small files may unpack to any ratio up to this size.
const FREE_BYTES: u64 = 64 << 20;
/// The most entries that a message names.
const MAX_NAMED_ENTRIES: usize = 20;

/// How far an archive may unpack.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnpackLimits {
    /// The maximum number of unpacked bytes.
    pub bytes: u64,
    /// The maximum number of unpacked bytes per packed byte, looked at past 64 MiB.
    pub ratio: u64,
}

/// Counts the packed bytes that have been read.
#[derive(Clone, Debug, Default)]
pub struct PackedCount(Arc<AtomicU64>);

impl PackedCount {
    /// The number of bytes so far.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Adds bytes.
    pub fn add(&self, bytes: u64) {
        self.0.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// The unpacked bytes of an archive. Reading fails past the limits.
pub struct UnpackedReader<R> {
    inner: R,
    limits: UnpackLimits,
    packed: PackedCount,
    unpacked: u64,
}

impl<R: Read> UnpackedReader<R> {
    /// Watches a reader of unpacked bytes. `packed` counts the bytes that it has read for them.
    pub fn new(inner: R, limits: UnpackLimits, packed: PackedCount) -> Self {
        Self { inner, limits, packed, unpacked: 0 }
    }

    /// The number of unpacked bytes so far.
    pub fn unpacked(&self) -> u64 {
        self.unpacked
    }

    fn check_limits(&self) -> io::Result<()> {
        let too_large = |message: String| Err(io::Error::other(Error::new(codes::ARCHIVE_TOO_LARGE, message)));
        if self.unpacked > self.limits.bytes {
            return too_large(format!("the archive unpacks to more than {} bytes", self.limits.bytes));
        }
        let packed = self.packed.get().max(1);
        if self.unpacked > FREE_BYTES && self.unpacked / packed > self.limits.ratio {
            return too_large(format!("the archive unpacks to more than {} times its size", self.limits.ratio));
        }
        Ok(())
    }
}

impl<R: Read> Read for UnpackedReader<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(into)?;
        self.unpacked += count as u64;
        self.check_limits()?;
        Ok(count)
    }
}

/// Converts an error of reading packed bytes. Our own errors pass.
pub fn unpack_error(error: &io::Error) -> Error {
    if let Some(known) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return known.clone();
    }
    match (error.kind(), error.raw_os_error()) {
        (ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof, None) => {
            Error::new(codes::ARCHIVE_INVALID, format!("the archive cannot be unpacked: {error}"))
        }
        (_, Some(number)) => Error::from(io::Error::from_raw_os_error(number)),
        (kind, None) => Error::from(io::Error::new(kind, error.to_string())),
    }
}

fn zip_error(error: ZipError) -> Error {
    match error {
        ZipError::Io(error) => unpack_error(&error),
        error => Error::new(codes::ARCHIVE_INVALID, format!("the archive cannot be unpacked: {error}")),
    }
}

/// Opens a zip archive.
///
/// # Errors
/// `archive_invalid` if it is damaged.
pub fn open_zip(file: File) -> Result<ZipFileArchive> {
    ZipArchive::new(BufReader::new(file)).map_err(zip_error)
}

/// The entries that are files, with their names. Folders and the notes of macOS are none.
pub fn list_files(archive: &ZipFileArchive) -> Vec<(usize, String)> {
    let name = |at: usize| Some((at, archive.name_for_index(at)?.ok()?.into_owned()));
    let is_file = |name: &str| !name.ends_with('/') && !name.starts_with("__MACOSX/") && !name.ends_with(".DS_Store");
    (0..archive.len()).filter_map(name).filter(|(_, name)| is_file(name)).collect()
}

/// Finds the entry to read: the one of this name, or the only one.
///
/// # Errors
/// `archive_entry_missing`.
pub fn find_entry(archive: &ZipFileArchive, wanted: Option<&str>) -> Result<(usize, String)> {
    let mut files = list_files(archive);
    let named = files.iter().take(MAX_NAMED_ENTRIES).map(|(_, name)| format!("`{name}`")).collect::<Vec<_>>();
    let more = if files.len() > MAX_NAMED_ENTRIES { ", …" } else { "" };
    let missing = |message: String| {
        Error::new(codes::ARCHIVE_ENTRY_MISSING, message)
            .with_hint(format!("set `entry` to one of {}{more}", named.join(", ")))
    };
    match wanted {
        Some(wanted) => match files.iter().position(|(_, name)| name == wanted) {
            Some(at) => Ok(files.swap_remove(at)),
            None => Err(missing(format!("the archive has no file `{wanted}`"))),
        },
        None if files.len() == 1 => Ok(files.swap_remove(0)),
        None if files.is_empty() => {
            Err(Error::new(codes::ARCHIVE_ENTRY_MISSING, "the archive has no file").with_hint("pack a CSV into it"))
        }
        None => Err(missing(format!("the archive has {} files, and one import reads one", files.len()))),
    }
}

/// Opens an entry.
///
/// # Errors
/// `archive_invalid` if it is damaged, encrypted, or packed in an unknown way.
pub fn open_entry(archive: &mut ZipFileArchive, index: usize, limits: UnpackLimits) -> Result<ZipEntryReader<'_>> {
    let entry = archive.by_index(index).map_err(zip_error)?;
    // No more bytes than the size in the list of entries are read.
    let packed = PackedCount::default();
    packed.add(entry.compressed_size());
    Ok(UnpackedReader::new(entry, limits, packed))
}
