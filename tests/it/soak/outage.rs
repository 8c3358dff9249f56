//! Figure 6: the database is locked, restarted, or full. The process survives, and every accepted run is executed.
#![expect(clippy::print_stdout, reason = "what it prints is the table")]

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, SqliteConnection};

use super::{at_most, figure, size};
use crate::support::{Database, Place, Process, Server, eventually};

const LOCK_DURATION: Duration = Duration::from_secs(9);
/// The maximum time in seconds until a new run ends.
const MAX_RECOVERY_SECONDS: usize = 10;

const PIPELINE: &str = "name: p\nparams: { file: { type: file } }\nsteps:\n  \
    - { id: count, uses: csv.import, with: { source: \"${{ params.file }}\", into: { table: counted }, columns: { id: { type: integer } } } }\n  \
    - { id: mail, uses: email.send, with: { to: a@example.com, subject: hello, body: hello } }\n";

async fn prepare(place: &Place) -> Process {
    place.pipeline("p", PIPELINE);
    place.sql("CREATE TABLE counted (id BIGINT NOT NULL)").await;
    let process = place.start().await;
    let s3 = place.s3();
    drop(s3.create_bucket().bucket("incoming").send().await);
    s3.put_object()
        .bucket("incoming")
        .key("one.csv")
        .body(b"id\n1\n".to_vec().into())
        .send()
        .await
        .expect("it is written");
    process
}

/// Starts a run; `None` if it was not accepted.
async fn accepted(process: &Process, key: &str) -> Option<String> {
    let request = process.request(Method::POST, "/v1/pipelines/p/runs").header("idempotency-key", key);
    let answer = request.json(&json!({ "params": { "file": "s3://incoming/one.csv" } })).send().await.ok()?;
    let status = answer.status();
    let run: Value = answer.json().await.ok()?;
    (status == 202).then(|| run["id"].as_str().expect("an id").to_owned())
}

/// Waits for the ends of these runs, and returns how many succeeded.
async fn succeeded(process: &Process, ids: &[String]) -> usize {
    let mut count = 0;
    for id in ids {
        let run =
            process.until("the end of a run", id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
        count += usize::from(run["status"] == "succeeded");
    }
    count
}

/// Every run that was accepted before, during and after the outage must succeed once, in the same process.
async fn check(database: Database, what: &str, place: &Place, mut process: Process, ids: &[String], since: Instant) {
    let after = eventually("an accepted run", async || accepted(&process, "after").await).await;
    assert_eq!(succeeded(&process, std::slice::from_ref(&after)).await, 1, "{}", place.log());
    let back = since.elapsed().as_secs() as usize;
    let succeeded = succeeded(&process, ids).await;
    let rows = place.numbers("SELECT COUNT(*) FROM counted").await[0] as usize;
    let found = (succeeded, rows, process.is_dead());
    figure(
        "6",
        database,
        &format!("{what}: runs that succeeded, rows, process dead"),
        &(ids.len(), ids.len() + 1, false),
        &found,
    );
    at_most("6", database, &format!("{what}: seconds until a new run has ended"), MAX_RECOVERY_SECONDS, back);
    assert!(process.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figure_6_locked_sqlite_loses_no_run() {
    let place = Place::new(Database::Sqlite).await;
    let process = prepare(&place).await;
    let mut ids = Vec::new();
    for number in 0..size(10, 50) {
        ids.push(accepted(&process, &format!("before/{number}")).await.expect("accepted"));
    }
    let mut lock = SqliteConnection::connect(&place.service_url()).await.expect("the service's database");
    sqlx::raw_sql("PRAGMA busy_timeout = 10000; BEGIN EXCLUSIVE").execute(&mut lock).await.expect("a lock");
    tokio::time::sleep(LOCK_DURATION).await;
    sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.expect("no lock");
    let since = Instant::now();
    check(Database::Sqlite, "9 s exclusive lock", &place, process, &ids, since).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figure_6_restarted_postgres_loses_no_run() {
    let server = Server::start_alone().await;
    let (again, app) = (server.beside().await, server.beside().await);
    let place = Place::on(Some(server), Some(app));
    let process = prepare(&place).await;
    let mut ids = Vec::new();
    for number in 0..size(10, 50) {
        ids.push(accepted(&process, &format!("before/{number}")).await.expect("accepted"));
    }
    again.restart().await;
    let since = Instant::now();
    check(Database::Postgres, "restart of the server", &place, process, &ids, since).await;
}

/// A small file system that is unmounted when this is dropped.
struct SmallDisk<'a>(&'a Path);

impl<'a> SmallDisk<'a> {
    fn mount(path: &'a Path) -> Option<Self> {
        std::fs::create_dir_all(path).expect("a folder");
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "tmpfs"]).arg(path).status();
        mount.is_ok_and(|status| status.success()).then_some(Self(path))
    }
}

impl Drop for SmallDisk<'_> {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("--lazy").arg(self.0).status());
    }
}

/// `data/` is on a file system of 24 MB. The test fills it completely, and then frees it. Only root may mount one;
/// otherwise the test prints that it is skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn figure_6_full_disk_loses_no_run() {
    let place = Place::new(Database::Sqlite).await;
    let data = place.dir.path().join("data");
    let Some(_disk) = SmallDisk::mount(&data) else {
        println!("FIGURE|6|Sqlite|a full disk|not measured|only root may mount a small file system|left out");
        return;
    };
    let mut process = prepare(&place).await;
    let before = accepted(&process, "before").await.expect("accepted");
    assert_eq!(succeeded(&process, std::slice::from_ref(&before)).await, 1);
    let filler = data.join("filler");
    fill(&filler);
    // An accepted run must be executed; a request that cannot be stored must be refused.
    let (mut ids, mut refused) = (vec![before], 0);
    for number in 0..20 {
        match accepted(&process, &format!("full/{number}")).await {
            Some(id) => ids.push(id),
            None => refused += 1,
        }
        fill(&filler);
    }
    assert!(refused > 0, "the disk was not full");
    assert!(!process.is_dead(), "{}", place.log());
    std::fs::remove_file(&filler).expect("room again");
    let since = Instant::now();
    check(Database::Sqlite, "a full disk", &place, process, &ids, since).await;
}

/// Fills a file system completely.
fn fill(path: &Path) {
    use std::io::Write;
    let mut file = std::fs::File::options().create(true).append(true).open(path).expect("a file");
    let mut piece = vec![0_u8; 1 << 16];
    while !piece.is_empty() {
        if file.write_all(&piece).is_err() {
            piece.truncate(piece.len() / 2);
        }
    }
}
