//! The key pair of the embedded store.

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
pub struct S3Credentials {
    /// The public ID of the key.
    pub access_key: String,
    /// The secret that signs requests.
    pub secret_key: Secret,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct CredentialsFile {
    access_key: String,
    secret_key: String,
}

/// Loads the credentials in `data_dir`, or creates them on the first call. Only the owner can read the file.
///
/// # Errors
/// `io_error` if the file cannot be read or written, `credentials_invalid` if its content is not valid.
pub fn load_or_create_credentials(data_dir: &Path) -> Result<S3Credentials> {
    let path = data_dir.join(CREDENTIALS_FILE);
    match read_credentials(&path)? {
        Some(credentials) => Ok(credentials),
        None => {
            create_credentials_file(data_dir, &path)
                .map_err(|error| Error::from(error).context(format!("writing `{}`", path.display())))?;
            let made = read_credentials(&path)?;
            made.ok_or_else(|| Error::new(codes::IO_ERROR, format!("`{}` was removed meanwhile", path.display())))
        }
    }
}

fn read_credentials(path: &Path) -> Result<Option<S3Credentials>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::from(error).context(format!("reading `{}`", path.display()))),
    };
    let CredentialsFile { access_key, secret_key } = serde_json::from_str(&text).map_err(|_| {
        Error::new(codes::CREDENTIALS_INVALID, format!("`{}` does not hold an S3 key pair", path.display()))
    })?;
    Ok(Some(S3Credentials { access_key, secret_key: Secret::new(secret_key) }))
}

/// Writes a temporary file and links it into place. The first process wins, and no process reads half a file.
fn create_credentials_file(data_dir: &Path, path: &Path) -> std::io::Result<()> {
    fs::create_dir_all(data_dir)?;
    let access_key = format!("AL{}", Ulid::generate().to_string().split_off(8));
    let secret_key: String = rand::rng().sample_iter(Alphanumeric).take(40).map(char::from).collect();
    let aside = data_dir.join(format!("{CREDENTIALS_FILE}.{}", Ulid::generate()));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&aside)?;
    // A umask may have narrowed the mode. It never widens it.
    file.set_permissions(fs::Permissions::from_mode(0o600))?;
    let written = file
        .write_all(&serde_json::to_vec_pretty(&CredentialsFile { access_key, secret_key })?)
        .and_then(|()| file.sync_all())
        .and_then(|()| match fs::hard_link(&aside, path) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            linked => linked,
        });
    fs::remove_file(&aside)?;
    written
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
        fs::write(dir.path().join(CREDENTIALS_FILE), "mine").unwrap();
        assert_eq!(load_or_create_credentials(dir.path()).unwrap_err().code(), codes::CREDENTIALS_INVALID);
    }
}
