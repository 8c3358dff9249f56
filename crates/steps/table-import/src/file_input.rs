//! Opens the file of an import: detects archives, workbooks and texts by their bytes, and reads the format of the table.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use futures::StreamExt;
use futures::stream::BoxStream;
use memchr::memmem;
use tokio::io::AsyncWriteExt;

use super::csv_format::{CsvFormat, HEADER_SAMPLE_SIZE};
use super::header_search::MAX_HEADER_RECORDS;
use super::{CsvImport, HeaderSpec, SheetSpec};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_tabular::read::csv_parser::CsvRecord;
use afterload_tabular::read::detect;
use afterload_tabular::read::unpack::{UnpackLimits, ZipFileArchive, find_entry, open_entry, open_zip, unpack_error};
use afterload_tabular::read::utf8_decoder::Utf8Decoder;
use afterload_tabular::read::xlsx::{RowShape, SheetChoice, Workbook, WorkbookLimits, is_workbook};

const GZIP_SIGNATURE: &[u8] = b"\x1f\x8b";
const ZIP_SIGNATURE: &[u8] = b"PK\x03\x04";
/// The signature of an entry in the list of an archive.
const LISTED_SIGNATURE: &[u8] = b"PK\x01\x02";
/// The most entries of an archive. Their list stays in memory.
const MAX_ENTRIES: usize = 10_000;
/// The most rows above a table in a sheet that are looked at.
const MAX_SKIPPED_ROWS: u64 = 10_000;

/// A file that can be read from any offset.
pub trait CsvSource: Send + Sync {
    /// Opens a stream of the bytes from `from` on, and returns it with the total size.
    fn open(&self, from: u64) -> impl Future<Output = Result<(u64, BoxStream<'static, Result<Bytes>>)>> + Send;
}

/// A file with the format of its table.
pub struct OpenedFile {
    /// The format.
    pub layout: CsvFormat,
    /// The size of the file in bytes.
    pub size: u64,
    /// Where the table is.
    pub place: TablePlace,
}

/// Where a table is in its file.
pub enum TablePlace {
    /// The file is the table.
    Plain,
    /// In a gzip archive.
    Gzip,
    /// In an entry of a zip archive.
    ZipEntry(Box<ZipFileArchive>, usize),
    /// In a sheet of a workbook.
    Sheet(Box<Workbook>),
}

/// Opens the file, and detects the format.
///
/// # Errors
/// Errors of the archive, of the workbook and of the header, and those of the source.
pub async fn open_file<S: CsvSource>(source: &S, spec: &CsvImport) -> Result<OpenedFile> {
    let (size, mut stream) = source.open(0).await?;
    let mut sample = Vec::new();
    let mut whole = true;
    while let Some(bytes) = stream.next().await {
        sample.extend_from_slice(&bytes?);
        if sample.len() > HEADER_SAMPLE_SIZE {
            whole = false;
            break;
        }
    }
    if whole && (sample.len() as u64) < size {
        return Err(Error::new(codes::SOURCE_TRUNCATED, format!("the source ended before its {size} bytes")));
    }
    if sample.starts_with(GZIP_SIGNATURE) {
        let (text, whole) = unpack_sample(&sample, whole)?;
        let layout = CsvFormat { archive: Some("gzip"), ..text_format(&text, whole, spec)? };
        return Ok(OpenedFile { layout, size, place: TablePlace::Gzip });
    }
    let is_zip = sample.starts_with(ZIP_SIGNATURE);
    if !spec.any_format || !is_zip || is_other_archive(&sample) {
        return Ok(OpenedFile { layout: text_format(&sample, whole, spec)?, size, place: TablePlace::Plain });
    }
    drop((sample, stream));
    let file = store_locally(source, spec.unpack_limits().bytes).await?;
    let spec = spec.clone();
    let opened = tokio::task::spawn_blocking(move || open_archive(file, &spec)).await;
    let (layout, place) =
        opened.map_err(|error| Error::new(codes::INTERNAL_ERROR, format!("reading the file panicked: {error}")))??;
    Ok(OpenedFile { layout, size, place })
}

/// Whether a zip archive is a document of another kind.
fn is_other_archive(sample: &[u8]) -> bool {
    let known = detect::detect_other_format(sample);
    !matches!(known, Some("a zip archive" | "an Excel workbook" | "a zip archive or an office document"))
}

/// Unpacks the beginning of a gzip archive. Also returns whether that is all of it.
fn unpack_sample(sample: &[u8], whole: bool) -> Result<(Vec<u8>, bool)> {
    let mut unpacked = MultiGzDecoder::new(sample).take(HEADER_SAMPLE_SIZE as u64 + 1);
    let mut text = Vec::new();
    match unpacked.read_to_end(&mut text) {
        Ok(_) => {
            // The sample may end between two members of the archive.
            let whole = whole && text.len() <= HEADER_SAMPLE_SIZE;
            Ok((text, whole))
        }
        // The sample ends inside the archive.
        Err(error) if !whole && error.kind() == std::io::ErrorKind::UnexpectedEof && !text.is_empty() => {
            Ok((text, false))
        }
        Err(error) => Err(unpack_error(&error)),
    }
}

/// The format of a text: CSV or JSON Lines.
fn text_format(text: &[u8], whole: bool, spec: &CsvImport) -> Result<CsvFormat> {
    let is_json = || detect::detect_other_format(text) == Some("JSON") || starts_with_object(text, whole);
    if !spec.any_format || !is_json() {
        return CsvFormat::from_sample(text, whole, spec);
    }
    let encoding = detect::detect_encoding(text, whole, spec.declared_encoding()?);
    let (mut decode, _) = Utf8Decoder::new(encoding, 0);
    let mut decoded = Vec::new();
    let start = if encoding.encoding.is_utf8() { encoding.bom_len } else { 0 };
    let kept = decode.decode_chunk(&text[start..], whole, |piece| {
        decoded.extend_from_slice(piece);
        Ok::<(), std::convert::Infallible>(())
    });
    match kept {
        Ok(()) => {}
    }
    if !decoded.trim_ascii_start().starts_with(b"{") {
        return Err(Error::new(codes::CSV_NOT_TEXT, "this is JSON, but no object on each line")
            .with_hint("write one object per line (JSON Lines)"));
    }
    CsvFormat::from_json_lines(&decoded, whole, encoding, spec)
}

/// Whether the first line is a JSON object. Later lines may be broken.
fn starts_with_object(text: &[u8], whole: bool) -> bool {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text).trim_ascii_start();
    let end = memchr::memchr(b'\n', text).or_else(|| whole.then_some(text.len()));
    let line = end.map_or(&b""[..], |end| &text[..end]);
    line.starts_with(b"{") && serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

/// Stores an archive in a file without a name, because its list of entries stands at its end.
async fn store_locally<S: CsvSource>(source: &S, max: u64) -> Result<File> {
    let (size, mut stream) = source.open(0).await?;
    if size > max {
        let message = format!("the archive is larger than {max} bytes (`unpack.max_size`)");
        return Err(Error::new(codes::ARCHIVE_TOO_LARGE, message));
    }
    let mut file = tokio::fs::File::from_std(tempfile::tempfile()?);
    let (mut stored, mut listed, mut border) = (0, 0, Vec::<u8>::new());
    while let Some(bytes) = stream.next().await {
        let bytes = bytes?;
        file.write_all(&bytes).await?;
        stored += bytes.len() as u64;
        // A signature may stand across two pieces.
        let across = LISTED_SIGNATURE.len() - 1;
        border.extend_from_slice(&bytes[..bytes.len().min(across)]);
        listed += memmem::find_iter(&border, LISTED_SIGNATURE).count();
        listed += memmem::find_iter(&bytes, LISTED_SIGNATURE).count();
        if bytes.len() > across {
            border.clear();
            border.extend_from_slice(&bytes[bytes.len() - across..]);
        }
        border.drain(..border.len().saturating_sub(across));
        if listed > MAX_ENTRIES {
            let message = format!("the archive has more than {MAX_ENTRIES} entries");
            return Err(Error::new(codes::ARCHIVE_TOO_LARGE, message).with_hint("pack only the file to import"));
        }
    }
    if stored < size {
        return Err(Error::new(codes::SOURCE_TRUNCATED, format!("the source ended after {stored} of {size} bytes")));
    }
    file.flush().await?;
    let mut file = file.into_std().await;
    file.seek(SeekFrom::Start(0))?;
    Ok(file)
}

/// Opens an archive: a workbook, or a zip archive around a text.
fn open_archive(file: File, spec: &CsvImport) -> Result<(CsvFormat, TablePlace)> {
    let limits = spec.unpack_limits();
    let mut archive = open_zip(file)?;
    if is_workbook(&archive) {
        return open_workbook(archive, spec);
    }
    // Excel's binary workbooks, and documents whose kind the first bytes do not tell.
    if archive.index_for_name("[Content_Types].xml").is_some() {
        return Err(Error::new(codes::CSV_NOT_TEXT, "this is an office document, but no XLSX workbook")
            .with_hint("save it as XLSX or CSV and upload that"));
    }
    let (index, name) = find_entry(&archive, spec.entry.as_deref())?;
    let (text, whole) = read_entry_sample(&mut archive, index, limits)?;
    let nested = |error: Error| error.context(format!("the entry `{name}`"));
    let layout = CsvFormat { archive: Some("zip"), ..text_format(&text, whole, spec).map_err(nested)? };
    Ok((layout, TablePlace::ZipEntry(Box::new(archive), index)))
}

fn read_entry_sample(archive: &mut ZipFileArchive, index: usize, limits: UnpackLimits) -> Result<(Vec<u8>, bool)> {
    let mut text = Vec::new();
    let entry = open_entry(archive, index, limits)?;
    let read = entry.take(HEADER_SAMPLE_SIZE as u64 + 1).read_to_end(&mut text);
    read.map_err(|error| unpack_error(&error))?;
    let whole = text.len() <= HEADER_SAMPLE_SIZE;
    Ok((text, whole))
}

fn open_workbook(archive: ZipFileArchive, spec: &CsvImport) -> Result<(CsvFormat, TablePlace)> {
    let choice = match &spec.sheet {
        None => SheetChoice::First,
        Some(SheetSpec::Number(number)) => SheetChoice::Number(*number),
        Some(SheetSpec::Name(name)) => SheetChoice::Name(name.clone()),
    };
    let limits = WorkbookLimits { unpack: spec.unpack_limits(), shared_text: spec.unpack.max_shared_text.0 };
    let mut book = Workbook::open(archive, &choice, limits)?;
    let sheet = book.sheet_name.clone();
    let wanted = MAX_HEADER_RECORDS + spec.skip_rows.min(MAX_SKIPPED_ROWS) as usize;
    let mut first = Vec::new();
    let mut rows = book.open_rows(RowShape { limits: spec.limits(), ..RowShape::default() })?;
    let (mut record, mut size) = (CsvRecord::default(), 0);
    while first.len() < wanted && size <= HEADER_SAMPLE_SIZE && rows.read_row(&mut record)? {
        size += record.bytes.len() + record.ends.len();
        first.push(std::mem::take(&mut record));
        // Without a header only the first row is looked at.
        if matches!(spec.header, HeaderSpec::Names(_)) && first.len() > spec.skip_rows as usize {
            break;
        }
    }
    drop(rows);
    let layout = CsvFormat::from_rows(&first, &sheet, spec)?;
    Ok((layout, TablePlace::Sheet(Box::new(book))))
}
