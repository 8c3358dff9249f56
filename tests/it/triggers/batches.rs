//! `debounce` and `batch`: several events start one run. The tests move stored times into the past instead of waiting.

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, execute, numbers};

both!(
    burst_of_events_starts_one_run,
    full_batch_starts_at_once_and_the_rest_at_its_time,
    objects_of_a_batch_can_be_read_and_forged_ones_cannot,
    batch_waits_for_its_pipeline_and_runs_with_its_live_definition,
);

async fn publish(app: &TestApp, name: &str, key: Option<&str>, body: &Value) -> Value {
    let mut request = app.client.post(format!("{}/v1/events/{name}", app.url)).bearer_auth(&app.admin_key);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    let response = request.json(body).send().await.unwrap();
    let status = response.status();
    let result: Value = response.json().await.unwrap();
    assert_eq!(status, 202, "{result}");
    result
}

/// Moves the time of all batches into the past.
async fn pass(app: &TestApp) {
    execute(&app.service(), "UPDATE event_batches SET due_at = 1").await;
}

async fn count(app: &TestApp, condition: &str) -> i64 {
    numbers(&app.service(), &format!("SELECT COUNT(*) FROM event_batches WHERE {condition}")).await[0]
}

async fn until_no_batches(app: &TestApp) {
    eventually("the batches to go", async || (count(app, "1 = 1").await == 0).then_some(())).await;
    assert_eq!(numbers(&app.service(), "SELECT COUNT(*) FROM event_batch_items").await, [0]);
}

const CHANGES: &str = "
name: changes
triggers:
  - { type: event, name: row.changed, debounce: 1h, with: { ids: \"${{ event.items | map(attribute='id') | list }}\" } }
params: { ids: { type: list } }
steps:
  - { id: one, uses: test.step, with: { give: \"${{ event.id }} of ${{ event.items | length }}\" } }
";

async fn burst_of_events_starts_one_run(database: Database) {
    let app = TestApp::builder(database).pipeline("changes", CHANGES).start().await;
    let listed: Value = app.get("/v1/pipelines").await.json().await.unwrap();
    let trigger = json!({ "type": "event", "name": "row.changed", "debounce": "1h", "max_wait": "10h" });
    assert_eq!(listed["pipelines"][0]["triggers"], json!([trigger]));
    let first = publish(&app, "row.changed", Some("a"), &json!({ "id": 1 })).await;
    let again = publish(&app, "row.changed", Some("a"), &json!({ "id": 1 })).await;
    for id in [2, 3] {
        let result = publish(&app, "row.changed", None, &json!({ "id": id })).await;
        assert_eq!((&result["batched"], &result["runs"]), (&first["batched"], &json!([])));
    }
    assert_eq!(again["batched"], first["batched"], "the same event joins once");
    let id = first["batched"][0].as_str().expect("a run");
    assert_eq!(app.get(&format!("/v1/runs/{id}")).await.status(), 404, "it has not started");
    // What was accepted survives, and of two processes one starts the run.
    let app = app.crash().await;
    let other = app.another().await;
    pass(&app).await;
    let run = app.until_runs(1).await.remove(0);
    assert_eq!((run.id.as_str(), run.origin.as_str()), (id, "event"));
    let shown = app.show(id).await;
    assert_eq!((&shown["params"]["ids"], &shown["event"]["id"]), (&json!([1, 2, 3]), &json!(3)), "{shown}");
    assert_eq!(shown["event"]["items"], json!([{ "id": 1 }, { "id": 2 }, { "id": 3 }]));
    assert_eq!(shown["steps"][0]["outputs"]["value"], "3 of 3");
    let late = publish(&app, "row.changed", Some("a"), &json!({ "id": 1 })).await;
    assert_eq!((&late["runs"], &late["batched"]), (&json!([id]), &json!([])), "it has started by now");
    until_no_batches(&app).await;
    app.until_runs(1).await;
    other.stop().await;
    app.finish().await;
}

async fn full_batch_starts_at_once_and_the_rest_at_its_time(database: Database) {
    let yaml = CHANGES.replace("debounce: 1h", "batch: { size: 2, within: 1h }");
    let app = TestApp::builder(database).pipeline("changes", &yaml).start().await;
    let mut runs = Vec::new();
    for id in 1..=3 {
        runs.push(publish(&app, "row.changed", None, &json!({ "id": id })).await["batched"][0].clone());
    }
    assert!(runs[0] == runs[1] && runs[1] != runs[2], "{runs:?}");
    assert_eq!(app.until_runs(1).await[0].params["ids"], json!([1, 2]));
    assert_eq!(count(&app, "closed_at IS NULL").await, 1, "the third event waits");
    pass(&app).await;
    assert_eq!(app.until_runs(2).await[1].params["ids"], json!([3]));
    // Events are bounded by their length, too.
    let large = json!({ "id": 4, "text": "x".repeat(600_000) });
    let first = publish(&app, "row.changed", None, &large).await;
    assert_eq!(publish(&app, "row.changed", None, &large).await["batched"], first["batched"]);
    app.until_runs(3).await;
    // An event at the end of its chain takes no others with it.
    let accepted = publish(&app, "row.changed", None, &json!({ "id": 5 })).await["batched"][0].clone();
    let request = app.client.post(format!("{}/v1/events/row.changed", app.url)).bearer_auth(&app.admin_key);
    let request = request.header("afterload-hops", "17").json(&json!({ "id": 6 }));
    let stopped: Value = request.send().await.unwrap().json().await.unwrap();
    pass(&app).await;
    app.until_runs(5).await;
    let accepted = app.show(accepted.as_str().unwrap()).await;
    assert_eq!((&accepted["params"]["ids"], &accepted["hops"]), (&json!([5]), &json!(0)), "{accepted}");
    let stopped = app.show(stopped["batched"][0].as_str().unwrap()).await;
    assert_eq!((&stopped["error"]["code"], &stopped["event"]["id"]), (&json!("hops_exceeded"), &json!(6)), "{stopped}");
    until_no_batches(&app).await;
    app.finish().await;
}

async fn objects_of_a_batch_can_be_read_and_forged_ones_cannot(database: Database) {
    let yaml = "
name: scans
triggers:
  - { type: s3, bucket: uploads, prefix: in/, debounce: 1h }
  - { type: event, name: forged, batch: { size: 1, within: 1h }, with: { files: \"${{ event.items | map(attribute='file') | list }}\" } }
params: { files: { type: list, items: { type: file } } }
steps:
  - id: read
    uses: file.check
    for_each: { items: \"${{ params.files }}\" }
    with: { source: \"${{ item }}\", accept: [text/csv] }
";
    let app = TestApp::builder(database).pipeline("scans", yaml).start().await;
    for key in ["in/a.csv", "in/b.csv"] {
        app.put("uploads", key, "name\nAda\n").await;
    }
    app.until_no_events().await;
    pass(&app).await;
    let run = app.until_runs(1).await.remove(0);
    let shown = app.show(&run.id).await;
    assert_eq!((&shown["status"], &shown["origin"]), (&json!("succeeded"), &json!("s3")), "{shown}");
    let items = shown["event"]["items"].as_array().expect("items");
    let keys: Vec<_> = items.iter().map(|item| item["key"].as_str().expect("a key")).collect();
    assert_eq!((keys, &shown["event"]["key"]), (vec!["in/a.csv", "in/b.csv"], &json!("in/b.csv")));
    assert_eq!(shown["params"]["files"], json!([items[0]["file"], items[1]["file"]]));
    assert!(!shown.to_string().contains("$seal"), "{shown}");
    // An event of the application cannot name a file, not even the same one.
    publish(&app, "forged", None, &json!({ "file": items[0]["file"] })).await;
    let forged = app.until_runs(2).await.remove(1);
    assert_eq!(app.show(&forged.id).await["error"]["code"], "file_not_authorized");
    until_no_batches(&app).await;
    app.finish().await;
}

async fn batch_waits_for_its_pipeline_and_runs_with_its_live_definition(database: Database) {
    let app = TestApp::builder(database).start().await;
    let db = app.app.engine.db().clone();
    let remove = async || db.definitions().update_live(&[], &["changes".into()]).await.expect("removed");
    app.publish("changes", CHANGES).await;
    publish(&app, "row.changed", None, &json!({ "id": 1, "number": 7 })).await;
    remove().await;
    pass(&app).await;
    eventually("a try", async || {
        (count(&app, "closed_at IS NOT NULL AND due_at > closed_at").await == 1).then_some(())
    })
    .await;
    assert_eq!(app.runs().await.len(), 0);
    app.publish("changes", &CHANGES.replace("attribute='id'", "attribute='number'")).await;
    pass(&app).await;
    assert_eq!(app.until_runs(1).await[0].params["ids"], json!([7]));
    until_no_batches(&app).await;
    // A pipeline that stays away for days takes its batch with it.
    publish(&app, "row.changed", None, &json!({ "id": 2 })).await;
    remove().await;
    execute(&app.service(), "UPDATE event_batches SET closed_at = 1, due_at = 1").await;
    until_no_batches(&app).await;
    let metrics = app.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("afterload_event_batches_dropped_total{pipeline=\"changes\"} 1"), "{metrics}");
    app.until_runs(1).await;
    app.finish().await;
}
