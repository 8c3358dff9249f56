//! Decides which files the steps of a run may read.

use std::ops::Deref;
use std::sync::Arc;

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::file::{File, FileIdentity};
use afterload_core::file_seals::FileSeals;
use afterload_core::keyring::Keyring;

/// Verifies the files that a step of one run wants to read. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FileVerifier(Arc<RunFileSeals>);

#[derive(Debug)]
struct RunFileSeals {
    keyring: Keyring,
    run: String,
    /// The seals in the values that the step can read. They are not verified yet.
    seals: FileSeals,
}

/// A file that the run may read. [`FileVerifier::verify_file`] is the only way to get one.
#[derive(Clone, Debug)]
pub struct VerifiedFile(File);

impl Deref for VerifiedFile {
    type Target = File;

    fn deref(&self) -> &File {
        &self.0
    }
}

impl FileVerifier {
    /// Creates the verifier of a run. `seals` are those of its params, its event and its steps.
    pub fn new(keyring: Keyring, run: String, seals: FileSeals) -> Self {
        Self(Arc::new(RunFileSeals { keyring, run, seals }))
    }

    /// Verifies that the run may read a file.
    ///
    /// # Errors
    /// `file_not_authorized`
    pub fn verify_file(&self, file: &File) -> Result<VerifiedFile> {
        let RunFileSeals { keyring, run, seals } = &*self.0;
        let identity = FileIdentity::from(file);
        match seals.get(&identity) {
            Some(seal) if keyring.verify_file_seal(&identity, run, seal) => Ok(VerifiedFile(file.clone())),
            _ => Err(file_not_authorized(&identity)),
        }
    }

    /// Creates the seal of a file that the run may read from now on.
    pub(crate) fn create_seal(&self, file: &FileIdentity) -> String {
        self.0.keyring.create_file_seal(file, &self.0.run)
    }
}

/// The error for a file that the run may not read.
pub fn file_not_authorized(file: &FileIdentity) -> Error {
    let FileIdentity { bucket, key, .. } = file;
    Error::new(codes::FILE_NOT_AUTHORIZED, format!("the run may not read `{key}` in bucket `{bucket}`"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_files_with_a_seal_of_this_run_and_a_known_key_are_verified() {
        let file: File =
            serde_json::from_value(json!({ "bucket": "b", "key": "k", "etag": "e", "name": "n" })).unwrap();
        let identity = FileIdentity::from(&file);
        let verify = |sealed_by: &Keyring, run: &str, verified_by: &Keyring, file: &File| {
            let mut seals = FileSeals::default();
            seals.insert(identity.clone(), sealed_by.create_file_seal(&identity, run));
            FileVerifier::new(verified_by.clone(), "run".into(), seals).verify_file(file)
        };
        let (old, new, rotated) = (Keyring::new("old", []), Keyring::new("new", []), Keyring::new("new", ["old"]));
        assert_eq!(*verify(&old, "run", &old, &file).unwrap(), file);
        let renamed = File { name: "other".into(), ..file.clone() };
        assert_eq!(verify(&old, "run", &rotated, &renamed).unwrap().name, "other");
        let changed = File { etag: String::new(), ..file.clone() };
        let refused = [
            verify(&old, "run", &new, &file),
            verify(&old, "other", &old, &file),
            verify(&old, "run", &old, &changed),
            FileVerifier::new(old.clone(), "run".into(), FileSeals::default()).verify_file(&file),
        ];
        for refused in refused {
            let error = refused.unwrap_err();
            assert_eq!((error.code(), error.is_transient()), (codes::FILE_NOT_AUTHORIZED, false));
        }
    }
}
