//! The clock of a process: everything in the database is due by it, and on PostgreSQL it follows that of the database.

use std::time::Duration;

use afterload_core::clock::Clock;
use afterload_core::dialect::Dialect;
use afterload_state::queue::JobQueue;
use afterload_state::{Db, NewEventBatch};
use serde_json::json;

use crate::support::{Database, Server, both};

both!(
    leases_and_records_expire_by_the_clock,
    ended_workers_are_forgotten_by_the_clock,
    batch_is_due_when_it_is_quiet_or_has_waited_long_enough,
    clock_follows_the_database
);

/// 2100, far from the time of any machine.
const START: i64 = 4_102_444_800_000;
const SECOND_MS: i64 = 1000;

struct Opened {
    db: Db,
    _dir: tempfile::TempDir,
    server: Option<Server>,
}

async fn open(database: Database, clock: Clock) -> Opened {
    let dir = tempfile::tempdir().unwrap();
    let server = match database {
        Database::Sqlite => None,
        Database::Postgres => Some(Server::start().await),
    };
    let url = server.as_ref().map_or_else(|| format!("sqlite://{}", dir.path().join("c.db").display()), Server::url);
    Opened { db: Db::open(&url, clock).await.unwrap(), _dir: dir, server }
}

async fn leases_and_records_expire_by_the_clock(database: Database) {
    let (clock, time) = Clock::manual(START);
    let Opened { db, _dir, server: _server } = open(database, clock).await;
    let claim = async |holder: &str| {
        let claimed = db.poll_claims().claim("poll", START, 0, holder, 15 * SECOND_MS).await.unwrap();
        claimed.is_some()
    };
    let known = async || db.geo_cache().find("geo", &["192.0.2.1".to_owned()], 0).await.unwrap().len();
    let expires_at = START + 15 * SECOND_MS;
    db.geo_cache().upsert("geo", "192.0.2.1", Some(&json!({ "country": "AQ" })), expires_at).await.unwrap();
    assert!(claim("one").await);
    time.advance(Duration::from_secs(14));
    assert!(!claim("two").await, "the lease holds");
    assert_eq!((known().await, db.geo_cache().delete_expired(10).await.unwrap()), (1, 0));
    time.advance(Duration::from_secs(2));
    assert!(claim("two").await, "the lease has ended");
    assert_eq!((known().await, db.geo_cache().delete_expired(10).await.unwrap()), (0, 1));
}

async fn ended_workers_are_forgotten_by_the_clock(database: Database) {
    let (clock, time) = Clock::manual(START);
    let Opened { db, _dir, server: _server } = open(database, clock).await;
    let queue = JobQueue::open(db.clone(), Duration::from_secs(15)).await.unwrap();
    let (table, seen) = match db.dialect() {
        Dialect::Sqlite => ("Workers", (START / SECOND_MS).to_string()),
        Dialect::Postgres => ("apalis.workers", format!("to_timestamp({})", START / SECOND_MS)),
    };
    let insert = format!(
        "INSERT INTO {table} (id, worker_type, storage_name, layers, last_seen) VALUES ('w', 'default', 's', '', {seen})"
    );
    db.execute(&insert, &[]).await.unwrap();
    time.advance(Duration::from_secs(3599));
    assert_eq!(queue.prune_workers().await.unwrap(), 0);
    time.advance(Duration::from_secs(2));
    assert_eq!(queue.prune_workers().await.unwrap(), 1);
}

async fn batch_is_due_when_it_is_quiet_or_has_waited_long_enough(database: Database) {
    let (clock, time) = Clock::manual(START);
    let Opened { db, _dir, server: _server } = open(database, clock).await;
    let params = json!({});
    let join = async |id: &str| {
        let mut tx = db.begin().await.unwrap();
        let new = NewEventBatch {
            id,
            pipeline: "p",
            trigger_key: "t",
            source: "event",
            trigger_params: &params,
            hops: 0,
            wait_ms: 30 * SECOND_MS,
            max_wait_ms: 100 * SECOND_MS,
        };
        let joined = tx.event_batches().join(&new).await.unwrap();
        tx.event_batches().insert_item(&joined, &json!({ "id": id }).to_string(), false).await.unwrap();
        tx.commit().await.unwrap();
        (joined.id, joined.items)
    };
    let is_due = async || {
        let due = db.event_batches().list_due(10).await.unwrap();
        assert_eq!(db.event_batches().close_due("a").await.unwrap(), !due.is_empty());
        !due.is_empty()
    };
    let wait = |seconds| time.advance(Duration::from_secs(seconds));
    // Each event puts the run off, up to 100 seconds after the first.
    for (number, id) in (1..).zip(["a", "b", "c", "d"]) {
        assert_eq!(join(id).await, ("a".to_owned(), number));
        wait(29);
        assert!(number == 4 || !is_due().await, "{id}");
    }
    assert!(is_due().await, "116 seconds after the first event");
    let (events, _) = db.event_batches().list_items("a").await.unwrap();
    assert_eq!(events, ["a", "b", "c", "d"].map(|id| json!({ "id": id })));
    assert_eq!(join("e").await, ("e".to_owned(), 1), "a closed batch takes no events");
    db.event_batches().delete("a").await.unwrap();
    wait(29);
    assert_eq!(db.event_batches().list_due(10).await.unwrap().len(), 0);
    wait(1);
    assert_eq!(db.event_batches().list_due(10).await.unwrap()[0].id, "e");
}

async fn clock_follows_the_database(database: Database) {
    let (clock, time) = Clock::manual(START);
    let Opened { db, _dir, server } = open(database, clock).await;
    let machine = Clock::system();
    time.advance(Duration::from_secs(1));
    let began = machine.now();
    db.correct_clock().await.unwrap();
    if db.dialect() == Dialect::Sqlite {
        assert_eq!(db.now(), START + SECOND_MS, "the machine of the database is this one");
        return;
    }
    // The clock was ahead, and the time never moves back.
    assert_eq!(db.now(), START + SECOND_MS);
    let (late, time) = Clock::manual(1_000);
    let behind = Db::open(&server.as_ref().unwrap().url(), late).await.unwrap();
    behind.correct_clock().await.unwrap();
    let (told, ended) = (behind.now(), machine.now());
    // The server of the test runs on this machine. A round trip took no longer than all of this.
    let error = ended - began + 10;
    assert!((began - error..=ended + error).contains(&told), "{began} {told} {ended}");
    time.advance(Duration::from_secs(1));
    assert_eq!(behind.now(), told + SECOND_MS);
    let before = behind.now();
    behind.correct_clock().await.unwrap();
    assert!(behind.now() >= before, "the second was too early, and is not taken back");
}
