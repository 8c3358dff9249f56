//! The sessions that were checked a moment ago, so that a page that follows its data does not ask the database each second
//! who looks at it. Writes are checked by the API, each of them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use afterload_core::clock::UnixMillis;
use afterload_server::api::Caller;

/// A session that another process has ended shows pages for this long.
const RECHECK_MS: i64 = 15_000;
/// More sessions than this are not remembered.
const MAX_SESSIONS: usize = 1_000;

/// The sessions by their token.
#[derive(Default)]
pub(crate) struct SessionCache(Mutex<HashMap<String, (UnixMillis, Caller)>>);

impl SessionCache {
    /// The caller, if the session was checked a moment ago.
    pub(crate) fn get(&self, token: &str, now: UnixMillis) -> Option<Caller> {
        let sessions = self.lock();
        let (checked_at, caller) = sessions.get(token)?;
        (*checked_at..*checked_at + RECHECK_MS).contains(&now).then(|| caller.clone())
    }

    /// Remembers a session that was just checked.
    pub(crate) fn insert(&self, token: &str, caller: Caller, now: UnixMillis) {
        let mut sessions = self.lock();
        if sessions.len() >= MAX_SESSIONS {
            sessions.clear();
        }
        sessions.insert(token.to_owned(), (now, caller));
    }

    /// Forgets a session that ends.
    pub(crate) fn remove(&self, token: &str) {
        self.lock().remove(token);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, (UnixMillis, Caller)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
