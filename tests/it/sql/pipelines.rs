//! Shipped pipelines: an order that must be accepted in time, and the deletion of an account with its events.

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually};

both!(unaccepted_order_is_rejected, order_accepted_in_time_stays, account_is_deleted_with_its_events);

async fn shipped(database: Database, pipeline: &str, rows: &str) -> TestApp {
    let read =
        |path: String| std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let yaml = read(format!("pipelines/{pipeline}.yaml"));
    let app = TestApp::builder(database).pipeline(pipeline, &yaml).start().await;
    app.sql(&read("examples/app.sql".into())).await;
    app.sql(rows).await;
    app
}

const ORDERS: &str = "INSERT INTO orders (id, customer_email, status) VALUES
    (7, 'ann@example.com', 'open'), (8, 'bob@example.com', 'open'), (9, 'eve@example.com', 'cancelled')";

/// Publishes an event and returns the run that it started, if any.
async fn publish_event(app: &TestApp, name: &str, body: Value) -> Value {
    let (status, heard) = app.post(&format!("/v1/events/{name}"), body).await;
    assert_eq!(status, 202, "{heard}");
    heard
}

async fn run_of(app: &TestApp, order: i64) -> Value {
    let reference = format!("app/orders/{order}");
    eventually("the run of an order", async || {
        let runs: Value = app.get("/v1/runs").await.json().await.expect("JSON");
        for run in runs["runs"].as_array().expect("runs") {
            let run = app.show(run["id"].as_str().expect("an id")).await;
            if run["params"]["order"] == json!(reference) {
                return Some(run);
            }
        }
        None
    })
    .await
}

async fn unaccepted_order_is_rejected(database: Database) {
    let app = shipped(database, "order-auto-reject", ORDERS).await;
    publish_event(&app, "order.placed", json!({ "order_id": 7, "accept_within": "300ms" })).await;
    let run = app.ended(&run_of(&app, 7).await).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(run["steps"][1]["outputs"]["rows_affected"], 1, "{run}");
    assert_eq!(app.numbers("SELECT COUNT(*) FROM orders WHERE id = 7 AND status = 'rejected'").await, [1]);
    let mails = app.mails();
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert!(mails[0].contains("ann@example.com") && mails[0].contains("order 7 was not accepted"), "{}", mails[0]);
    // An order that was cancelled meanwhile stays cancelled, and no mail is sent.
    publish_event(&app, "order.placed", json!({ "order_id": 9, "accept_within": "1ms" })).await;
    let run = app.ended(&run_of(&app, 9).await).await;
    assert_eq!((&run["status"], &run["steps"][2]["status"]), (&json!("succeeded"), &json!("skipped")), "{run}");
    assert_eq!(app.numbers("SELECT COUNT(*) FROM orders WHERE status = 'cancelled'").await, [1]);
    assert_eq!(app.mails().len(), 1);
    app.finish().await;
}

async fn order_accepted_in_time_stays(database: Database) {
    let app = shipped(database, "order-auto-reject", ORDERS).await;
    publish_event(&app, "order.placed", json!({ "order_id": 8 })).await;
    let run = run_of(&app, 8).await;
    app.step_is(&run, "accepted", "suspended").await;
    let asleep = app.show(run["id"].as_str().expect("an id")).await["steps"][0].clone();
    let moment = |name: &str| chrono::DateTime::parse_from_rfc3339(asleep[name].as_str().expect(name)).expect(name);
    let waits = moment("suspended_until") - moment("started_at");
    assert!((120..180).contains(&waits.num_seconds()), "two minutes: {asleep}");
    assert_eq!(publish_event(&app, "order.accepted", json!({ "order_id": 8 })).await["woken"], 1);
    let run = app.ended(&run).await;
    let statuses: Vec<&Value> = run["steps"].as_array().expect("steps").iter().map(|step| &step["status"]).collect();
    assert_eq!(statuses, ["succeeded", "skipped", "skipped"], "{run}");
    assert_eq!(app.numbers("SELECT COUNT(*) FROM orders WHERE status = 'open'").await, [2]);
    assert!(app.mails().is_empty());
    app.finish().await;
}

async fn account_is_deleted_with_its_events(database: Database) {
    let rows = "INSERT INTO accounts VALUES (1, 'a@example.com'), (2, 'b@example.com');
        INSERT INTO account_events WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 5000)
        SELECT x, 1 + x % 2, 'click' FROM c";
    let app = shipped(database, "purge-account", rows).await;
    let run = app.run_to_end("purge-account", json!({ "account": 1 })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(run["steps"][0]["outputs"]["rows_affected"], 2500, "{run}");
    assert_eq!(
        app.numbers("SELECT (SELECT COUNT(*) FROM accounts), (SELECT COUNT(*) FROM account_events), (SELECT MIN(account_id) FROM account_events)").await,
        [1, 2500, 2]
    );
    assert!(app.mails()[0].contains("its 2500 events are deleted"), "{}", app.mails()[0]);
    app.finish().await;
}
