//! Sign-in to the dashboard: a code that works once becomes a session, which acts as an API key that ends.

use std::time::Duration;

use rand::Rng as _;

use super::api_key::hash_api_key;
use super::scopes::ApiKeyScope;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_state::{DashboardSessionRecord, Db};

/// How long a code works.
pub const SIGN_IN_CODE_LIFETIME: Duration = Duration::from_secs(5 * 60);
/// How long a session lasts.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);

/// The token of a session begins so, unlike that of an API key.
const SESSION_PREFIX: &str = "als_";
const SECRET_BYTES: usize = 32;
/// Letters and digits that nobody confuses when copying by hand; there are 32 of them.
const CODE_ALPHABET: &[u8] = b"abcdefghijkmnpqrstuvwxyz23456789";
/// 100 random bits: nobody guesses them in five minutes.
const CODE_CHARS: usize = 20;
const CODE_GROUP_CHARS: usize = 5;

/// Creates a code that signs in once. Returns its text, which is stored nowhere.
///
/// # Errors
/// `scope_invalid`, also for an empty list, or an error of the database.
pub async fn create_sign_in_code(db: &Db, scopes: &[String]) -> Result<String> {
    if scopes.is_empty() {
        return Err(Error::new(codes::SCOPE_INVALID, "a sign-in needs at least one scope"));
    }
    let scopes = scopes.iter().map(|scope| scope.parse::<ApiKeyScope>()).collect::<Result<Vec<_>>>()?;
    let text = random_code();
    let now = db.now();
    let record = DashboardSessionRecord {
        hash: hash_api_key(&normalize_code(&text)),
        scopes: scopes.iter().map(ApiKeyScope::to_string).collect(),
        created_at: now,
        expires_at: now + SIGN_IN_CODE_LIFETIME.as_millis() as i64,
    };
    db.dashboard_sessions().insert_code(&record).await?;
    Ok(text)
}

/// Exchanges a code for a new session and returns the token of the session.
///
/// # Errors
/// `sign_in_invalid` for a code that is wrong, used or too old, or an error of the database.
pub async fn exchange_sign_in_code(db: &Db, code: &str) -> Result<String> {
    let secret: [u8; SECRET_BYTES] = rand::rng().random();
    let token = format!("{SESSION_PREFIX}{}", hex::encode(secret));
    let expires_at = db.now() + SESSION_LIFETIME.as_millis() as i64;
    let code_hash = hash_api_key(&normalize_code(code));
    match db.dashboard_sessions().exchange_code(&code_hash, &hash_api_key(&token), expires_at).await? {
        true => Ok(token),
        false => Err(Error::new(codes::SIGN_IN_INVALID, "the code is wrong, was used before, or is too old")),
    }
}

/// Ends a session.
///
/// # Errors
/// An error of the database.
pub async fn end_session(db: &Db, token: &str) -> Result<()> {
    db.dashboard_sessions().delete(&hash_api_key(token)).await
}

/// True for the form of a session's token.
pub(super) fn is_session_token(text: &str) -> bool {
    let is_hex = |secret: &str| secret.len() == 2 * SECRET_BYTES && secret.bytes().all(|byte| byte.is_ascii_hexdigit());
    text.strip_prefix(SESSION_PREFIX).is_some_and(is_hex)
}

/// Finds the session with this token, unless it has ended.
pub(super) async fn find_session(db: &Db, token: &str) -> Result<Option<DashboardSessionRecord>> {
    db.dashboard_sessions().find(&hash_api_key(token)).await
}

fn random_code() -> String {
    let mut random = rand::rng();
    let mut text = String::new();
    for index in 0..CODE_CHARS {
        if index > 0 && index % CODE_GROUP_CHARS == 0 {
            text.push('-');
        }
        text.push(char::from(CODE_ALPHABET[random.random_range(0..CODE_ALPHABET.len())]));
    }
    text
}

/// The code as it is hashed. People may leave out the hyphens, add spaces, and use capital letters.
fn normalize_code(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).map(|char| char.to_ascii_lowercase()).collect()
}

#[cfg(test)]
mod tests {
    use afterload_core::clock::Clock;

    use super::*;

    /// 2025 in milliseconds since 1970.
    const START: i64 = 1_735_689_600_000;

    #[tokio::test]
    async fn a_code_signs_in_once_and_only_in_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let (clock, time) = Clock::manual(START);
        let db = Db::open(&format!("sqlite://{}", folder.path().join("a.db").display()), clock).await.unwrap();
        let scopes = ["runs:read".to_owned()];
        assert_eq!(create_sign_in_code(&db, &[]).await.unwrap_err().code(), codes::SCOPE_INVALID);
        assert_eq!(create_sign_in_code(&db, &["all".into()]).await.unwrap_err().code(), codes::SCOPE_INVALID);

        let code = create_sign_in_code(&db, &scopes).await.unwrap();
        assert_eq!(code.len(), CODE_CHARS + 3, "{code}");
        let typed = code.replace('-', " ").to_uppercase();
        let token = exchange_sign_in_code(&db, &typed).await.unwrap();
        assert_eq!(find_session(&db, &token).await.unwrap().unwrap().scopes, scopes);
        // A code is no session, a session is no code, and neither works twice.
        for used in [code.as_str(), typed.as_str(), token.as_str(), "", "aaaaa"] {
            assert_eq!(exchange_sign_in_code(&db, used).await.unwrap_err().code(), codes::SIGN_IN_INVALID, "{used}");
        }
        let other = create_sign_in_code(&db, &scopes).await.unwrap();
        assert!(find_session(&db, &normalize_code(&other)).await.unwrap().is_none());

        time.advance(SIGN_IN_CODE_LIFETIME);
        assert_eq!(exchange_sign_in_code(&db, &other).await.unwrap_err().code(), codes::SIGN_IN_INVALID);
        assert!(find_session(&db, &token).await.unwrap().is_some());
        time.advance(SESSION_LIFETIME);
        assert!(find_session(&db, &token).await.unwrap().is_none());

        let last = create_sign_in_code(&db, &scopes).await.unwrap();
        let token = exchange_sign_in_code(&db, &last).await.unwrap();
        end_session(&db, &token).await.unwrap();
        assert!(find_session(&db, &token).await.unwrap().is_none());
    }
}
