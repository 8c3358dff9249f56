//! Figures 3 and 4: a lease holds while its step runs, and a stale attempt writes nothing.

use std::time::Duration;

use afterload::config::SmtpTls;
use serde_json::{Value, json};

use super::{at_most, figure, lease, size};
use crate::smtp;
use crate::support::{Database, Place, PollPauses, Process, both, eventually};
use crate::sweep::seen;

both!(figure_3_and_4_leases_hold_and_stale_attempts_write_nothing);

/// Runs both figures at once, because most of the time is waiting for leases.
async fn figure_3_and_4_leases_hold_and_stale_attempts_write_nothing(database: Database) {
    tokio::join!(figure_3_long_steps_run_once(database), figure_4_a_stale_attempt_writes_nothing(database));
}

/// A mail whose server answers late, and a row in a table without a key.
const PIPELINE: &str = "name: slow\nparams: { to: { type: email }, file: { type: file } }\nsteps:\n  \
    - { id: mail, uses: email.send, with: { to: \"${{ params.to }}\", subject: hello, body: hello } }\n  \
    - { id: count, uses: csv.import, with: { source: \"${{ params.file }}\", into: { table: counted }, columns: { id: { type: integer } } } }\n";

/// Creates a place whose processes run this many steps at once.
async fn place(database: Database, mail: &smtp::Server, at_once: usize) -> Place {
    let mut place = Place::new(database).await;
    for (name, value) in [
        ("MAIL__SMTP__HOST", "localhost".to_owned()),
        ("MAIL__SMTP__PORT", mail.config().effective_port().to_string()),
        ("MAIL__SMTP__TLS", "none".to_owned()),
        ("MAIL__SMTP__TIMEOUT", "200s".to_owned()),
        ("MAIL__SMTP__CONNECTIONS", at_once.to_string()),
        ("QUEUES__DEFAULT__CONCURRENCY", at_once.to_string()),
        ("LIMITS__LEASE", format!("{}s", lease())),
    ] {
        place.set(name, value);
    }
    place.pipeline("slow", PIPELINE);
    place.sql("CREATE TABLE counted (id BIGINT NOT NULL)").await;
    place
}

/// Starts a run per recipient.
async fn start(place: &Place, process: &Process, recipients: &[String]) -> Vec<String> {
    let s3 = place.s3();
    drop(s3.create_bucket().bucket("incoming").send().await);
    s3.put_object()
        .bucket("incoming")
        .key("one.csv")
        .body(b"id\n1\n".to_vec().into())
        .send()
        .await
        .expect("it is written");
    let mut ids = Vec::new();
    for recipient in recipients {
        let params = json!({ "to": format!("{recipient}@example.com"), "file": "s3://incoming/one.csv" });
        let run = process.start_run("slow", params).await;
        ids.push(run["id"].as_str().unwrap_or_else(|| panic!("{run}")).to_owned());
    }
    ids
}

/// Waits until all runs satisfy `looks`.
async fn until(process: &Process, ids: &[String], what: &str, looks: impl Fn(&Value) -> bool) -> Vec<Value> {
    let deadline = std::time::Instant::now() + Duration::from_secs(240);
    let (mut runs, mut pauses) = (Vec::new(), PollPauses::default());
    for id in ids {
        loop {
            let run = process.show(id).await;
            if looks(&run) {
                runs.push(run);
                break;
            }
            assert!(std::time::Instant::now() < deadline, "waited too long: {what}: {run}");
            pauses.pause().await;
        }
    }
    runs
}

fn succeeded(runs: &[Value]) -> usize {
    runs.iter().filter(|run| run["status"] == "succeeded").count()
}

async fn figure_3_long_steps_run_once(database: Database) {
    let (steps, leases) = (size(10, 100), size(2, 5));
    let mail = smtp::Server::start(SmtpTls::None);
    // Both workers must take part.
    let place = place(database, &mail, steps / 2).await;
    let (one, two) = (place.start().await, place.start().await);
    let ids = start(&place, &one, &vec![format!("slow{}", leases * lease()); steps]).await;
    let runs = until(&one, &ids, "the end of long steps", |run| !run["finished_at"].is_null()).await;
    let taken = mail.mails();
    let rows = place.numbers("SELECT COUNT(*) FROM counted").await[0] as usize;
    let what =
        format!("{steps} steps of {leases} leases on two workers: succeeded, executions, rows of the steps after");
    figure("3", database, &what, &[steps; 3], &[succeeded(&runs), taken.len(), rows]);
    for process in [one, two] {
        assert!(process.terminate().await.success());
    }
}

/// A process that is stopped while it holds SQLite's lock keeps the lock. So stop it again a moment later.
async fn stop_outside_of_transactions(place: &Place, process: &Process) {
    eventually("a moment without a transaction", async || {
        process.signal("STOP");
        if place.is_unlocked().await {
            return Some(());
        }
        process.signal("CONT");
        None
    })
    .await;
}

async fn figure_4_a_stale_attempt_writes_nothing(database: Database) {
    let (stops, steps) = (size(1, 10), size(2, 5));
    let rounds = stops * steps;
    let mail = smtp::Server::start(SmtpTls::None);
    let (mut rejected, mut ended) = (0, 0);
    let place = place(database, &mail, steps).await;
    for stop in 0..stops {
        let stale = place.start().await;
        let sent = mail.mail_count() + steps;
        // The next process runs these steps one after another, as it must after a possible crash.
        let recipients: Vec<_> = (0..steps).map(|step| format!("once{}.{stop}.{step}", lease())).collect();
        let ids = start(&place, &stale, &recipients).await;
        // The mail server has the mails, but has not confirmed them yet.
        eventually("steps at work", async || (mail.mail_count() >= sent).then_some(())).await;
        stop_outside_of_transactions(&place, &stale).await;
        let other = place.start().await;
        // The next process sends each mail once more.
        eventually("another process to take over", async || (mail.mail_count() >= sent + steps).then_some(())).await;
        let before = lost_leases(&place);
        stale.signal("CONT");
        eventually("the end of stale attempts", async || (lost_leases(&place) >= before + steps).then_some(())).await;
        rejected += lost_leases(&place) - before;
        let runs = until(&other, &ids, "the end of the runs", |run| !run["finished_at"].is_null()).await;
        ended += succeeded(&runs);
        for process in [stale, other] {
            assert!(process.terminate().await.success());
        }
    }
    let rows = place.numbers("SELECT COUNT(*) FROM counted").await[0] as usize;
    let what = format!(
        "{rounds} attempts paused past their lease: ends rejected, runs that succeeded, rows of the steps after"
    );
    figure("4", database, &what, &[rounds; 3], &[rejected, ended, rows]);
    let done = seen::mails(&mail.mails());
    figure("4", database, "mails with a Message-ID of their own", &rounds, &done.things.len());
    at_most("4", database, "further copies of them", rounds, done.again);
}

/// Counts the attempts that logged a lost lease.
fn lost_leases(place: &Place) -> usize {
    place.log().matches("lease was lost; nothing of this attempt was kept").count()
}
