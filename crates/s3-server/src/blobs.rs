//! Blobs: files named by ID. A blob is synced before the index names it, and removed after the index forgets it.

use afterload_core::failpoint;
use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use s3s::StdError;
use s3s::stream::{ByteStream, RemainingLength};
use tokio::task::JoinHandle;
use ulid::Ulid;

use super::digest::{BlobChecksums, BodyDigests};
use super::lock::lock_unpoisoned;

/// Bytes per read from a file.
const READ_CHUNK_BYTES: u64 = 256 << 10;

/// Bytes that are hashed and then written together.
const HASH_CHUNK_BYTES: usize = 128 << 10;

/// The directory of the blobs.
#[derive(Clone)]
pub(super) struct BlobDir(Arc<BlobDirState>);

struct BlobDirState {
    blobs_dir: PathBuf,
    incoming_dir: PathBuf,
    /// Active readers by owner, and the blobs to remove after the last reader.
    readers: Mutex<HashMap<String, BlobReaders>>,
}

#[derive(Default)]
struct BlobReaders {
    count: usize,
    pending_delete: Vec<String>,
}

/// Blobs that the index no longer names, with the object or upload that owned them.
#[derive(Debug)]
pub(super) struct UnreferencedBlobs {
    pub(super) owner: String,
    pub(super) blob_ids: Vec<String>,
}

impl BlobDir {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let (bodies, incoming) = (dir.join("bodies"), dir.join("incoming"));
        // Uploads are private, so only our own user may read the directory.
        let mut folder = fs::DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(&bodies)?;
        folder.create(&incoming)?;
        sync_dir(dir)?;
        Ok(Self(Arc::new(BlobDirState { blobs_dir: bodies, incoming_dir: incoming, readers: Mutex::default() })))
    }

    pub(super) fn incoming_dir(&self) -> &Path {
        &self.0.incoming_dir
    }

    pub(super) fn blobs_dir(&self) -> &Path {
        &self.0.blobs_dir
    }

    /// IDs begin with the time. The shard comes from their end, which is random.
    fn shard_dir(&self, id: &str) -> PathBuf {
        self.0.blobs_dir.join(&id[id.len().saturating_sub(2)..])
    }

    fn blob_path(&self, id: &str) -> PathBuf {
        self.shard_dir(id).join(id)
    }

    /// Starts to write a new blob.
    pub(super) fn create_writer(&self, digests: BodyDigests) -> io::Result<BlobWriter> {
        let id = Ulid::generate().to_string();
        let path = self.0.incoming_dir.join(&id);
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(BlobWriter { file, digests, size: 0, temp_file: TempFile { path: Some(path) }, id, blobs: self.clone() })
    }

    /// Keeps the blobs of an owner in place during a read.
    pub(super) fn guard_reads(&self, owner: &str) -> BlobReadGuard {
        lock_unpoisoned(&self.0.readers).entry(owner.to_owned()).or_default().count += 1;
        BlobReadGuard { blobs: self.clone(), owner: owner.to_owned() }
    }

    /// Removes blobs. A blob with active readers is removed after the last one.
    pub(super) fn delete_unreferenced(&self, garbage: Vec<UnreferencedBlobs>) {
        for UnreferencedBlobs { owner, blob_ids: bodies } in garbage {
            let now = match lock_unpoisoned(&self.0.readers).get_mut(&owner) {
                Some(readers) => {
                    readers.pending_delete.extend(bodies);
                    continue;
                }
                None => bodies,
            };
            now.iter().for_each(|id| self.delete_blob(id));
        }
    }

    fn delete_blob(&self, id: &str) {
        if let Err(error) = fs::remove_file(self.blob_path(id))
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!("cannot remove a blob of the embedded object store; the next start retries: {error}");
        }
    }
}

/// Keeps the blobs of its owner in place while it lives. Other processes do not see it.
pub(super) struct BlobReadGuard {
    blobs: BlobDir,
    owner: String,
}

impl Drop for BlobReadGuard {
    fn drop(&mut self) {
        let doomed = {
            let mut readers = lock_unpoisoned(&self.blobs.0.readers);
            let Some(entry) = readers.get_mut(&self.owner) else { return };
            entry.count -= 1;
            if entry.count > 0 {
                return;
            }
            readers.remove(&self.owner).map(|readers| readers.pending_delete).unwrap_or_default()
        };
        doomed.iter().for_each(|id| self.blobs.delete_blob(id));
    }
}

/// A file that is removed on drop unless its path has been taken.
struct TempFile {
    path: Option<PathBuf>,
}

impl Drop for TempFile {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Garbage collection removes the file if this fails.
            let _ = fs::remove_file(path);
        }
    }
}

/// Writes a new blob to a temporary file.
pub(super) struct BlobWriter {
    file: File,
    digests: BodyDigests,
    size: u64,
    temp_file: TempFile,
    id: String,
    blobs: BlobDir,
}

impl BlobWriter {
    /// Hashes and writes in small pieces, so that the second read of each piece hits the CPU cache.
    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.size += chunk.len() as u64;
        for piece in chunk.chunks(HASH_CHUNK_BYTES) {
            self.digests.update(piece);
            self.file.write_all(piece)?;
        }
        Ok(())
    }

    /// Syncs the file and moves it to its place. The index does not name it yet.
    pub(super) fn finish(self) -> io::Result<WrittenBlob> {
        let Self { file, digests, size, temp_file: mut left, id, blobs: bodies } = self;
        file.sync_all()?;
        let shard = bodies.shard_dir(&id);
        if !shard.is_dir() {
            fs::create_dir_all(&shard)?;
            sync_dir(&bodies.0.blobs_dir)?;
        }
        let path = shard.join(&id);
        if let Some(from) = &left.path {
            failpoint!("store.body_written");
            fs::rename(from, &path)?;
            failpoint!("store.body_renamed");
        }
        left.path = Some(path);
        sync_dir(&shard)?;
        let (md5, checksums) = digests.finish();
        Ok(WrittenBlob { id, size, md5, checksums, temp_file: left })
    }
}

/// A blob on disk that the index does not name yet. It is removed on drop unless it is marked as referenced.
pub(super) struct WrittenBlob {
    pub(super) id: String,
    pub(super) size: u64,
    /// Hexadecimal. If `skip_md5` is set, a cheaper digest of the same length.
    pub(super) md5: String,
    pub(super) checksums: BlobChecksums,
    temp_file: TempFile,
}

impl WrittenBlob {
    /// Keeps the file, because the index names it now.
    pub(super) fn mark_referenced(mut self) {
        self.temp_file.path = None;
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A range of an object that lies in one blob.
#[derive(Clone, Debug)]
pub(super) struct PartRange {
    pub(super) blob_id: String,
    pub(super) start: u64,
    pub(super) size: u64,
}

/// A range of an object as a stream. It opens one file at a time and reads in blocking tasks.
pub(super) struct BlobStream {
    remaining: u64,
    state: BlobStreamState,
}

enum BlobStreamState {
    Idle(Box<BlobReader>),
    Reading(JoinHandle<(Box<BlobReader>, io::Result<Bytes>)>),
    Done,
}

struct BlobReader {
    blobs: BlobDir,
    part_ranges: std::vec::IntoIter<PartRange>,
    current: Option<File>,
    /// Bytes left in the current file, and in the whole range.
    file_remaining: u64,
    remaining: u64,
    position: u64,
    _read_guard: BlobReadGuard,
}

impl BlobStream {
    /// Streams the bytes from `from` up to `to`, which lie in `stretches`. The first file is opened here, so that a
    /// missing file is an error before the response starts.
    pub(super) fn open(
        bodies: &BlobDir,
        hold: BlobReadGuard,
        stretches: Vec<PartRange>,
        from: u64,
        to: u64,
    ) -> io::Result<Self> {
        let remaining = to - from;
        let stretches = stretches.into_iter();
        let bodies = bodies.clone();
        let mut reader = BlobReader {
            blobs: bodies,
            part_ranges: stretches,
            current: None,
            file_remaining: 0,
            remaining,
            position: from,
            _read_guard: hold,
        };
        if remaining > 0 {
            reader.open_next_file()?;
        }
        Ok(Self { remaining, state: BlobStreamState::Idle(Box::new(reader)) })
    }
}

impl BlobReader {
    fn open_next_file(&mut self) -> io::Result<()> {
        let PartRange { blob_id: body, start, size } = self.part_ranges.next().ok_or(ErrorKind::UnexpectedEof)?;
        let mut file = File::open(self.blobs.blob_path(&body))?;
        if self.position > start {
            file.seek(SeekFrom::Start(self.position - start))?;
        }
        self.file_remaining = (start + size).saturating_sub(self.position);
        self.current = Some(file);
        Ok(())
    }

    fn read_chunk(&mut self) -> io::Result<Bytes> {
        while self.file_remaining == 0 {
            self.open_next_file()?;
        }
        let count = READ_CHUNK_BYTES.min(self.file_remaining).min(self.remaining);
        let mut chunk = Vec::with_capacity(count as usize);
        let file = self.current.as_mut().ok_or(ErrorKind::UnexpectedEof)?;
        if file.take(count).read_to_end(&mut chunk)? as u64 != count {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.file_remaining -= count;
        self.remaining -= count;
        self.position += count;
        Ok(chunk.into())
    }
}

impl Stream for BlobStream {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::mem::replace(&mut self.state, BlobStreamState::Done) {
                BlobStreamState::Done => return Poll::Ready(None),
                // The end of the stream drops the reader, and its guard with it.
                BlobStreamState::Idle(_) if self.remaining == 0 => return Poll::Ready(None),
                BlobStreamState::Idle(mut reader) => {
                    self.state = BlobStreamState::Reading(tokio::task::spawn_blocking(move || {
                        let chunk = reader.read_chunk();
                        (reader, chunk)
                    }));
                }
                BlobStreamState::Reading(mut reading) => {
                    let polled = Pin::new(&mut reading).poll(cx);
                    if polled.is_pending() {
                        self.state = BlobStreamState::Reading(reading);
                    }
                    let (reader, chunk) = ready!(polled)?;
                    let chunk = chunk.inspect_err(|error| {
                        tracing::error!("cannot read a blob of the embedded object store: {error}");
                    })?;
                    self.remaining -= chunk.len() as u64;
                    self.state = BlobStreamState::Idle(reader);
                    return Poll::Ready(Some(Ok(chunk)));
                }
            }
        }
    }
}

impl ByteStream for BlobStream {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.remaining).unwrap_or(usize::MAX))
    }
}
