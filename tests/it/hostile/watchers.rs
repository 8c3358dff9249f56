//! Many watchers of runs: they share what is read, their number is limited, and their rights end.

use std::time::Duration;

use afterload_core::units::HumanDuration;
use afterload_server::api::create_api_key;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually};

both!(
    views_of_keys_and_tokens_stay_apart,
    number_of_watchers_is_limited,
    event_stream_ends_with_its_key,
    many_watchers_see_the_end,
);

const RECHECK: HumanDuration = HumanDuration(Duration::from_millis(50));

/// A run that waits for the file `gate` and has made a file before.
async fn gated(database: Database, change: impl FnOnce(&mut afterload::config::Config)) -> (TestApp, Value) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!(
        "name: p\nsteps:\n  - {{ id: one, uses: test.step, with: {{ file: a.txt }} }}\n  \
         - {{ id: two, uses: test.step, with: {{ until: {} }} }}\n",
        gate.display()
    );
    let app = builder.pipeline("p", &yaml).config(change).start().await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "two", "running").await;
    (app, run)
}

fn open_gate(app: &TestApp) {
    std::fs::write(app.dir.path().join("gate"), "").unwrap();
}

fn events_path(run: &Value) -> String {
    format!("/v1/runs/{}/events", run["id"].as_str().unwrap())
}

async fn follow_by_token(app: &TestApp, run: &Value) -> reqwest::Response {
    let watch = run["watch_url"].as_str().unwrap();
    app.client.get(watch).header("accept", "text/event-stream").send().await.unwrap()
}

/// The runs of a stream that has ended.
async fn runs_of(response: reqwest::Response) -> Vec<Value> {
    let text = response.text().await.unwrap();
    let blocks = text.split("\n\n").filter(|block| block.starts_with("id: "));
    blocks.map(|block| serde_json::from_str(block.split_once("data: ").unwrap().1).unwrap()).collect()
}

async fn views_of_keys_and_tokens_stay_apart(database: Database) {
    let (app, run) = gated(database, |_| {}).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push((false, app.get(&events_path(&run)).await));
        streams.push((true, follow_by_token(&app, &run).await));
    }
    open_gate(&app);
    for (by_token, stream) in streams {
        let runs = runs_of(stream).await;
        assert!(!runs.is_empty());
        for run in runs {
            let url = run["artifacts"][0]["url"].as_str().unwrap();
            assert_eq!(url.contains("?token="), by_token, "{url}");
        }
    }
    app.finish().await;
}

async fn number_of_watchers_is_limited(database: Database) {
    let (app, run) = gated(database, |config| {
        (config.limits.watchers.per_run, config.limits.watchers.total) = (2, 4);
    })
    .await;
    let other = app.run("p", json!({})).await;
    let refusal = async |response: reqwest::Response| {
        let (status, wait) = (response.status().as_u16(), response.headers().get("retry-after").cloned());
        let problem: Value = response.json().await.unwrap();
        (status, problem["code"].as_str().unwrap().to_owned(), wait.unwrap())
    };
    let first = app.get(&events_path(&run)).await;
    let second = follow_by_token(&app, &run).await;
    assert!(first.status() == 200 && second.status() == 200);
    let (status, code, wait) = refusal(app.get(&events_path(&run)).await).await;
    assert_eq!((status, &*code, wait.to_str().unwrap()), (429, "too_many_run_watchers", "5"));
    let (third, fourth) = (app.get(&events_path(&other)).await, app.get(&events_path(&other)).await);
    assert!(third.status() == 200 && fourth.status() == 200);
    // A request that would wait answers at once instead: its run exists.
    let url = format!("{}/v1/pipelines/p/runs", app.url);
    let waiting = app.client.post(url).bearer_auth(&app.admin_key).header("prefer", "wait=60").send().await.unwrap();
    assert_eq!(waiting.status(), 202);
    let waiting: Value = waiting.json().await.unwrap();
    let (status, code, wait) = refusal(follow_by_token(&app, &waiting).await).await;
    assert_eq!((status, &*code, wait.to_str().unwrap()), (503, "too_many_watchers", "5"));
    drop(first);
    eventually("room for a watcher", async || (app.get(&events_path(&run)).await.status() == 200).then_some(())).await;
    drop((second, third, fourth));
    open_gate(&app);
    for run in [&run, &other, &waiting] {
        app.ended(run).await;
    }
    app.finish().await;
}

async fn event_stream_ends_with_its_key(database: Database) {
    let (app, run) = gated(database, |config| config.limits.watchers.recheck = RECHECK).await;
    let (stored, key) = create_api_key("page", &["runs:read:p".into()], &[], 0).unwrap();
    let keys = app.app.engine.db();
    keys.api_keys().insert(&stored).await.unwrap();
    let url = format!("{}{}", app.url, events_path(&run));
    let stream = app.client.get(&url).bearer_auth(&key).send().await.unwrap();
    assert_eq!(stream.status(), 200);
    let lasting = app.get(&events_path(&run)).await;
    keys.api_keys().delete(&stored.id).await.unwrap();
    let seen = tokio::time::timeout(Duration::from_secs(120), stream.text()).await.expect("the stream ends").unwrap();
    assert!(seen.contains("data: ") && !seen.contains("event: end"), "the run goes on: {seen}");
    assert_eq!(app.client.get(&url).bearer_auth(&key).send().await.unwrap().status(), 401);
    open_gate(&app);
    assert!(lasting.text().await.unwrap().contains("event: end"), "other keys go on");
    app.finish().await;
}

async fn many_watchers_see_the_end(database: Database) {
    let (app, run) = gated(database, |_| {}).await;
    let path = events_path(&run);
    let streams = futures::future::join_all((0..50).map(|_| app.get(&path))).await;
    open_gate(&app);
    let seen = futures::future::join_all(streams.into_iter().map(runs_of)).await;
    for runs in seen {
        let revisions: Vec<_> = runs.iter().map(|run| run["revision"].as_i64().unwrap()).collect();
        assert!(revisions.is_sorted_by(|one, next| one < next), "{revisions:?}");
        assert_eq!(runs.last().unwrap()["status"], "succeeded");
    }
    app.finish().await;
}
