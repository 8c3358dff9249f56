//! Secrets that the service creates and stores in files that only their owner can read.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::codes;
use crate::error::{Error, Result};

/// Reads the secret in a file, or creates and writes it. Processes that start at the same time get the same secret.
///
/// # Errors
/// `io_error`
pub async fn load_or_create(path: &Path, make: impl FnOnce() -> String) -> Result<String> {
    let (path, fresh) = (path.to_owned(), make());
    run_blocking(path.clone(), move || {
        // Write a temporary file, then link it. The link fails if another process was faster, so no secret is
        // overwritten.
        let temporary = path.with_added_extension(ulid::Ulid::generate().to_string());
        if !path.exists() {
            create_secret_file(&temporary, &fresh)?;
            let linked = std::fs::hard_link(&temporary, &path);
            std::fs::remove_file(&temporary)?;
            linked.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
        }
        std::fs::read_to_string(&path).map(|text| text.trim().to_owned())
    })
    .await
}

/// Writes a secret and replaces an existing one.
///
/// # Errors
/// `io_error`
pub async fn write_secret(path: &Path, secret: &str) -> Result<()> {
    let (path, secret) = (path.to_owned(), secret.to_owned());
    run_blocking(path.clone(), move || {
        let temporary = path.with_added_extension(ulid::Ulid::generate().to_string());
        create_secret_file(&temporary, &secret)?;
        std::fs::rename(&temporary, &path)
    })
    .await
}

/// Creates a folder that only its owner can enter. An existing folder stays as it is.
pub fn create_private_dir(path: &Path) -> std::io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn create_secret_file(path: &Path, secret: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()
}

async fn run_blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let done =
        tokio::task::spawn_blocking(work).await.map_err(|error| Error::new(codes::IO_ERROR, error.to_string()))?;
    done.map_err(|error| Error::from(error).context(format!("the secret file `{}`", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_secret_is_created_once_and_readable_by_its_owner_only() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("secret_key");
        let first = super::load_or_create(&path, || "one".into()).await.expect("made");
        let second = super::load_or_create(&path, || "two".into()).await.expect("read");
        assert_eq!((first.as_str(), second.as_str()), ("one", "one"));
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }
}
