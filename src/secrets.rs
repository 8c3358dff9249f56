//! Secrets that the service makes for itself and keeps in files that only their owner can read.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// The secret in a file; made and written first if there is none. Processes that start at once get the same one.
///
/// # Errors
/// `io_error`
pub async fn load_or_make(path: &Path, make: impl FnOnce() -> String) -> Result<String> {
    let (path, fresh) = (path.to_owned(), make());
    blocking(path.clone(), move || {
        // Whole before it has its name, and never over another: a link fails if somebody was faster.
        let temporary = path.with_added_extension(ulid::Ulid::generate().to_string());
        if !path.exists() {
            create(&temporary, &fresh)?;
            let linked = std::fs::hard_link(&temporary, &path);
            std::fs::remove_file(&temporary)?;
            linked.or_else(|error| if error.kind() == ErrorKind::AlreadyExists { Ok(()) } else { Err(error) })?;
        }
        std::fs::read_to_string(&path).map(|text| text.trim().to_owned())
    })
    .await
}

/// Writes a secret, over one that was there.
///
/// # Errors
/// `io_error`
pub async fn write(path: &Path, secret: &str) -> Result<()> {
    let (path, secret) = (path.to_owned(), secret.to_owned());
    blocking(path.clone(), move || {
        let temporary = path.with_added_extension(ulid::Ulid::generate().to_string());
        create(&temporary, &secret)?;
        std::fs::rename(&temporary, &path)
    })
    .await
}

fn create(path: &Path, secret: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(secret.as_bytes())?;
    file.sync_all()
}

async fn blocking<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T> {
    let done =
        tokio::task::spawn_blocking(work).await.map_err(|error| Error::transient("io_error", error.to_string()))?;
    done.map_err(|error| Error::from(error).context(format!("the secret file `{}`", path.display())))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn a_secret_is_made_once_and_only_its_owner_can_read_it() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("secret_key");
        let first = super::load_or_make(&path, || "one".into()).await.expect("made");
        let second = super::load_or_make(&path, || "two".into()).await.expect("read");
        assert_eq!((first.as_str(), second.as_str()), ("one", "one"));
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(std::fs::read_dir(dir.path()).expect("a folder").count(), 1);
    }
}
