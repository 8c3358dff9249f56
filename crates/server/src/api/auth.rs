//! API keys and their scopes.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use rand::Rng as _;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::ApiState;
use super::problem::Problem;
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_state::{ApiKeyRecord, Db};

const API_KEY_PREFIX: &str = "al_";
const API_KEY_ID_CHARS: usize = 10;
const API_KEY_ID_ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
const MAX_API_KEY_CHARS: usize = 512;
/// The minimum length of a key that a person chose.
const MIN_API_KEY_CHARS: usize = 24;
/// A fixed id: if several processes start at once on a new database, only one of them stores its key.
const INITIAL_API_KEY_ID: &str = "firstadmin";
const ENV_API_KEY_NAME: &str = "admin, from AFTERLOAD_ADMIN_KEY";

/// A permission of a key. Without a pipeline name it covers all pipelines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ApiKeyScope {
    /// Everything.
    Admin,
    /// Read runs, their files and their pipelines.
    RunsRead(Option<String>),
    /// Start runs.
    RunsWrite(Option<String>),
    /// Publish events, such as new objects.
    EventsWrite(Option<String>),
    /// Read metrics.
    MetricsRead,
}

impl FromStr for ApiKeyScope {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let (kind, name) = match text.match_indices(':').nth(1) {
            Some((at, _)) => (&text[..at], Some(&text[at + 1..])),
            None => (text, None),
        };
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let name_fits = name.is_none_or(|name| !name.is_empty() && name.len() <= 63 && name.bytes().all(allowed));
        let name = name.map(str::to_owned);
        match kind {
            "admin" if name.is_none() => Ok(Self::Admin),
            "runs:read" if name_fits => Ok(Self::RunsRead(name)),
            "runs:write" if name_fits => Ok(Self::RunsWrite(name)),
            "events:write" if name_fits => Ok(Self::EventsWrite(name)),
            "metrics:read" if name.is_none() => Ok(Self::MetricsRead),
            _ => Err(Error::new(codes::SCOPE_INVALID, format!("`{text}` is not a scope"))
                .with_hint("scopes are `admin`, `runs:read`, `runs:read:PIPELINE`, `runs:write`, `runs:write:PIPELINE`, `events:write`, `events:write:NAME` and `metrics:read`")),
        }
    }
}

impl fmt::Display for ApiKeyScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, name) = match self {
            Self::Admin => ("admin", &None),
            Self::RunsRead(name) => ("runs:read", name),
            Self::RunsWrite(name) => ("runs:write", name),
            Self::EventsWrite(name) => ("events:write", name),
            Self::MetricsRead => ("metrics:read", &None),
        };
        f.write_str(kind)?;
        name.as_ref().map_or(Ok(()), |name| write!(f, ":{name}"))
    }
}

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
    let secret: [u8; 32] = rand::rng().random();
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

fn hash_api_key(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// The public part of a key. A key that a person chose has none, so it is derived from the text.
fn api_key_id(text: &str) -> String {
    let own = text.strip_prefix(API_KEY_PREFIX).and_then(|rest| rest.split_once('_'));
    match own {
        Some((id, _)) if id.len() == API_KEY_ID_CHARS => id.to_owned(),
        _ => format!("env{}", &hash_api_key(&format!("id of {text}"))[..API_KEY_ID_CHARS - 3]),
    }
}

/// Ensures that there is an admin key. `from_env` (any text of at least 24 characters) becomes the admin key and
/// replaces an earlier one from the environment. Otherwise the first start on a database creates a key and returns it,
/// to be shown once.
///
/// # Errors
/// `admin_key_invalid` for a key that is too easy to guess; `listen_without_key` if other machines could reach a
/// service whose only key is in its log.
pub async fn ensure_admin_key(db: &Db, listen: SocketAddr, from_env: Option<&str>) -> Result<Option<String>> {
    let keys = db.api_keys().list().await?;
    if let Some(text) = from_env.filter(|text| !text.is_empty()) {
        store_env_api_key(db, &keys, text).await?;
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
    let name = "admin, made at the first start";
    let (key, text) = build_api_key(INITIAL_API_KEY_ID, name, &["admin".into()], &[], db.now())?;
    Ok(db.api_keys().insert(&key).await?.then_some(text))
}

async fn store_env_api_key(db: &Db, keys: &[ApiKeyRecord], text: &str) -> Result<()> {
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
    let id = api_key_id(text);
    let hash = hash_api_key(text);
    // A replaced key must stop working.
    for old in keys.iter().filter(|key| key.name == ENV_API_KEY_NAME || key.id == id) {
        if old.hash != hash {
            db.api_keys().delete(&old.id).await?;
        }
    }
    let scopes = vec![ApiKeyScope::Admin.to_string()];
    let name = ENV_API_KEY_NAME.to_owned();
    let key = ApiKeyRecord { id, hash, name, scopes, buckets: Vec::new(), created_at: db.now() };
    db.api_keys().insert(&key).await.map(drop)
}

/// The authenticated caller and its permissions.
#[derive(Clone, Debug)]
pub struct Caller {
    scopes: Vec<ApiKeyScope>,
    buckets: Vec<String>,
}

impl Caller {
    /// Authenticates a request by its API key.
    ///
    /// # Errors
    /// `key_missing`, `key_invalid`
    pub(super) async fn from_headers(app: &ApiState, headers: &HeaderMap) -> Result<Self> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            return Err(Error::new(codes::KEY_MISSING, "this call needs an API key")
                .with_hint("send `Authorization: Bearer KEY`; `afterload key new` makes one"));
        };
        let text = header.to_str().ok().and_then(|header| header.split_once(' '));
        let text = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, text)| text.trim());
        let invalid = || Error::new(codes::KEY_INVALID, "the API key is not valid");
        let text = text.filter(|text| !text.is_empty() && text.len() <= MAX_API_KEY_CHARS).ok_or_else(invalid)?;
        let stored = app.db().api_keys().find(&api_key_id(text)).await?.ok_or_else(invalid)?;
        if !bool::from(stored.hash.as_bytes().ct_eq(hash_api_key(text).as_bytes())) {
            return Err(invalid());
        }
        tracing::debug!(key.id = stored.id, "an API key was accepted");
        // A scope that this version does not support permits nothing.
        let scopes = stored.scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
        Ok(Self { scopes, buckets: stored.buckets })
    }

    /// True if the key may do everything.
    pub fn is_admin(&self) -> bool {
        self.scopes.contains(&ApiKeyScope::Admin)
    }

    /// True if the key may read the runs of this pipeline.
    pub fn can_read(&self, pipeline: &str) -> bool {
        self.readable_pipelines().is_none_or(|pipelines| pipelines.iter().any(|name| name == pipeline))
    }

    /// The pipelines whose runs the key may read; `None` for all.
    pub fn readable_pipelines(&self) -> Option<Vec<String>> {
        let mut pipelines = Vec::new();
        for scope in &self.scopes {
            match scope {
                ApiKeyScope::Admin | ApiKeyScope::RunsRead(None) => return None,
                ApiKeyScope::RunsRead(Some(name)) => pipelines.push(name.clone()),
                _ => {}
            }
        }
        Some(pipelines)
    }

    /// True if the key may start runs of this pipeline.
    pub fn can_write(&self, pipeline: &str) -> bool {
        self.scopes.iter().any(|scope| match scope {
            ApiKeyScope::Admin | ApiKeyScope::RunsWrite(None) => true,
            ApiKeyScope::RunsWrite(Some(name)) => name == pipeline,
            _ => false,
        })
    }

    /// True if the key may publish the application event of this name; `None`: if it may publish any event.
    pub fn can_publish(&self, event: Option<&str>) -> bool {
        self.scopes.iter().any(|scope| match scope {
            ApiKeyScope::Admin | ApiKeyScope::EventsWrite(None) => true,
            ApiKeyScope::EventsWrite(Some(name)) => event == Some(name),
            _ => false,
        })
    }

    /// True if the key may read metrics.
    pub fn can_read_metrics(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, ApiKeyScope::Admin | ApiKeyScope::MetricsRead))
    }

    /// True if the key may start runs of some pipeline.
    pub fn can_write_any(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, ApiKeyScope::Admin | ApiKeyScope::RunsWrite(_)))
    }

    /// True if the key may name objects of this bucket in parameters.
    pub fn can_access_bucket(&self, bucket: &str) -> bool {
        self.is_admin() || self.buckets.iter().any(|name| name == bucket)
    }

    /// Rejects a key that may read no runs at all.
    ///
    /// # Errors
    /// `scope_missing`
    pub fn require_read(&self) -> Result<()> {
        match self.readable_pipelines() {
            Some(pipelines) if pipelines.is_empty() => Err(missing_scope(&ApiKeyScope::RunsRead(None))),
            _ => Ok(()),
        }
    }
}

/// The error for a key without `scope`.
pub(super) fn missing_scope(scope: &ApiKeyScope) -> Error {
    Error::new(codes::SCOPE_MISSING, format!("the API key lacks the scope `{scope}`"))
        .with_hint(format!("make one with `afterload key new --scope {scope}`"))
        .with_details(serde_json::json!({ "scope": scope.to_string() }))
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &ApiState) -> Result<Self, Problem> {
        Ok(Self::from_headers(app, &parts.headers).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::clock::Clock;

    const HOME: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
    const WORLD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8080);

    async fn db() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().unwrap();
        let db =
            Db::open(&format!("sqlite://{}", folder.path().join("a.db").display()), Clock::system()).await.unwrap();
        (folder, db)
    }

    #[test]
    fn scopes_parse_and_display_the_same() {
        for text in [
            "admin",
            "runs:read",
            "runs:read:a-b",
            "runs:write:a",
            "runs:write",
            "events:write",
            "events:write:user.signed_in",
            "metrics:read",
        ] {
            assert_eq!(text.parse::<ApiKeyScope>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "admin:x",
            "runs",
            "runs:read:",
            "runs:read:a b",
            "runs:delete",
            "Admin",
            "runs:read:a:b",
            "metrics:read:a",
        ] {
            assert_eq!(text.parse::<ApiKeyScope>().unwrap_err().code(), codes::SCOPE_INVALID, "`{text}`");
        }
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

    #[test]
    fn a_scope_for_one_pipeline_covers_only_that_one() {
        let caller = |scopes: &[&str]| Caller {
            scopes: scopes.iter().map(|scope| scope.parse().unwrap()).collect(),
            buckets: vec!["uploads".into()],
        };
        let one = caller(&["runs:read:a", "runs:write:b"]);
        assert!(one.can_read("a") && !one.can_read("b") && one.can_write("b") && !one.can_write("a"));
        assert!(one.can_access_bucket("uploads") && !one.can_access_bucket("artifacts") && !one.is_admin());
        assert_eq!(caller(&["runs:write"]).require_read().unwrap_err().code(), codes::SCOPE_MISSING);
        let admin = caller(&["admin"]);
        assert!(admin.can_read("a") && admin.can_write("a") && admin.can_access_bucket("artifacts"));
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
    async fn a_public_address_needs_an_api_key() {
        let (_folder, db) = db().await;
        assert_eq!(ensure_admin_key(&db, WORLD, None).await.unwrap_err().code(), codes::LISTEN_WITHOUT_KEY);
        assert!(db.api_keys().list().await.unwrap().is_empty());
    }
}
