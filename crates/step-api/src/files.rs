//! The files of a step: those that it makes (artifacts of its run, or objects in the bucket of its `output`), and those
//! that it reads.

use crate::codes;
use afterload_core::failpoint;
use std::collections::BTreeSet;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use serde_json::{Value, json};

use super::file_verifier::{FileVerifier, VerifiedFile};
use afterload_core::error::{Error, Result};
use afterload_core::file::{File, FileIdentity};
use afterload_core::file_seals::FileSeals;
use afterload_object_store::{ObjectBody, ObjectHeaders, ObjectStore, ObjectUpload};

/// The maximum key length of S3.
const MAX_OUTPUT_KEY_BYTES: usize = 1024;

/// Renders the key of a file. The argument is the value of `file` in its expression.
pub type KeyTemplate = Arc<dyn Fn(&Value) -> Result<String> + Send + Sync>;

/// The bucket and keys of files that belong to the user.
#[derive(Clone)]
pub struct OutputDestination {
    /// The bucket.
    pub bucket: String,
    /// Renders the key of each file.
    pub key: KeyTemplate,
    /// The `Cache-Control` header of the objects.
    pub cache_control: Option<String>,
    /// How many runs came before a run that one of the objects starts.
    pub hops: u32,
}

/// Where the artifacts of one attempt lie.
#[derive(Clone, Debug)]
pub struct ArtifactLocation {
    /// The bucket.
    pub bucket: String,
    /// What their keys start with.
    pub prefix: String,
    /// What their links start with.
    pub base_url: String,
}

/// The files of one attempt. What it makes becomes artifacts of the run if the attempt succeeds, and is deleted if it
/// fails. With an `output` it is written to the user's bucket instead, each file completely or not at all.
///
/// It is the only way to the object store that a step has: what it reads is verified first.
#[derive(Clone)]
pub struct StepFiles(Arc<StepFilesState>);

struct StepFilesState {
    objects: ObjectStore,
    bucket: String,
    prefix: String,
    base_url: String,
    step: String,
    destination: Option<OutputDestination>,
    verifier: FileVerifier,
    produced: Mutex<ProducedFiles>,
}

/// The files that an attempt has finished so far.
#[derive(Clone, Debug, Default)]
pub struct ProducedFiles {
    /// Files that become artifacts.
    pub artifacts: Vec<File>,
    /// Objects in the user's bucket that did not exist before.
    pub created: Vec<File>,
    /// The seals of all of them.
    pub seals: FileSeals,
    keys: BTreeSet<String>,
}

impl StepFiles {
    /// Creates the files of the step `step`, under `prefix` of `bucket` or at the `destination`. Artifact links start
    /// with `base_url`. `verifier` decides what the step may read.
    pub fn new(
        objects: ObjectStore,
        location: ArtifactLocation,
        step: String,
        destination: Option<OutputDestination>,
        verifier: FileVerifier,
    ) -> Self {
        let ArtifactLocation { bucket, prefix, base_url } = location;
        Self(Arc::new(StepFilesState {
            objects,
            bucket,
            prefix,
            base_url,
            step,
            destination,
            verifier,
            produced: Mutex::default(),
        }))
    }

    /// Decides which files the step may read.
    pub fn verifier(&self) -> &FileVerifier {
        &self.0.verifier
    }

    /// Reads a file from byte `from` on. The object must still be in the state that `file` names.
    ///
    /// # Errors
    /// `object_not_found`, `object_changed`, or an error of the store.
    pub async fn open(&self, file: &VerifiedFile, from: u64) -> Result<ObjectBody> {
        self.0.objects.open_object(file, from).await
    }

    /// Starts a file with this display name.
    ///
    /// # Errors
    /// `output_key_invalid` or `output_key_repeated`; errors of the key's expression or of the object store.
    pub async fn create(&self, name: &str, content_type: &str) -> Result<FileSink> {
        let inner = &self.0;
        let Some(destination) = &inner.destination else {
            let id = ulid::Ulid::generate().to_string();
            let key = format!("{}{id}", inner.prefix);
            let upload = inner.objects.start_upload(&inner.bucket, &key, content_type).await?.trusted();
            return Ok(FileSink {
                files: self.clone(),
                target: SinkTarget::Artifact(id),
                name: name.to_owned(),
                upload,
            });
        };
        let key = self.object_key(destination, name)?;
        let bucket = &destination.bucket;
        let fresh = match inner.objects.head_object(bucket, &key).await {
            Ok(_) => false,
            Err(error) if error.code() == codes::OBJECT_NOT_FOUND => {
                if inner.objects.is_embedded(bucket) {
                    inner.objects.ensure_bucket(bucket).await?;
                }
                true
            }
            Err(error) => return Err(error),
        };
        let headers = ObjectHeaders {
            content_type: content_type.to_owned(),
            cache_control: destination.cache_control.clone(),
            hops: destination.hops,
        };
        let upload = inner.objects.start_upload(bucket, &key, headers).await?.trusted();
        Ok(FileSink { files: self.clone(), target: SinkTarget::User { fresh }, name: name.to_owned(), upload })
    }

    fn object_key(&self, destination: &OutputDestination, name: &str) -> Result<String> {
        let path = Path::new(name);
        let part = |part: Option<&std::ffi::OsStr>| part.and_then(|part| part.to_str()).unwrap_or_default().to_owned();
        let file = json!({
            "name": name,
            "stem": part(path.file_stem()),
            "extension": part(path.extension()),
            "step": self.0.step,
        });
        let key = (destination.key)(&file)?;
        if key.is_empty() || key.len() > MAX_OUTPUT_KEY_BYTES || key.chars().any(char::is_control) {
            let message = format!("the key {key:?} that `output` makes for `{name}` cannot be used");
            return Err(Error::new(codes::OUTPUT_KEY_INVALID, message));
        }
        if !self.lock_produced().keys.insert(key.clone()) {
            let message = format!("two files of the step would be written to the key `{key}`");
            return Err(Error::new(codes::OUTPUT_KEY_REPEATED, message));
        }
        Ok(key)
    }

    fn lock_produced(&self) -> MutexGuard<'_, ProducedFiles> {
        self.0.produced.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the files that are finished so far.
    pub fn snapshot(&self) -> ProducedFiles {
        self.lock_produced().clone()
    }
}

enum SinkTarget {
    /// An artifact with this id.
    Artifact(String),
    /// An object of the user; `fresh` if the key did not exist before.
    User { fresh: bool },
}

/// A file that is being written. If it is dropped before [`FileSink::finish`], it leaves nothing behind.
pub struct FileSink {
    files: StepFiles,
    target: SinkTarget,
    name: String,
    upload: ObjectUpload,
}

impl FileSink {
    /// Appends bytes. It waits while the object store is slower than the writer.
    ///
    /// # Errors
    /// Fails if the upload fails.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.upload.write(bytes).await
    }

    /// Completes the upload.
    ///
    /// # Errors
    /// Fails if the upload fails.
    pub async fn finish(self) -> Result<File> {
        let Self { files, target: place, name, upload } = self;
        failpoint!("file.before_put");
        let stored = upload.finish().await?;
        failpoint!("file.put");
        let (file, fresh) = match place {
            SinkTarget::Artifact(id) => {
                let url = format!("{}/v1/artifacts/{id}", files.0.base_url);
                (stored.into_file(Some(id), name, Some(url)), false)
            }
            SinkTarget::User { fresh } => {
                let url = files.0.objects.public_url(&stored.bucket, &stored.key);
                (stored.into_file(None, name, url), fresh)
            }
        };
        let identity = FileIdentity::from(&file);
        let seal = files.0.verifier.create_seal(&identity);
        let mut produced = files.lock_produced();
        produced.seals.insert(identity, seal);
        if file.artifact_id.is_some() {
            produced.artifacts.push(file.clone());
        } else if fresh {
            produced.created.push(file.clone());
        }
        Ok(file)
    }
}
