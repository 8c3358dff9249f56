//! The keys of the service. They sign the tokens of its links, the seals of its files and its webhooks.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use ulid::Ulid;

use crate::file::FileIdentity;

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
    /// Unsubscribe one address from one list.
    Unsubscribe,
    /// Report mails that came back.
    MailBounces,
}

impl TokenPurpose {
    fn prefix(self) -> &'static [u8] {
        match self {
            Self::Watch => b"watch:",
            Self::Artifact => b"file:",
            Self::S3Notification => b"hook:",
            Self::Upload => b"upload:",
            Self::DownloadLink => b"link:",
            Self::WebhookSigning => b"webhook:",
            Self::Unsubscribe => b"unsubscribe:",
            Self::MailBounces => b"bounces:",
        }
    }
}

/// The part of the signature that a link token carries.
const LINK_MAC_BYTES: usize = 16;
/// Enough to tell the keys of one service apart.
const KEY_ID_BYTES: usize = 6;
const SEAL_PREFIX: &[u8] = b"seal:";
const KEY_ID_PREFIX: &[u8] = b"key-id:";
const UNSUBSCRIBE_ID_PREFIX: &[u8] = b"unsubscribe-id:";

/// The secret keys of the service. The newest one signs, and all of them verify, so that a key can be replaced while its
/// tokens and seals are still in use.
#[derive(Clone)]
pub struct Keyring(Arc<[Box<[u8]>]>);

impl Keyring {
    /// Creates a keyring with the key that signs, and with earlier keys that still verify.
    pub fn new<'a>(newest: &'a str, previous: impl IntoIterator<Item = &'a str>) -> Self {
        Self(std::iter::once(newest).chain(previous).map(|key| key.as_bytes().into()).collect())
    }

    /// True if there is no key to sign with.
    pub fn is_empty(&self) -> bool {
        self.newest().is_empty()
    }

    fn newest(&self) -> &[u8] {
        &self.0[0]
    }

    /// Creates the token for one purpose and id.
    pub fn create_token(&self, purpose: TokenPurpose, id: &str) -> String {
        URL_SAFE_NO_PAD.encode(token_mac(self.newest(), purpose, id).finalize().into_bytes())
    }

    /// Derives separate keys for a purpose, newest first. They do not reveal the keys of any other purpose.
    pub fn derive_keys(&self, purpose: TokenPurpose) -> Vec<[u8; 32]> {
        self.0.iter().map(|key| token_mac(key, purpose, "").finalize().into_bytes().into()).collect()
    }

    /// True if `token` is one for this purpose and id. Compares in constant time.
    pub fn verify_token(&self, purpose: TokenPurpose, id: &str, token: &str) -> bool {
        let Ok(token) = URL_SAFE_NO_PAD.decode(token) else { return false };
        self.0.iter().any(|key| token_mac(key, purpose, id).verify_slice(&token).is_ok())
    }

    /// Creates the token of a download link: the id of the stored link and a signature, 43 characters.
    pub fn create_link_token(&self, id: Ulid) -> String {
        self.create_id_token(TokenPurpose::DownloadLink, id)
    }

    /// Returns the link id of a token; `None` if this service did not sign it.
    pub fn verify_link_token(&self, token: &str) -> Option<Ulid> {
        self.verify_id_token(TokenPurpose::DownloadLink, token)
    }

    /// Creates the token of an unsubscribe link: the id of the stored link and a signature, 43 characters.
    pub fn create_unsubscribe_token(&self, id: Ulid) -> String {
        self.create_id_token(TokenPurpose::Unsubscribe, id)
    }

    /// Returns the unsubscribe link id of a token; `None` if this service did not sign it.
    pub fn verify_unsubscribe_token(&self, token: &str) -> Option<Ulid> {
        self.verify_id_token(TokenPurpose::Unsubscribe, token)
    }

    /// The id of the link by which an address unsubscribes from a list. The same address gets the same id while the newest key
    /// stays. Without the key, nobody can test whether an id belongs to an address.
    pub fn derive_unsubscribe_id(&self, list: &str, address: &str) -> Ulid {
        let mut mac = key_mac(self.newest(), UNSUBSCRIBE_ID_PREFIX);
        // The name of a list has no line break.
        mac.update(format!("{list}\n{address}").as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&mac.finalize().into_bytes()[..16]);
        Ulid::from_bytes(id)
    }

    fn create_id_token(&self, purpose: TokenPurpose, id: Ulid) -> String {
        let mac = token_mac(self.newest(), purpose, &id.to_string()).finalize().into_bytes();
        URL_SAFE_NO_PAD.encode([&id.to_bytes()[..], &mac[..LINK_MAC_BYTES]].concat())
    }

    fn verify_id_token(&self, purpose: TokenPurpose, token: &str) -> Option<Ulid> {
        let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
        let (id, mac) = bytes.split_first_chunk::<16>()?;
        let id = Ulid::from_bytes(*id);
        let is_signed_with = |key: &[u8]| token_mac(key, purpose, &id.to_string()).verify_truncated_left(mac).is_ok();
        (mac.len() == LINK_MAC_BYTES && self.0.iter().any(|key| is_signed_with(key))).then_some(id)
    }

    /// Creates the seal that lets the steps of one run read a file: the id of the key and a signature.
    pub fn create_file_seal(&self, file: &FileIdentity, run: &str) -> String {
        let mac = seal_mac(self.newest(), file, run).finalize().into_bytes();
        format!("{}.{}", key_id(self.newest()), URL_SAFE_NO_PAD.encode(mac))
    }

    /// True if `seal` is one for this file and run. Compares in constant time.
    pub fn verify_file_seal(&self, file: &FileIdentity, run: &str, seal: &str) -> bool {
        let Some((id, mac)) = seal.split_once('.') else { return false };
        let Ok(mac) = URL_SAFE_NO_PAD.decode(mac) else { return false };
        let mut keys = self.0.iter().filter(|key| key_id(key) == id);
        keys.any(|key| seal_mac(key, file, run).verify_slice(&mac).is_ok())
    }
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Keyring")
    }
}

fn key_mac(key: &[u8], prefix: &[u8]) -> Hmac<Sha256> {
    // HMAC hashes longer keys and pads shorter ones.
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    mac.update(prefix);
    mac
}

fn token_mac(key: &[u8], purpose: TokenPurpose, id: &str) -> Hmac<Sha256> {
    let mut mac = key_mac(key, purpose.prefix());
    mac.update(id.as_bytes());
    mac
}

fn seal_mac(key: &[u8], file: &FileIdentity, run: &str) -> Hmac<Sha256> {
    let FileIdentity { bucket, key: object_key, version, etag, artifact_id } = file;
    let mut mac = key_mac(key, SEAL_PREFIX);
    let parts: [Option<&str>; 6] =
        [Some(run), Some(bucket), Some(object_key), version.as_deref(), Some(etag), artifact_id.as_deref()];
    for part in parts {
        // The length before each part keeps a part from running into the next one.
        mac.update(&part.map_or(u64::MAX, |part| part.len() as u64).to_be_bytes());
        mac.update(part.unwrap_or_default().as_bytes());
    }
    mac
}

/// Names a key without revealing it.
fn key_id(key: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(&key_mac(key, KEY_ID_PREFIX).finalize().into_bytes()[..KEY_ID_BYTES])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(newest: &str) -> Keyring {
        Keyring::new(newest, [])
    }

    #[test]
    fn a_token_is_valid_for_one_purpose_and_id() {
        let keys = keyring("secret");
        let token = keys.create_token(TokenPurpose::Watch, "A");
        assert!(keys.verify_token(TokenPurpose::Watch, "A", &token));
        assert!(!keys.verify_token(TokenPurpose::Artifact, "A", &token));
        assert!(!keys.verify_token(TokenPurpose::Watch, "B", &token));
        assert!(!keyring("other").verify_token(TokenPurpose::Watch, "A", &token));
        assert!(!keys.verify_token(TokenPurpose::Watch, "A", &token[1..]));
        assert!(!keys.verify_token(TokenPurpose::Watch, "A", ""));
    }

    #[test]
    fn a_link_token_holds_its_id_and_verifies() {
        let (keys, id) = (keyring("secret"), ulid::Ulid::from_bytes([7; 16]));
        let token = keys.create_link_token(id);
        assert_eq!((token.len(), keys.verify_link_token(&token)), (43, Some(id)));
        assert_eq!(token, keys.create_link_token(id), "a mail that is sent again carries the same link");
        assert_eq!(keyring("other").verify_link_token(&token), None);
        for wrong in ["", "x", &token[1..], &token[..42], &format!("{token}AAAA"), &token.replacen("Bw", "Bx", 1)] {
            assert_eq!(keys.verify_link_token(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_unsubscribe_token_is_no_download_link_and_survives_rotation() {
        let (old, id) = (keyring("old"), ulid::Ulid::from_bytes([7; 16]));
        let token = old.create_unsubscribe_token(id);
        assert_eq!((token.len(), old.verify_unsubscribe_token(&token)), (43, Some(id)));
        assert_eq!(token, old.create_unsubscribe_token(id), "a mail that is sent again carries the same link");
        assert_eq!(Keyring::new("new", ["old"]).verify_unsubscribe_token(&token), Some(id));
        assert_eq!(keyring("new").verify_unsubscribe_token(&token), None);
        assert_eq!(old.verify_link_token(&token), None);
        assert_eq!(old.verify_unsubscribe_token(&old.create_link_token(id)), None);
        for wrong in ["", "x", &token[1..], &token[..42], &format!("{token}AAAA"), &token.replacen("Bw", "Bx", 1)] {
            assert_eq!(old.verify_unsubscribe_token(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn an_unsubscribe_id_depends_on_the_list_the_address_and_the_key() {
        let (old, new) = (keyring("old"), Keyring::new("new", ["old"]));
        let id = old.derive_unsubscribe_id("news", "a@example.com");
        assert_eq!(id, old.derive_unsubscribe_id("news", "a@example.com"), "the same address gets the same link");
        for other in [
            old.derive_unsubscribe_id("news", "b@example.com"),
            old.derive_unsubscribe_id("offers", "a@example.com"),
            new.derive_unsubscribe_id("news", "a@example.com"),
        ] {
            assert_ne!(id, other);
        }
        let token = old.create_unsubscribe_token(id);
        assert_eq!(new.verify_unsubscribe_token(&token), Some(id), "links from before a rotation name the stored id");
    }

    #[test]
    fn a_seal_is_valid_for_one_file_and_run() {
        let file =
            FileIdentity { bucket: "b".into(), key: "k".into(), version: None, etag: "e".into(), artifact_id: None };
        let keys = keyring("secret");
        let seal = keys.create_file_seal(&file, "run");
        assert!(keys.verify_file_seal(&file, "run", &seal));
        assert!(!keys.verify_file_seal(&file, "other", &seal));
        let changed = [
            FileIdentity { bucket: "bk".into(), key: String::new(), ..file.clone() },
            FileIdentity { version: Some(String::new()), ..file.clone() },
            FileIdentity { version: Some("e".into()), etag: String::new(), ..file.clone() },
            FileIdentity { etag: String::new(), ..file.clone() },
            FileIdentity { artifact_id: Some("a".into()), ..file.clone() },
        ];
        assert!(changed.iter().all(|file| !keys.verify_file_seal(file, "run", &seal)));
        let (id, mac) = seal.split_once('.').expect("a key id");
        for wrong in ["", ".", id, mac, &format!("{id}."), &format!("AAAAAAAA.{mac}"), &seal[..seal.len() - 1]] {
            assert!(!keys.verify_file_seal(&file, "run", wrong), "{wrong}");
        }
    }

    #[test]
    fn earlier_keys_verify_and_the_newest_signs() {
        let (old, rotated, id) = (keyring("old"), Keyring::new("new", ["old"]), ulid::Ulid::from_bytes([7; 16]));
        let file = FileIdentity { bucket: "b".into(), key: "k".into(), ..FileIdentity::default() };
        assert!(rotated.verify_token(TokenPurpose::Upload, "A", &old.create_token(TokenPurpose::Upload, "A")));
        assert_eq!(rotated.verify_link_token(&old.create_link_token(id)), Some(id));
        assert!(rotated.verify_file_seal(&file, "run", &old.create_file_seal(&file, "run")));
        assert!(!old.verify_file_seal(&file, "run", &rotated.create_file_seal(&file, "run")));
        assert_eq!(rotated.create_file_seal(&file, "run"), keyring("new").create_file_seal(&file, "run"));
        let derived = rotated.derive_keys(TokenPurpose::WebhookSigning);
        assert_eq!(derived[1..], old.derive_keys(TokenPurpose::WebhookSigning));
    }
}
