//! Files in MaxMind's format, with MaxMind's nested records or ip-location-db's flat ones.

mod record;

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use maxminddb::{MaxMindDbError, Reader};

use self::record::MmdbRecord;
use super::GeoRecord;
use crate::codes;
use afterload_core::error::{Error, Result};

/// How often a file is checked for changes.
const MMDB_POLL_INTERVAL: Duration = Duration::from_secs(1);

/// A file. It is opened at the first lookup and reopened when it changes.
pub(super) struct MmdbFile {
    name: String,
    path: PathBuf,
    state: Mutex<Option<OpenMmdb>>,
}

#[derive(Clone)]
struct OpenMmdb {
    reader: Arc<Reader<Vec<u8>>>,
    stamp: MmdbStamp,
    checked_at: Instant,
}

/// Detects that a file has changed: its modification time and size.
type MmdbStamp = (Option<SystemTime>, u64);

impl MmdbFile {
    pub(super) fn new(folder: &Path, name: &str) -> Self {
        let path = folder.join(format!("{name}.mmdb"));
        Self { name: format!("mmdb:{name}"), path, state: Mutex::default() }
    }

    /// Looks up each address; returns the records in order. Blocks while it reads the file.
    pub(super) fn find_records(&self, addresses: &[IpAddr]) -> Result<Vec<Option<Arc<GeoRecord>>>> {
        let reader = self.current_reader()?;
        let of_four = reader.metadata().ip_version == 4;
        // Many networks share a record, so each record is decoded once.
        let mut records: HashMap<usize, Option<Arc<GeoRecord>>> = HashMap::new();
        let mut one = |ip: &IpAddr| {
            if of_four && ip.is_ipv6() {
                return Ok(None);
            }
            let found = reader.lookup(*ip)?;
            let Some(at) = found.offset() else { return Ok(None) };
            if let Some(answer) = records.get(&at) {
                return Ok(answer.clone());
            }
            let answer = found.decode::<MmdbRecord<'_>>()?.map(MmdbRecord::into_geo_record).filter(GeoRecord::has_data);
            let answer = answer.map(|answer| Arc::new(GeoRecord { provider: Some(self.name.clone()), ..answer }));
            records.insert(at, answer.clone());
            Ok(answer)
        };
        addresses.iter().map(|ip| one(ip).map_err(|error| self.mmdb_error(&error))).collect()
    }

    fn current_reader(&self) -> Result<Arc<Reader<Vec<u8>>>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(opened) = state.as_ref().filter(|opened| opened.checked_at.elapsed() < MMDB_POLL_INTERVAL) {
            return Ok(opened.reader.clone());
        }
        let read = self.read_stamp().map_err(MaxMindDbError::Io).and_then(|stamp| match state.as_ref() {
            Some(opened) if opened.stamp == stamp => Ok((opened.reader.clone(), stamp)),
            _ => Ok((Arc::new(Reader::open_readfile(&self.path)?), stamp)),
        });
        let (reader, stamp) = match (read, state.as_ref()) {
            (Ok(read), _) => read,
            // The file is missing or incomplete while it is replaced. Keep the previous version until then.
            (Err(error), Some(opened)) => {
                tracing::warn!(geo.provider = self.name, %error, "the geo file cannot be read; its previous version stays in use");
                (opened.reader.clone(), opened.stamp)
            }
            (Err(error), None) => return Err(self.mmdb_error(&error)),
        };
        *state = Some(OpenMmdb { reader: reader.clone(), stamp, checked_at: Instant::now() });
        Ok(reader)
    }

    fn read_stamp(&self) -> io::Result<MmdbStamp> {
        let facts = self.path.metadata()?;
        Ok((facts.modified().ok(), facts.len()))
    }

    fn mmdb_error(&self, error: &MaxMindDbError) -> Error {
        match error {
            MaxMindDbError::Io(error) => {
                Error::new(codes::GEO_FILE_MISSING, format!("`{}` cannot be read: {error}", self.path.display()))
            }
            error => {
                let message = format!("`{}` is not a sound file of the MaxMind format: {error}", self.path.display());
                Error::new(codes::GEO_FILE_INVALID, message)
            }
        }
    }
}
