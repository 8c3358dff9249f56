//! Bearer keys and what they may do.

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

use super::App;
use super::problem::Problem;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_state::{Db, StoredKey};

const PREFIX: &str = "al_";
const ID_LENGTH: usize = 10;
const ID_LETTERS: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
const LONGEST_KEY: usize = 512;
/// A key that a person chose must have at least so many characters.
const SHORTEST_KEY: usize = 24;
/// A fixed id: of several processes that start at once on a new database, one stores its key.
const FIRST_KEY_ID: &str = "firstadmin";
const ENV_KEY_NAME: &str = "admin, from AFTERLOAD_ADMIN_KEY";

/// One thing that a key may do. Without a name it holds for all pipelines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    Admin,
    /// Reading runs, their files and their pipelines.
    RunsRead(Option<String>),
    /// Starting runs.
    RunsWrite(Option<String>),
    /// Telling of what has happened, such as new objects.
    EventsWrite(Option<String>),
    /// Reading what the service counts.
    MetricsRead,
}

impl FromStr for Scope {
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
            _ => Err(Error::permanent("scope_invalid", format!("`{text}` is not a scope"))
                .hint("scopes are `admin`, `runs:read`, `runs:read:PIPELINE`, `runs:write`, `runs:write:PIPELINE`, `events:write`, `events:write:NAME` and `metrics:read`")),
        }
    }
}

impl fmt::Display for Scope {
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

/// Makes a key: what is stored of it, and its text, to be shown once.
///
/// # Errors
/// `scope_invalid`, also for none at all; `bucket_invalid` for an empty name.
pub fn make_key(name: &str, scopes: &[String], buckets: &[String]) -> Result<(StoredKey, String)> {
    let mut random = rand::rng();
    let id: String = (0..ID_LENGTH).map(|_| char::from(ID_LETTERS[random.random_range(0..ID_LETTERS.len())])).collect();
    key_with_id(&id, name, scopes, buckets)
}

fn key_with_id(id: &str, name: &str, scopes: &[String], buckets: &[String]) -> Result<(StoredKey, String)> {
    if scopes.is_empty() {
        return Err(
            Error::permanent("scope_invalid", "a key needs at least one scope").hint("`admin` may do everything")
        );
    }
    if buckets.iter().any(String::is_empty) {
        return Err(Error::permanent("bucket_invalid", "a bucket needs a name"));
    }
    let scopes = scopes.iter().map(|scope| scope.parse::<Scope>()).collect::<Result<Vec<_>>>()?;
    let secret: [u8; 32] = rand::rng().random();
    let text = format!("{PREFIX}{id}_{}", hex::encode(secret));
    let stored = StoredKey {
        id: id.to_owned(),
        hash: hash(&text),
        name: name.to_owned(),
        scopes: scopes.iter().map(Scope::to_string).collect(),
        buckets: buckets.to_vec(),
        created_at: clock::now(),
    };
    Ok((stored, text))
}

fn hash(text: &str) -> String {
    hex::encode(Sha256::digest(text))
}

/// The public part of a key. One that a person chose has none, so it is derived.
fn key_id(text: &str) -> String {
    let own = text.strip_prefix(PREFIX).and_then(|rest| rest.split_once('_'));
    match own {
        Some((id, _)) if id.len() == ID_LENGTH => id.to_owned(),
        _ => format!("env{}", &hash(&format!("id of {text}"))[..ID_LENGTH - 3]),
    }
}

/// Sees to it that somebody can get in. `from_env` (any text of at least 24 characters) becomes the admin key, in place
/// of one that came the same way before. Otherwise the first start on a database makes a key and returns it, to be
/// shown once.
///
/// # Errors
/// `admin_key_invalid` for a key that is too easily guessed; `listen_without_key` when others could reach a service
/// whose only key stands in its log; those of the database.
pub async fn ensure_admin_key(db: &Db, listen: SocketAddr, from_env: Option<&str>) -> Result<Option<String>> {
    let keys = db.keys().await?;
    if let Some(text) = from_env.filter(|text| !text.is_empty()) {
        store_env_key(db, &keys, text).await?;
        return Ok(None);
    }
    if !keys.is_empty() {
        return Ok(None);
    }
    if !listen.ip().is_loopback() {
        return Err(Error::permanent(
            "listen_without_key",
            format!("listening on `{listen}` lets others in, but there is no API key yet"),
        )
        .hint("set `AFTERLOAD_ADMIN_KEY`, or make a key with `afterload key new --name admin --scope admin`"));
    }
    let (key, text) = key_with_id(FIRST_KEY_ID, "admin, made at the first start", &["admin".into()], &[])?;
    Ok(db.insert_key(&key).await?.then_some(text))
}

async fn store_env_key(db: &Db, keys: &[StoredKey], text: &str) -> Result<()> {
    if text.len() < SHORTEST_KEY || text.len() > LONGEST_KEY || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(Error::permanent(
            "admin_key_invalid",
            format!("`AFTERLOAD_ADMIN_KEY` must have {SHORTEST_KEY} to {LONGEST_KEY} visible ASCII characters"),
        )
        .hint("make one with `openssl rand -hex 32`"));
    }
    let id = key_id(text);
    let hash = hash(text);
    for old in keys.iter().filter(|key| key.name == ENV_KEY_NAME || key.id == id) {
        if old.hash != hash {
            db.delete_key(&old.id).await?;
        }
    }
    let scopes = vec![Scope::Admin.to_string()];
    let name = ENV_KEY_NAME.to_owned();
    let key = StoredKey { id, hash, name, scopes, buckets: Vec::new(), created_at: clock::now() };
    db.insert_key(&key).await.map(drop)
}

/// Who is asking, and what they may do.
#[derive(Clone, Debug)]
pub struct Caller {
    scopes: Vec<Scope>,
    buckets: Vec<String>,
}

impl Caller {
    /// The caller whose key the request bears.
    ///
    /// # Errors
    /// `key_missing`, `key_invalid`, or those of the database.
    pub(super) async fn of(app: &App, headers: &HeaderMap) -> Result<Self> {
        let Some(header) = headers.get(AUTHORIZATION) else {
            return Err(Error::permanent("key_missing", "this call needs an API key")
                .hint("send `Authorization: Bearer KEY`; `afterload key new` makes one"));
        };
        let text = header.to_str().ok().and_then(|header| header.split_once(' '));
        let text = text.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, text)| text.trim());
        let invalid = || Error::permanent("key_invalid", "the API key is not valid");
        let text = text.filter(|text| !text.is_empty() && text.len() <= LONGEST_KEY).ok_or_else(invalid)?;
        let stored = app.db().key(&key_id(text)).await?.ok_or_else(invalid)?;
        if !bool::from(stored.hash.as_bytes().ct_eq(hash(text).as_bytes())) {
            return Err(invalid());
        }
        tracing::debug!(key.id = stored.id, "a key was accepted");
        // A scope that this version does not know allows nothing.
        let scopes = stored.scopes.iter().filter_map(|scope| scope.parse().ok()).collect();
        Ok(Self { scopes, buckets: stored.buckets })
    }

    /// True if the key may do everything.
    pub fn is_admin(&self) -> bool {
        self.scopes.contains(&Scope::Admin)
    }

    /// True if the key may read the runs of this pipeline.
    pub fn may_read(&self, pipeline: &str) -> bool {
        self.readable().is_none_or(|pipelines| pipelines.iter().any(|name| name == pipeline))
    }

    /// The pipelines whose runs the key may read; `None`: all.
    pub fn readable(&self) -> Option<Vec<String>> {
        let mut pipelines = Vec::new();
        for scope in &self.scopes {
            match scope {
                Scope::Admin | Scope::RunsRead(None) => return None,
                Scope::RunsRead(Some(name)) => pipelines.push(name.clone()),
                _ => {}
            }
        }
        Some(pipelines)
    }

    /// True if the key may start runs of this pipeline.
    pub fn may_write(&self, pipeline: &str) -> bool {
        self.scopes.iter().any(|scope| match scope {
            Scope::Admin | Scope::RunsWrite(None) => true,
            Scope::RunsWrite(Some(name)) => name == pipeline,
            _ => false,
        })
    }

    /// True if the key may tell of the application's event of this name; without one, of everything.
    pub fn may_tell(&self, event: Option<&str>) -> bool {
        self.scopes.iter().any(|scope| match scope {
            Scope::Admin | Scope::EventsWrite(None) => true,
            Scope::EventsWrite(Some(name)) => event == Some(name),
            _ => false,
        })
    }

    /// True if the key may read what the service counts.
    pub fn may_watch(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, Scope::Admin | Scope::MetricsRead))
    }

    /// True if there may be a pipeline whose runs the key may start.
    pub fn writes_any(&self) -> bool {
        self.scopes.iter().any(|scope| matches!(scope, Scope::Admin | Scope::RunsWrite(_)))
    }

    /// True if the key may name objects of this bucket in parameters.
    pub fn may_name(&self, bucket: &str) -> bool {
        self.is_admin() || self.buckets.iter().any(|name| name == bucket)
    }

    /// Refuses a key that may read no run at all.
    ///
    /// # Errors
    /// `scope_missing`
    pub fn must_read(&self) -> Result<()> {
        match self.readable() {
            Some(pipelines) if pipelines.is_empty() => Err(lacks(&Scope::RunsRead(None))),
            _ => Ok(()),
        }
    }
}

/// The refusal of a key without `scope`.
pub(super) fn lacks(scope: &Scope) -> Error {
    Error::permanent("scope_missing", format!("the API key lacks the scope `{scope}`"))
        .hint(format!("make one with `afterload key new --scope {scope}`"))
        .details(serde_json::json!({ "scope": scope.to_string() }))
}

impl FromRequestParts<App> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Problem> {
        Ok(Self::of(app, &parts.headers).await?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8080);
    const WORLD: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 8080);

    async fn db() -> (tempfile::TempDir, Db) {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&format!("sqlite://{}", folder.path().join("a.db").display())).await.unwrap();
        (folder, db)
    }

    #[test]
    fn scopes_are_read_as_they_are_written() {
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
            assert_eq!(text.parse::<Scope>().unwrap().to_string(), text);
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
            assert_eq!(text.parse::<Scope>().unwrap_err().code(), "scope_invalid", "`{text}`");
        }
    }

    #[test]
    fn a_key_has_the_form_that_was_promised() {
        let (stored, text) = make_key("web", &["runs:write".into()], &[]).unwrap();
        let (id, secret) = text.strip_prefix("al_").unwrap().split_once('_').unwrap();
        assert_eq!((id.len(), secret.len()), (10, 64));
        assert_eq!((stored.id.as_str(), stored.hash), (id, hash(&text)));
        assert_eq!(make_key("web", &[], &[]).unwrap_err().code(), "scope_invalid");
        assert_eq!(make_key("web", &["all".into()], &[]).unwrap_err().code(), "scope_invalid");
    }

    #[test]
    fn a_scope_for_one_pipeline_ends_there() {
        let caller = |scopes: &[&str]| Caller {
            scopes: scopes.iter().map(|scope| scope.parse().unwrap()).collect(),
            buckets: vec!["uploads".into()],
        };
        let one = caller(&["runs:read:a", "runs:write:b"]);
        assert!(one.may_read("a") && !one.may_read("b") && one.may_write("b") && !one.may_write("a"));
        assert!(one.may_name("uploads") && !one.may_name("artifacts") && !one.is_admin());
        assert_eq!(caller(&["runs:write"]).must_read().unwrap_err().code(), "scope_missing");
        let admin = caller(&["admin"]);
        assert!(admin.may_read("a") && admin.may_write("a") && admin.may_name("artifacts"));
    }

    #[tokio::test]
    async fn processes_that_start_at_once_show_one_key() {
        let (_folder, db) = db().await;
        let starts = (0..8).map(|_| ensure_admin_key(&db, HOME, None));
        let shown: Vec<_> = futures::future::try_join_all(starts).await.unwrap().into_iter().flatten().collect();
        assert_eq!(shown.len(), 1, "{shown:?}");
        assert_eq!(db.keys().await.unwrap()[0].hash, hash(&shown[0]));
        assert_eq!(ensure_admin_key(&db, WORLD, None).await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_chosen_key_replaces_the_one_before() {
        let (_folder, db) = db().await;
        for text in ["a-key-that-somebody-chose", "a-key-that-somebody-chose", "another-key-somebody-chose"] {
            assert_eq!(ensure_admin_key(&db, WORLD, Some(text)).await.unwrap(), None);
            let keys = db.keys().await.unwrap();
            assert_eq!((keys.len(), keys[0].hash.as_str(), keys[0].id.len()), (1, hash(text).as_str(), 10));
        }
        let short = ensure_admin_key(&db, HOME, Some("secret")).await.unwrap_err();
        assert_eq!(short.code(), "admin_key_invalid");
        assert!(!short.to_string().contains("`secret`"));
    }

    #[tokio::test]
    async fn nobody_listens_to_the_world_without_a_key() {
        let (_folder, db) = db().await;
        assert_eq!(ensure_admin_key(&db, WORLD, None).await.unwrap_err().code(), "listen_without_key");
        assert!(db.keys().await.unwrap().is_empty());
    }
}
