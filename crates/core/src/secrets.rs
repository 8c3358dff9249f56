//! Secrets that the service creates and stores in files that only their owner can read, and the signed tokens of its
//! links.

use std::io::{ErrorKind, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use ulid::Ulid;

use crate::codes;
use crate::error::{Error, Result};

/// What a token in a link permits.
#[derive(Clone, Copy, Debug)]
pub enum TokenPurpose {
    /// Read one run.
    Watch,
    /// Download one file.
    Artifact,
    /// Send event notifications.
    S3Notification,
    /// Upload one file and start its run.
    Upload,
    /// Download a file from a link in a mail.
    DownloadLink,
    /// Sign outgoing webhooks.
    WebhookSigning,
}

/// The part of the signature that a link token carries.
const LINK_MAC_BYTES: usize = 16;

/// Creates and verifies the tokens of links, without storing them.
#[derive(Clone)]
pub struct Signer(Arc<[u8]>);

impl Signer {
    /// Creates a signer with this key.
    pub fn new(key: &str) -> Self {
        Self(key.as_bytes().into())
    }

    fn purpose_mac(&self, purpose: TokenPurpose, id: &str) -> Hmac<Sha256> {
        let mac = Hmac::<Sha256>::new_from_slice(&self.0);
        // HMAC hashes longer keys and pads shorter ones.
        let mut mac = mac.expect("HMAC takes keys of any length");
        mac.update(match purpose {
            TokenPurpose::Watch => b"watch:" as &[u8],
            TokenPurpose::Artifact => b"file:",
            TokenPurpose::S3Notification => b"hook:",
            TokenPurpose::Upload => b"upload:",
            TokenPurpose::DownloadLink => b"link:",
            TokenPurpose::WebhookSigning => b"webhook:",
        });
        mac.update(id.as_bytes());
        mac
    }

    /// Creates the token for one purpose and id.
    pub fn create_token(&self, purpose: TokenPurpose, id: &str) -> String {
        URL_SAFE_NO_PAD.encode(self.purpose_mac(purpose, id).finalize().into_bytes())
    }

    /// Derives a separate key for a purpose. It does not reveal the key of any other purpose.
    pub fn derive_key(&self, purpose: TokenPurpose) -> [u8; 32] {
        self.purpose_mac(purpose, "").finalize().into_bytes().into()
    }

    /// True if `token` is the one for this purpose and id. Runs in constant time.
    pub fn verify_token(&self, purpose: TokenPurpose, id: &str, token: &str) -> bool {
        URL_SAFE_NO_PAD.decode(token).is_ok_and(|token| self.purpose_mac(purpose, id).verify_slice(&token).is_ok())
    }

    /// Creates the token of a link: the id of the stored link and a signature, 43 characters.
    pub fn create_link_token(&self, id: Ulid) -> String {
        let mac = self.purpose_mac(TokenPurpose::DownloadLink, &id.to_string()).finalize().into_bytes();
        URL_SAFE_NO_PAD.encode([&id.to_bytes()[..], &mac[..LINK_MAC_BYTES]].concat())
    }

    /// Returns the link id of a token; `None` if this service did not sign it.
    pub fn verify_link_token(&self, token: &str) -> Option<Ulid> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (id, mac) = bytes.split_first_chunk::<16>()?;
        let id = Ulid::from_bytes(*id);
        let signed = mac.len() == LINK_MAC_BYTES
            && self.purpose_mac(TokenPurpose::DownloadLink, &id.to_string()).verify_truncated_left(mac).is_ok();
        signed.then_some(id)
    }
}

impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer")
    }
}

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

    use super::{Signer, TokenPurpose};

    #[test]
    fn a_token_is_valid_for_one_purpose_and_id() {
        let signer = Signer::new("secret");
        let token = signer.create_token(TokenPurpose::Watch, "A");
        assert!(signer.verify_token(TokenPurpose::Watch, "A", &token));
        assert!(!signer.verify_token(TokenPurpose::Artifact, "A", &token));
        assert!(!signer.verify_token(TokenPurpose::Watch, "B", &token));
        assert!(!Signer::new("other").verify_token(TokenPurpose::Watch, "A", &token));
        assert!(!signer.verify_token(TokenPurpose::Watch, "A", &token[1..]));
        assert!(!signer.verify_token(TokenPurpose::Watch, "A", ""));
    }

    #[test]
    fn a_link_token_holds_its_id_and_verifies() {
        let (signer, id) = (Signer::new("secret"), ulid::Ulid::from_bytes([7; 16]));
        let token = signer.create_link_token(id);
        assert_eq!((token.len(), signer.verify_link_token(&token)), (43, Some(id)));
        assert_eq!(token, signer.create_link_token(id), "a mail that is sent again carries the same link");
        assert_eq!(Signer::new("other").verify_link_token(&token), None);
        for wrong in ["", "x", &token[1..], &token[..42], &format!("{token}AAAA"), &token.replacen("Bw", "Bx", 1)] {
            assert_eq!(signer.verify_link_token(wrong), None, "{wrong}");
        }
    }

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
