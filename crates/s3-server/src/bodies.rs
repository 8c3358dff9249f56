//! Bodies: files named by id, synced before anything names them, removed after nothing does.

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

use super::digest::{Checksums, Digests};
use super::index::lock;
use super::index::objects::Stretch;

/// How much is read from a file at once.
const CHUNK: u64 = 256 << 10;

/// How much is hashed and then written at once.
const PIECE: usize = 128 << 10;

/// The folder of the bodies.
#[derive(Clone)]
pub(super) struct Bodies(Arc<Inner>);

struct Inner {
    bodies: PathBuf,
    incoming: PathBuf,
    /// Readers by owner, and what to remove once the last one has gone.
    readers: Mutex<HashMap<String, Readers>>,
}

#[derive(Default)]
struct Readers {
    count: usize,
    doomed: Vec<String>,
}

/// Bodies that nothing names any more, and the object (or upload) that named them.
#[derive(Debug)]
pub(super) struct Garbage {
    pub(super) owner: String,
    pub(super) bodies: Vec<String>,
}

impl Bodies {
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        let (bodies, incoming) = (dir.join("bodies"), dir.join("incoming"));
        // What people upload is nobody else's business.
        let mut folder = fs::DirBuilder::new();
        folder.recursive(true).mode(0o700);
        folder.create(&bodies)?;
        folder.create(&incoming)?;
        sync(dir)?;
        Ok(Self(Arc::new(Inner { bodies, incoming, readers: Mutex::default() })))
    }

    pub(super) fn incoming_dir(&self) -> &Path {
        &self.0.incoming
    }

    pub(super) fn bodies_dir(&self) -> &Path {
        &self.0.bodies
    }

    /// Ids begin with the time, so the shard is taken from their end, which is random.
    fn shard(&self, id: &str) -> PathBuf {
        self.0.bodies.join(&id[id.len().saturating_sub(2)..])
    }

    fn path(&self, id: &str) -> PathBuf {
        self.shard(id).join(id)
    }

    /// Begins to take in a body.
    pub(super) fn incoming(&self, digests: Digests) -> io::Result<Incoming> {
        let id = Ulid::generate().to_string();
        let path = self.0.incoming.join(&id);
        let file = File::options().write(true).create_new(true).open(&path)?;
        Ok(Incoming { file, digests, size: 0, left: Leftover { path: Some(path) }, id, bodies: self.clone() })
    }

    /// Keeps the bodies of an owner in place while somebody reads them.
    pub(super) fn hold(&self, owner: &str) -> Hold {
        lock(&self.0.readers).entry(owner.to_owned()).or_default().count += 1;
        Hold { bodies: self.clone(), owner: owner.to_owned() }
    }

    /// Removes bodies, those that are being read after their last reader.
    pub(super) fn discard(&self, garbage: Vec<Garbage>) {
        for Garbage { owner, bodies } in garbage {
            let now = match lock(&self.0.readers).get_mut(&owner) {
                Some(readers) => {
                    readers.doomed.extend(bodies);
                    continue;
                }
                None => bodies,
            };
            now.iter().for_each(|id| self.remove(id));
        }
    }

    fn remove(&self, id: &str) {
        if let Err(error) = fs::remove_file(self.path(id))
            && error.kind() != ErrorKind::NotFound
        {
            tracing::warn!("a body of the object store could not be removed, the next start tries again: {error}");
        }
    }
}

/// While it lives, the bodies of its owner stay where they are, as far as this process is concerned.
pub(super) struct Hold {
    bodies: Bodies,
    owner: String,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let doomed = {
            let mut readers = lock(&self.bodies.0.readers);
            let Some(entry) = readers.get_mut(&self.owner) else { return };
            entry.count -= 1;
            if entry.count > 0 {
                return;
            }
            readers.remove(&self.owner).map(|readers| readers.doomed).unwrap_or_default()
        };
        doomed.iter().for_each(|id| self.bodies.remove(id));
    }
}

/// A file that is removed unless it is taken over.
struct Leftover {
    path: Option<PathBuf>,
}

impl Drop for Leftover {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Whatever stays is found by the sweep.
            let _ = fs::remove_file(path);
        }
    }
}

/// A body on its way in.
pub(super) struct Incoming {
    file: File,
    digests: Digests,
    size: u64,
    left: Leftover,
    id: String,
    bodies: Bodies,
}

impl Incoming {
    /// In pieces that are still at hand when they are read again.
    pub(super) fn write(&mut self, chunk: &[u8]) -> io::Result<()> {
        self.size += chunk.len() as u64;
        for piece in chunk.chunks(PIECE) {
            self.digests.update(piece);
            self.file.write_all(piece)?;
        }
        Ok(())
    }

    /// Puts the body on disk, in its place. Nothing names it yet.
    pub(super) fn seal(self) -> io::Result<Sealed> {
        let Self { file, digests, size, mut left, id, bodies } = self;
        file.sync_all()?;
        let shard = bodies.shard(&id);
        if !shard.is_dir() {
            fs::create_dir_all(&shard)?;
            sync(&bodies.0.bodies)?;
        }
        let path = shard.join(&id);
        if let Some(from) = &left.path {
            failpoint!("store.body_written");
            fs::rename(from, &path)?;
            failpoint!("store.body_renamed");
        }
        left.path = Some(path);
        sync(&shard)?;
        let (md5, checksums) = digests.finish();
        Ok(Sealed { id, size, md5, checksums, left })
    }
}

/// A body on disk that nothing names yet; removed unless somebody does.
pub(super) struct Sealed {
    pub(super) id: String,
    pub(super) size: u64,
    /// In hexadecimal; for bytes of our own what stands in its place.
    pub(super) md5: String,
    pub(super) checksums: Checksums,
    left: Leftover,
}

impl Sealed {
    /// The body has a name now.
    pub(super) fn keep(mut self) {
        self.left.path = None;
    }
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// A stretch of an object as a stream. Files are opened one after the other, and read where blocking is allowed.
pub(super) struct Outgoing {
    remaining: u64,
    state: State,
}

enum State {
    Idle(Box<Reader>),
    Reading(JoinHandle<(Box<Reader>, io::Result<Bytes>)>),
    Done,
}

struct Reader {
    bodies: Bodies,
    stretches: std::vec::IntoIter<Stretch>,
    current: Option<File>,
    /// Bytes left of the current file, and of everything.
    left: u64,
    remaining: u64,
    at: u64,
    _hold: Hold,
}

impl Outgoing {
    /// The bytes from `from` up to `to`, which lie in `stretches`. The first file is opened now, so that its absence
    /// is known before an answer begins.
    pub(super) fn open(bodies: &Bodies, hold: Hold, stretches: Vec<Stretch>, from: u64, to: u64) -> io::Result<Self> {
        let remaining = to - from;
        let stretches = stretches.into_iter();
        let bodies = bodies.clone();
        let mut reader = Reader { bodies, stretches, current: None, left: 0, remaining, at: from, _hold: hold };
        if remaining > 0 {
            reader.advance()?;
        }
        Ok(Self { remaining, state: State::Idle(Box::new(reader)) })
    }
}

impl Reader {
    fn advance(&mut self) -> io::Result<()> {
        let Stretch { body, start, size } = self.stretches.next().ok_or(ErrorKind::UnexpectedEof)?;
        let mut file = File::open(self.bodies.path(&body))?;
        if self.at > start {
            file.seek(SeekFrom::Start(self.at - start))?;
        }
        self.left = (start + size).saturating_sub(self.at);
        self.current = Some(file);
        Ok(())
    }

    fn read(&mut self) -> io::Result<Bytes> {
        while self.left == 0 {
            self.advance()?;
        }
        let count = CHUNK.min(self.left).min(self.remaining);
        let mut chunk = Vec::with_capacity(count as usize);
        let file = self.current.as_mut().ok_or(ErrorKind::UnexpectedEof)?;
        if file.take(count).read_to_end(&mut chunk)? as u64 != count {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.left -= count;
        self.remaining -= count;
        self.at += count;
        Ok(chunk.into())
    }
}

impl Stream for Outgoing {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            match std::mem::replace(&mut self.state, State::Done) {
                State::Done => return Poll::Ready(None),
                // The end of the stream lets the reader, and with it its hold, go.
                State::Idle(_) if self.remaining == 0 => return Poll::Ready(None),
                State::Idle(mut reader) => {
                    self.state = State::Reading(tokio::task::spawn_blocking(move || {
                        let chunk = reader.read();
                        (reader, chunk)
                    }));
                }
                State::Reading(mut reading) => {
                    let polled = Pin::new(&mut reading).poll(cx);
                    if polled.is_pending() {
                        self.state = State::Reading(reading);
                    }
                    let (reader, chunk) = ready!(polled)?;
                    let chunk = chunk.inspect_err(|error| {
                        tracing::error!("a body of the embedded object store cannot be read: {error}");
                    })?;
                    self.remaining -= chunk.len() as u64;
                    self.state = State::Idle(reader);
                    return Poll::Ready(Some(Ok(chunk)));
                }
            }
        }
    }
}

impl ByteStream for Outgoing {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(usize::try_from(self.remaining).unwrap_or(usize::MAX))
    }
}
