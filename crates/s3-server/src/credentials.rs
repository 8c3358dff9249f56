//! The key pairs of the embedded store.

use std::fs::{self, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use rand::Rng;
use rand::distr::Alphanumeric;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::secret::Secret;

const CREDENTIALS_FILE: &str = "s3-credentials.json";

/// An access key and its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3KeyPair {
    /// The public ID of the key.
    pub access_key: String,
    /// The secret that signs requests.
    pub secret_key: Secret,
}

/// The keys of a store. The current pair signs new addresses; requests may be signed with the previous one as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct S3Credentials {
    /// The public ID of the current key.
    pub access_key: String,
    /// The secret that signs requests.
    pub secret_key: Secret,
    /// The pair before the last rotation, until it is forgotten.
    pub previous: Option<S3KeyPair>,
}

impl S3Credentials {
    /// The access keys and secrets that may sign requests.
    pub(super) fn valid_pairs(&self) -> impl Iterator<Item = (&str, &Secret)> {
        let previous = self.previous.iter().map(|pair| (&*pair.access_key, &pair.secret_key));
        std::iter::once((&*self.access_key, &self.secret_key)).chain(previous)
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialsFile {
    access_key: String,
    secret_key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    previous: Option<KeyPairFile>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyPairFile {
    access_key: String,
    secret_key: String,
}

impl CredentialsFile {
    fn generate() -> Self {
        let access_key = format!("AL{}", Ulid::generate().to_string().split_off(8));
        let secret_key = rand::rng().sample_iter(Alphanumeric).take(40).map(char::from).collect();
        Self { access_key, secret_key, previous: None }
    }

    /// An empty key or secret would let anybody in, and of two equal access keys only one could be used.
    fn is_valid(&self) -> bool {
        let is_complete = |access: &str, secret: &str| !access.is_empty() && !secret.is_empty();
        is_complete(&self.access_key, &self.secret_key)
            && self.previous.as_ref().is_none_or(|previous| {
                is_complete(&previous.access_key, &previous.secret_key) && previous.access_key != self.access_key
            })
    }

    fn into_credentials(self) -> S3Credentials {
        let previous = self.previous.map(|KeyPairFile { access_key, secret_key }| S3KeyPair {
            access_key,
            secret_key: Secret::new(secret_key),
        });
        S3Credentials { access_key: self.access_key, secret_key: Secret::new(self.secret_key), previous }
    }
}

/// Loads the credentials in `data_dir`, or creates them on the first call. Only the owner can read the file.
///
/// # Errors
/// `io_error` if the file cannot be read or written, `credentials_invalid` if its content is not valid.
pub fn load_or_create_credentials(data_dir: &Path) -> Result<S3Credentials> {
    load_or_create_file(data_dir).map(CredentialsFile::into_credentials)
}

/// Makes a new key pair the current one. The pair until now stays valid as the previous one, and the one before it ends.
/// Processes that serve the store read the file when they start.
///
/// # Errors
/// As [`load_or_create_credentials`].
pub fn rotate_credentials(data_dir: &Path) -> Result<S3Credentials> {
    let CredentialsFile { access_key, secret_key, .. } = load_or_create_file(data_dir)?;
    let previous = Some(KeyPairFile { access_key, secret_key });
    replace_file(data_dir, CredentialsFile { previous, ..CredentialsFile::generate() })
}

/// Ends the previous key pair. Processes that serve the store read the file when they start.
///
/// # Errors
/// As [`load_or_create_credentials`].
pub fn forget_previous_credentials(data_dir: &Path) -> Result<S3Credentials> {
    let file = load_or_create_file(data_dir)?;
    replace_file(data_dir, CredentialsFile { previous: None, ..file })
}

fn load_or_create_file(data_dir: &Path) -> Result<CredentialsFile> {
    let path = data_dir.join(CREDENTIALS_FILE);
    match read_credentials(&path)? {
        Some(credentials) => Ok(credentials),
        None => {
            write_file(data_dir, &path, &CredentialsFile::generate(), keep_existing_file)?;
            let made = read_credentials(&path)?;
            made.ok_or_else(|| Error::new(codes::IO_ERROR, format!("`{}` was removed meanwhile", path.display())))
        }
    }
}

fn replace_file(data_dir: &Path, file: CredentialsFile) -> Result<S3Credentials> {
    write_file(data_dir, &data_dir.join(CREDENTIALS_FILE), &file, |aside, path| fs::rename(aside, path))?;
    Ok(file.into_credentials())
}

fn read_credentials(path: &Path) -> Result<Option<CredentialsFile>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::from(error).context(format!("reading `{}`", path.display()))),
    };
    match serde_json::from_str(&text).ok().filter(CredentialsFile::is_valid) {
        Some(file) => Ok(Some(file)),
        None => {
            let message = format!("`{}` does not hold an S3 key pair", path.display());
            Err(Error::new(codes::CREDENTIALS_INVALID, message))
        }
    }
}

/// The first process wins.
fn keep_existing_file(aside: &Path, path: &Path) -> std::io::Result<()> {
    let linked = match fs::hard_link(aside, path) {
        Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    };
    fs::remove_file(aside)?;
    linked
}

/// Writes a temporary file and moves it into place with `place`, so that no process reads half a file.
fn write_file(
    data_dir: &Path,
    path: &Path,
    file: &CredentialsFile,
    place: impl FnOnce(&Path, &Path) -> std::io::Result<()>,
) -> Result<()> {
    let write = || {
        fs::create_dir_all(data_dir)?;
        let aside = data_dir.join(format!("{CREDENTIALS_FILE}.{}", Ulid::generate()));
        let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
        // A umask may have narrowed the mode. It never widens it.
        made.set_permissions(fs::Permissions::from_mode(0o600))?;
        let written = made.write_all(&serde_json::to_vec_pretty(file)?).and_then(|()| made.sync_all());
        written.and_then(|()| place(&aside, path)).inspect_err(|_| {
            let _ = fs::remove_file(&aside);
        })
    };
    write().map_err(|error| Error::from(error).context(format!("writing `{}`", path.display())))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_created_once_with_private_mode() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        let first = load_or_create_credentials(&data).unwrap();
        let second = load_or_create_credentials(&data).unwrap();
        assert_eq!(first, second);
        assert_eq!(first.secret_key.expose_secret().len(), 40);
        let mode = fs::metadata(data.join(CREDENTIALS_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(&data).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn concurrent_creators_share_one_key_pair() {
        let dir = tempfile::tempdir().unwrap();
        let all: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(|| load_or_create_credentials(dir.path()))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap().unwrap()).collect()
        });
        assert!(all.iter().all(|credentials| *credentials == all[0]));
    }

    #[test]
    fn invalid_credentials_file_is_not_overwritten() {
        let dir = tempfile::tempdir().unwrap();
        let pair = r#"{"access_key":"a","secret_key":"b"}"#;
        for text in [
            "mine".to_owned(),
            r#"{"access_key":"","secret_key":"b"}"#.to_owned(),
            format!(r#"{{"access_key":"a","secret_key":"b","previous":{pair}}}"#),
        ] {
            fs::write(dir.path().join(CREDENTIALS_FILE), &text).unwrap();
            for call in [load_or_create_credentials, rotate_credentials, forget_previous_credentials] {
                assert_eq!(call(dir.path()).unwrap_err().code(), codes::CREDENTIALS_INVALID, "{text}");
            }
            assert_eq!(fs::read_to_string(dir.path().join(CREDENTIALS_FILE)).unwrap(), text);
        }
    }

    #[test]
    fn rotation_keeps_one_previous_pair() {
        let dir = tempfile::tempdir().unwrap();
        let first = load_or_create_credentials(dir.path()).unwrap();
        assert_eq!(first.previous, None);
        let second = rotate_credentials(dir.path()).unwrap();
        let previous = second.previous.clone().unwrap();
        assert_eq!((previous.access_key, previous.secret_key), (first.access_key.clone(), first.secret_key));
        assert_ne!(second.access_key, first.access_key);
        let third = rotate_credentials(dir.path()).unwrap();
        assert_eq!(third.valid_pairs().count(), 2);
        assert_eq!(third.previous.clone().unwrap().access_key, second.access_key);
        assert_eq!(load_or_create_credentials(dir.path()).unwrap(), third);
        let alone = forget_previous_credentials(dir.path()).unwrap();
        assert_eq!(alone, S3Credentials { previous: None, ..third });
        assert_eq!(load_or_create_credentials(dir.path()).unwrap(), alone);
        let mode = fs::metadata(dir.path().join(CREDENTIALS_FILE)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");
    }
}
