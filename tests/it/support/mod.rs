//! Shared by the tests: real servers, the real application, and a configurable step kind.

mod app;
mod child;
mod hello;
mod kinds;
mod postgres;
pub mod raw_http;
mod sql;
mod template;
mod tools;
pub mod workbook;

use std::time::{Duration, Instant};

pub use app::{Builder, Database, TestApp};
pub use child::{ADMIN_KEY, Place, Process};
pub use kinds::{kinds, log_of};
pub use postgres::Server;
pub use sql::{execute, numbers};
pub use tools::{Moto, http_client, python, tool};

/// Ends the leases of all processes on PostgreSQL, as their timeout does for dead processes.
const END_LEASES: &str = "UPDATE apalis.workers SET last_seen = now() - interval '1 hour'";

/// Runs one test body on both databases: `both!(name)` creates `name::sqlite` and `name::postgres` from `async fn
/// name(Database)`.
macro_rules! both {
    ($($name:ident),* $(,)?) => {$(
        mod $name {
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::$name($crate::support::Database::Sqlite).await;
            }
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::$name($crate::support::Database::Postgres).await;
            }
        }
    )*};
}
pub(crate) use both;

/// The pauses between looks at something. They grow, because each look takes time from what it waits for.
pub struct PollPauses(Duration);

impl PollPauses {
    const FIRST: Duration = Duration::from_millis(5);
    const LONGEST: Duration = Duration::from_millis(50);

    pub async fn pause(&mut self) {
        tokio::time::sleep(self.0).await;
        self.0 = (self.0 * 5 / 4).min(Self::LONGEST);
    }
}

impl Default for PollPauses {
    fn default() -> Self {
        Self(Self::FIRST)
    }
}

/// Waits for a condition. After two minutes it fails with the name of the condition.
pub async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let (deadline, mut pauses) = (Instant::now() + Duration::from_secs(120), PollPauses::default());
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "waited too long: {what}");
        pauses.pause().await;
    }
}
