//! The ways by which runs start, stop and are deleted, each with a crash at every failpoint. Accepted work is executed
//! once.

use reqwest::Method;
use serde_json::json;

use super::pipelines::PIPELINES;
use super::stage::Stage;
use super::{Play, fixture, sweep};
use crate::support::{Database, Moto, both};

both!(
    uploads_survive_crashes,
    polls_survive_crashes,
    schedules_and_events_survive_crashes,
    cancels_and_retries_survive_crashes,
    pauses_and_notifications_survive_crashes,
);

/// A way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Path {
    /// An object is written to the embedded store.
    Upload,
    /// A prefix of another store is polled.
    Poll,
    /// A request uploads a file, with an `Idempotency-Key`.
    Request,
    /// A tick of a schedule.
    Cron,
    /// The application publishes an event.
    Event,
    /// Two events start one run.
    Batch,
    /// A run takes longer than its `timeout`.
    Timeout,
    /// A run waits for a concurrency slot.
    Places,
    /// A step runs once per item, and joins.
    Items,
    /// A suspended run is cancelled.
    Cancel,
    /// A failed run is retried.
    Retry,
    /// A run and its files expire.
    Retention,
    /// A pipeline is paused, and resumed while it has a run.
    Pause,
    /// The file of a pipeline changes.
    Change,
    /// A download link is revoked.
    TakeBack,
    /// The end of a run is notified.
    Notify,
}

/// The imported rows.
const ROWS: &str = "id\n1\n2\n";

async fn uploads_survive_crashes(database: Database) {
    ways(database, &[Path::Upload, Path::Request, Path::Places]).await;
}

async fn polls_survive_crashes(database: Database) {
    ways(database, &[Path::Poll]).await;
}

async fn schedules_and_events_survive_crashes(database: Database) {
    ways(database, &[Path::Cron, Path::Event, Path::Batch, Path::Items]).await;
}

async fn cancels_and_retries_survive_crashes(database: Database) {
    ways(database, &[Path::Cancel, Path::Timeout, Path::Retry, Path::Retention]).await;
}

async fn pauses_and_notifications_survive_crashes(database: Database) {
    ways(database, &[Path::Pause, Path::Change, Path::TakeBack, Path::Notify]).await;
}

async fn ways(database: Database, paths: &[Path]) {
    let other = paths.contains(&Path::Poll);
    let stages = (0..super::LANES).map(async |_| {
        let store = if other { Some(Moto::start().await) } else { None };
        let is_used = |name: &str| paths.iter().any(|path| path.pipeline() == Some(name));
        let here: Vec<_> = PIPELINES.into_iter().filter(|(name, _)| is_used(name)).collect();
        Stage::beside(database, |_| false, &here, &[], store).await
    });
    let mut stages = futures::future::join_all(stages).await;
    for path in paths {
        sweep(&mut stages, &Play::Path(*path)).await;
    }
    futures::future::join_all(stages.into_iter().map(Stage::finish)).await;
}

impl Path {
    /// The pipeline of its runs, unless it writes one itself.
    fn pipeline(self) -> Option<&'static str> {
        Some(match self {
            Self::Upload => "upload",
            Self::Poll => "poll",
            Self::Request => "request",
            Self::Cron => "cron",
            Self::Event => "event",
            Self::Places => "places",
            Self::Items => "items",
            Self::Cancel => "cancel",
            Self::Retry => "retry",
            Self::Retention => "retention",
            Self::Batch => "batch",
            Self::Timeout => "timeout",
            Self::Pause | Self::Notify => "pause",
            Self::TakeBack => "link",
            Self::Change => return None,
        })
    }

    /// The maximum number of parallel external effects.
    pub fn at_once(self) -> usize {
        if matches!(self, Self::Cron | Self::Items) { 2 } else { 1 }
    }

    /// Runs this way to its end and returns its runs.
    pub async fn play(self, stage: &mut Stage, key: &str) -> Vec<String> {
        stage
            .place
            .sql("DROP TABLE IF EXISTS counted; CREATE TABLE counted (id BIGINT NOT NULL); DROP TABLE IF EXISTS late")
            .await;
        match self {
            Self::Upload => put(stage, "upload", &format!("uploads/{key}.csv")).await,
            Self::Poll => {
                let before = runs(stage, "poll").await;
                let sdk = stage.store.as_ref().expect("another store").sdk();
                let put = sdk.put_object().bucket("foreign").key(format!("in/{key}.csv")).content_type("text/csv");
                put.body(ROWS.as_bytes().to_vec().into()).send().await.expect("the object is written");
                new_runs(stage, "poll", &before, 1).await
            }
            Self::Request => request(stage, key).await,
            Self::Cron => cron(stage).await,
            Self::Event => {
                let before = runs(stage, "event").await;
                let body = json!({ "user": "ada" });
                let (status, told) = stage.ask(Method::POST, "/v1/events/user.signed_in", Some(key), Some(&body)).await;
                assert_eq!(status, 202, "{told}");
                new_runs(stage, "event", &before, 1).await
            }
            Self::Batch => batch(stage, key).await,
            Self::Timeout => time_out(stage, key).await,
            Self::Places => {
                // The first run waits for an event, which is not published before the second run exists.
                let mut ids = Vec::new();
                for number in 1..=2 {
                    ids.push(stage.start("places", &json!({}), &format!("{key}/{number}")).await);
                }
                for id in &ids {
                    assert_eq!(stage.ended(id).await["status"], "succeeded");
                }
                ids
            }
            Self::Items => {
                let to = ["ada@example.com", "bob@example.com", "eve@example.com"];
                let id = stage.start("items", &json!({ "to": to }), key).await;
                assert_eq!(stage.ended(&id).await["status"], "succeeded");
                vec![id]
            }
            Self::Cancel => cancel(stage, key).await,
            Self::Retry => {
                let params = json!({ "file": format!("s3://{}/contacts.csv", fixture::BUCKET) });
                let id = stage.start("retry", &params, key).await;
                assert_eq!(stage.ended(&id).await["status"], "failed");
                stage.place.sql("CREATE TABLE late (email TEXT NOT NULL)").await;
                retry(stage, &id).await;
                assert_eq!(stage.ended(&id).await["status"], "succeeded");
                vec![id]
            }
            Self::Retention => {
                let id = request_of(stage, "retention", key).await;
                let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
                while stage.get(&format!("/v1/runs/{id}")).await.0 != 404 {
                    assert!(std::time::Instant::now() < deadline, "the run is kept\n{}", stage.log());
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
                // The file is deleted with its run, but the files of the fixture stay.
                let s3 = stage.place.s3();
                let left = s3.list_objects_v2().bucket("artifacts").prefix(format!("uploads/{id}/")).send().await;
                assert_eq!(left.map_or(0, |left| left.contents().len()), 0, "a file is left without its run");
                Vec::new()
            }
            Self::Pause => {
                done(stage, "/v1/pipelines/pause/pause").await;
                let id = stage.start("pause", &json!({}), key).await;
                done(stage, "/v1/pipelines/pause/resume").await;
                assert_eq!(stage.ended(&id).await["status"], "succeeded");
                vec![id]
            }
            Self::Change => change(stage, key).await,
            Self::TakeBack => take_back(stage, key).await,
            Self::Notify => notify_of_end(stage, key).await,
        }
    }
}

/// Cancels a suspended run.
async fn cancel(stage: &mut Stage, key: &str) -> Vec<String> {
    let id = stage.start("cancel", &json!({}), key).await;
    wait_until_suspended(stage, &id).await;
    let (status, run) = stage.ask(Method::POST, &format!("/v1/runs/{id}/cancel"), None, Some(&json!({}))).await;
    assert!(status == 200 || status == 202, "{status} {run}");
    assert_eq!(stage.ended(&id).await["status"], "cancelled");
    vec![id]
}

/// Publishes as many events as make a batch full.
async fn batch(stage: &mut Stage, key: &str) -> Vec<String> {
    let before = runs(stage, "batch").await;
    for number in 1..=2 {
        let (event_key, body) = (format!("{key}/{number}"), json!({ "row": number }));
        let (status, told) = stage.ask(Method::POST, "/v1/events/row.changed", Some(&event_key), Some(&body)).await;
        assert_eq!(status, 202, "{told}");
    }
    new_runs(stage, "batch", &before, 1).await
}

/// Moves the deadline of a suspended run into the past.
async fn time_out(stage: &mut Stage, key: &str) -> Vec<String> {
    let id = stage.start("timeout", &json!({}), key).await;
    wait_until_suspended(stage, &id).await;
    let sql = format!("UPDATE runs SET deadline_at = 1, deadline_check_at = 1 WHERE id = '{id}'");
    crate::support::execute(&stage.place.service_url(), &sql).await;
    let run = stage.ended(&id).await;
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("run_timed_out")), "{run}");
    vec![id]
}

/// Sends a request that may be repeated.
async fn done(stage: &mut Stage, path: &str) {
    let (status, answer) = stage.ask(Method::POST, path, None, Some(&json!({}))).await;
    assert_eq!(status, 200, "{path}: {answer}");
}

/// Writes a new version of a pipeline file and runs it.
async fn change(stage: &mut Stage, key: &str) -> Vec<String> {
    let mail = "{ to: ops@example.com, subject: changed, body: hello }";
    let steps = format!("steps:\n  - {{ id: mail, uses: email.send, with: {mail} }}\n");
    stage.place.pipeline("changing", &format!("name: changing\ndescription: {key}\n{steps}"));
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while stage.get("/v1/pipelines/changing").await.1["description"] != key {
        assert!(std::time::Instant::now() < deadline, "the change is not live\n{}", stage.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let id = stage.start("changing", &json!({}), key).await;
    assert_eq!(stage.ended(&id).await["status"], "succeeded");
    vec![id]
}

/// Runs a pipeline that mails a link, and revokes the link.
async fn take_back(stage: &mut Stage, key: &str) -> Vec<String> {
    let id = stage.start("link", &json!({}), key).await;
    let run = stage.ended(&id).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let links = format!("/v1/artifacts/{}/links", run["artifacts"][0]["id"].as_str().expect("a file"));
    let (_, before) = stage.get(&links).await;
    assert_eq!(before["links"][0]["revoked_at"], json!(null), "{before}");
    done(stage, &format!("/v1/links/{}/revoke", before["links"][0]["id"].as_str().expect("a link"))).await;
    let (_, after) = stage.get(&links).await;
    assert!(after["links"][0]["revoked_at"].is_string(), "{after}");
    vec![id]
}

/// Runs a pipeline with a notification of its end.
async fn notify_of_end(stage: &mut Stage, key: &str) -> Vec<String> {
    let body = json!({ "params": {}, "notify_url": stage.notification_url() });
    let (status, run) = stage.ask(Method::POST, "/v1/pipelines/pause/runs", Some(key), Some(&body)).await;
    assert_eq!(status, 202, "{run}");
    let id = run["id"].as_str().expect("an id").to_owned();
    stage.ended(&id).await;
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(90);
    while stage.get(&format!("/v1/runs/{id}")).await.1["notification"]["status"] != "sent" {
        assert!(std::time::Instant::now() < deadline, "nobody is notified\n{}", stage.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    vec![id]
}

/// Lists the runs of a pipeline.
async fn runs(stage: &mut Stage, pipeline: &str) -> Vec<String> {
    let (_, page) = stage.get(&format!("/v1/runs?pipeline={pipeline}&limit=100")).await;
    let runs = page["runs"].as_array().unwrap_or_else(|| panic!("{page}"));
    runs.iter().map(|run| run["id"].as_str().expect("an id").to_owned()).collect()
}

/// Waits for the ends of this many new runs of a pipeline, and fails if there are more.
async fn new_runs(stage: &mut Stage, pipeline: &str, before: &[String], count: usize) -> Vec<String> {
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
    loop {
        stage.revive().await;
        let new: Vec<_> = runs(stage, pipeline).await.into_iter().filter(|id| !before.contains(id)).collect();
        assert!(new.len() <= count, "{} runs, more than {count}\n{}", new.len(), stage.log());
        if new.len() == count {
            for id in &new {
                stage.ended(id).await;
            }
            return new;
        }
        assert!(std::time::Instant::now() < deadline, "no run came\n{}", stage.log());
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

/// Writes an object, and repeats the request until the store confirms it. Each write of an object starts a run, so a repeated
/// one is conditional: it must not write again what a crash has kept from being confirmed.
async fn put(stage: &mut Stage, pipeline: &str, key: &str) -> Vec<String> {
    let before = runs(stage, pipeline).await;
    let mut tries = 0;
    loop {
        // Each process serves the store at its own address.
        let put = stage.place.s3().put_object().bucket("incoming").key(key).content_type("text/csv");
        let put = put.if_none_match("*");
        match put.body(ROWS.as_bytes().to_vec().into()).send().await {
            Ok(_) => break,
            Err(error) if error.raw_response().is_some_and(|response| response.status().as_u16() == 412) => {
                assert!(tries > 0, "an object with the key `{key}` was there before");
                break;
            }
            Err(error) => assert!(tries < 200, "{error:?}\n{}", stage.log()),
        }
        tries += 1;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        stage.revive().await;
    }
    new_runs(stage, pipeline, &before, 1).await
}

async fn request(stage: &mut Stage, key: &str) -> Vec<String> {
    let before = runs(stage, "request").await;
    let id = request_of(stage, "request", key).await;
    let new = new_runs(stage, "request", &before, 1).await;
    assert_eq!(new, [id]);
    new
}

/// Starts a run with a file in the request, and repeats it with the same key until there is a response.
async fn request_of(stage: &mut Stage, pipeline: &str, key: &str) -> String {
    let (status, run) = stage.send_file(&format!("/v1/pipelines/{pipeline}/runs"), key, ROWS).await;
    assert_eq!(status, 202, "{run}");
    run["id"].as_str().expect("an id").to_owned()
}

/// Moves the schedule back by two years and a day. Each missed tick gets a run.
async fn cron(stage: &mut Stage) -> Vec<String> {
    use chrono::Datelike;
    let before = runs(stage, "cron").await;
    let now = chrono::Utc::now();
    let back = now - chrono::Duration::days(731);
    // The ticks are the same each time, so the dedup keys of earlier runs must go.
    let reached = back.timestamp_millis();
    let sql = format!("DELETE FROM dedup_keys WHERE source = 'cron'; UPDATE schedules SET cursor = {reached}");
    crate::support::execute(&stage.place.service_url(), &sql).await;
    new_runs(stage, "cron", &before, usize::try_from(now.year() - back.year()).expect("years")).await
}

async fn wait_until_suspended(stage: &mut Stage, id: &str) {
    for _ in 0..1000 {
        let (_, run) = stage.get(&format!("/v1/runs/{id}")).await;
        if run["steps"][0]["status"] == "suspended" {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        stage.revive().await;
    }
    panic!("the step does not sleep\n{}", stage.log());
}

/// Requests a retry until it is accepted. A run that is already active again cannot be retried.
async fn retry(stage: &mut Stage, id: &str) {
    let (status, answer) = stage.ask(Method::POST, &format!("/v1/runs/{id}/retry"), None, Some(&json!({}))).await;
    let goes_on = ["run_not_ended", "run_succeeded"].iter().any(|code| answer["code"] == **code);
    assert!(status == 200 || status == 202 || goes_on && stage.deaths > 0, "{status} {answer}");
}
