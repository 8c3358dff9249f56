//! API keys: their format, and the admin keys that a start ensures.

use std::net::SocketAddr;

use rand::Rng as _;
use sha2::{Digest, Sha256};

use super::scopes::ApiKeyScope;
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_state::{ApiKeyRecord, Db};

const API_KEY_PREFIX: &str = "al_";
const API_KEY_ID_CHARS: usize = 10;
const SECRET_BYTES: usize = 32;
const API_KEY_ID_ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
pub(super) const MAX_API_KEY_CHARS: usize = 512;
/// The minimum length of a key that a person chose.
const MIN_API_KEY_CHARS: usize = 24;
/// A fixed id: if several processes start at once on a new database, only one of them stores its key.
const INITIAL_API_KEY_ID: &str = "firstadmin";
const ENV_API_KEY_NAME: &str = "admin, from AFTERLOAD_ADMIN_KEY";

/// The record of a new key, and its text, which is stored nowhere.
pub type NewApiKey = (ApiKeyRecord, String);

/// Creates a key. Returns the record to store and the text of the key, which is shown only once.
///
/// # Errors
/// `scope_invalid`, also for an empty list; `bucket_invalid` for an empty name.
pub fn create_api_key(name: &str, scopes: &[String], buckets: &[String], now: UnixMillis) -> Result<NewApiKey> {
    let mut random = rand::rng();
    let id: String = (0..API_KEY_ID_CHARS)
        .map(|_| char::from(API_KEY_ID_ALPHABET[random.random_range(0..API_KEY_ID_ALPHABET.len())]))
        .collect();
    build_api_key(&id, name, scopes, buckets, now)
}

fn build_api_key(id: &str, name: &str, scopes: &[String], buckets: &[String], now: UnixMillis) -> Result<NewApiKey> {
    if scopes.is_empty() {
        return Err(
            Error::new(codes::SCOPE_INVALID, "a key needs at least one scope").with_hint("`admin` may do everything")
        );
    }
    if buckets.iter().any(String::is_empty) {
        return Err(Error::new(codes::BUCKET_INVALID, "a bucket needs a name"));
    }
    let scopes = scopes.iter().map(|scope| scope.parse::<ApiKeyScope>()).collect::<Result<Vec<_>>>()?;
    let secret: [u8; SECRET_BYTES] = rand::rng().random();
    let text = format!("{API_KEY_PREFIX}{id}_{}", hex::encode(secret));
    let stored = ApiKeyRecord {
        id: id.to_owned(),
        hash: hash_api_key(&text),
        name: name.to_owned(),
        scopes: scopes.iter().map(ApiKeyScope::to_string).collect(),
        buckets: buckets.to_vec(),
        created_at: now,
    };
    Ok((stored, text))
}

pub(super) fn hash_api_key(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// The public part of a key. A key that a person chose has none, so it is derived from the text.
pub(super) fn api_key_id(text: &str) -> String {
    match split_own_id(text) {
        Some((id, _)) => id.to_owned(),
        _ => format!("env{}", &hash_api_key(&format!("id of {text}"))[..API_KEY_ID_CHARS - 3]),
    }
}

/// The id and the secret of a key that names its own id.
fn split_own_id(text: &str) -> Option<(&str, &str)> {
    let parts = text.strip_prefix(API_KEY_PREFIX).and_then(|rest| rest.split_once('_'));
    parts.filter(|(id, _)| id.len() == API_KEY_ID_CHARS)
}

/// True for the form of a key from [`create_api_key`], with 256 random bits.
pub(super) fn is_generated_key(text: &str) -> bool {
    let is_hex = |secret: &str| secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
    split_own_id(text).is_some_and(|(_, secret)| is_hex(secret))
}

/// Ensures that there is an admin key. `from_env` (any text of at least 24 characters) becomes the admin key and
/// replaces an earlier one from the environment, which ends with its variable. Without it the first start on a database
/// creates a key and returns it, to be shown once.
///
/// # Errors
/// `admin_key_invalid` for a key that is too easy to guess; `listen_without_key` if other machines could reach a
/// service whose only key is in its log.
pub async fn ensure_admin_key(db: &Db, listen: SocketAddr, from_env: Option<&str>) -> Result<Option<String>> {
    let env_key = match from_env.filter(|text| !text.is_empty()) {
        Some(text) => Some(env_api_key(text, db.now())?),
        None => None,
    };
    let mut keys = db.api_keys().list().await?;
    remove_old_env_keys(db, &mut keys, env_key.as_ref()).await?;
    if let Some(key) = env_key {
        db.api_keys().insert(&key).await?;
        return Ok(None);
    }
    if !keys.is_empty() {
        return Ok(None);
    }
    if !listen.ip().is_loopback() {
        return Err(Error::new(
            codes::LISTEN_WITHOUT_KEY,
            format!("listening on `{listen}` lets others in, but there is no API key yet"),
        ));
    }
    let (key, text) =
        build_api_key(INITIAL_API_KEY_ID, "admin, made at the first start", &["admin".into()], &[], db.now())?;
    Ok(db.api_keys().insert(&key).await?.then_some(text))
}

/// The admin key that the environment names.
fn env_api_key(text: &str, now: UnixMillis) -> Result<ApiKeyRecord> {
    if text.len() < MIN_API_KEY_CHARS
        || text.len() > MAX_API_KEY_CHARS
        || !text.bytes().all(|byte| byte.is_ascii_graphic())
    {
        return Err(Error::new(
            codes::ADMIN_KEY_INVALID,
            format!(
                "`AFTERLOAD_ADMIN_KEY` must have {MIN_API_KEY_CHARS} to {MAX_API_KEY_CHARS} visible ASCII characters"
            ),
        ));
    }
    Ok(ApiKeyRecord {
        id: api_key_id(text),
        hash: hash_api_key(text),
        name: ENV_API_KEY_NAME.to_owned(),
        scopes: vec![ApiKeyScope::Admin.to_string()],
        buckets: Vec::new(),
        created_at: now,
    })
}

/// Deletes the keys of earlier environments: a key that was changed or taken back must stop working.
async fn remove_old_env_keys(db: &Db, keys: &mut Vec<ApiKeyRecord>, current: Option<&ApiKeyRecord>) -> Result<()> {
    let is_old = |key: &ApiKeyRecord| match current {
        Some(current) => (key.name == ENV_API_KEY_NAME || key.id == current.id) && key.hash != current.hash,
        None => key.name == ENV_API_KEY_NAME,
    };
    for old in keys.extract_if(.., |key| is_old(key)) {
        db.api_keys().delete(&old.id).await?;
        match current {
            // The demo, for one, does so at each start.
            Some(_) => tracing::info!(key.id = old.id, "`AFTERLOAD_ADMIN_KEY` has replaced an admin key"),
            None => {
                let message = "an admin key was removed, because `AFTERLOAD_ADMIN_KEY` is not set any more";
                tracing::warn!(key.id = old.id, "{message}");
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use afterload_core::clock::Clock;

    use super::*;

    const HOME: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
    const WORLD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8080);

    async fn db() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().unwrap();
        let db =
            Db::open(&format!("sqlite://{}", folder.path().join("a.db").display()), Clock::system()).await.unwrap();
        (folder, db)
    }

    #[test]
    fn an_api_key_has_the_documented_format() {
        let (stored, text) = create_api_key("web", &["runs:write".into()], &[], 0).unwrap();
        let (id, secret) = text.strip_prefix("al_").unwrap().split_once('_').unwrap();
        assert_eq!((id.len(), secret.len()), (10, 64));
        assert_eq!((stored.id.as_str(), stored.hash), (id, hash_api_key(&text)));
        assert_eq!(create_api_key("web", &[], &[], 0).unwrap_err().code(), codes::SCOPE_INVALID);
        assert_eq!(create_api_key("web", &["all".into()], &[], 0).unwrap_err().code(), codes::SCOPE_INVALID);
    }

    #[tokio::test]
    async fn processes_that_start_together_create_one_admin_key() {
        let (_folder, db) = db().await;
        let starts = (0..8).map(|_| ensure_admin_key(&db, HOME, None));
        let shown: Vec<_> = futures::future::try_join_all(starts).await.unwrap().into_iter().flatten().collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert_eq!(db.api_keys().list().await.unwrap()[0].hash, hash_api_key(&shown[0]));
        assert_eq!(ensure_admin_key(&db, WORLD, None).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_new_admin_key_from_the_environment_replaces_the_old_one() {
        let (_folder, db) = db().await;
        for text in ["a-key-that-somebody-chose", "a-key-that-somebody-chose", "another-key-somebody-chose"] {
            assert_eq!(ensure_admin_key(&db, WORLD, Some(text)).await.unwrap(), None);
            let keys = db.api_keys().list().await.unwrap();
            assert_eq!((keys.len(), keys[0].hash.as_str(), keys[0].id.len()), (1, hash_api_key(text).as_str(), 10));
        }
        let short = ensure_admin_key(&db, HOME, Some("secret")).await.unwrap_err();
        assert_eq!(short.code().name(), "admin_key_invalid");
        assert!(!short.to_string().contains("`secret`"));
    }

    #[tokio::test]
    async fn an_admin_key_ends_with_its_variable() {
        let (_folder, db) = db().await;
        let names = async || {
            let keys = db.api_keys().list().await.unwrap();
            keys.into_iter().map(|key| key.name).collect::<Vec<_>>()
        };
        for unset in [None, Some("")] {
            ensure_admin_key(&db, WORLD, Some("a-key-that-somebody-chose")).await.unwrap();
            assert_eq!(names().await, [ENV_API_KEY_NAME]);
            let refused = ensure_admin_key(&db, WORLD, unset).await.unwrap_err();
            assert_eq!(refused.code(), codes::LISTEN_WITHOUT_KEY);
            assert!(names().await.is_empty());
        }
        let (other, _) = create_api_key("web", &["runs:write".into()], &[], 0).unwrap();
        db.api_keys().insert(&other).await.unwrap();
        ensure_admin_key(&db, WORLD, Some("a-key-that-somebody-chose")).await.unwrap();
        assert_eq!(ensure_admin_key(&db, WORLD, None).await.unwrap(), None);
        assert_eq!(names().await, ["web"]);
    }

    #[test]
    fn only_generated_keys_have_their_form() {
        let (_, text) = create_api_key("web", &["runs:write".into()], &[], 0).unwrap();
        assert!(is_generated_key(&text));
        for other in ["", "al_", "al_aaaaaaaaaa_00", &text[1..], &format!("{text}0"), &text.replace('_', "-")] {
            assert!(!is_generated_key(other), "{other}");
        }
    }

    #[tokio::test]
    async fn a_public_address_needs_an_api_key() {
        let (_folder, db) = db().await;
        assert_eq!(ensure_admin_key(&db, WORLD, None).await.unwrap_err().code(), codes::LISTEN_WITHOUT_KEY);
        assert!(db.api_keys().list().await.unwrap().is_empty());
    }
}
