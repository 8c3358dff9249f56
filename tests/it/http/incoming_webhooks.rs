//! Events that arrive as signed Standard Webhooks, without an API key.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use afterload::config::Secret;
use afterload_core::clock::Clock;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, python};

both!(webhook_publishes_one_event_and_a_forged_one_none, notification_of_a_run_can_start_another_run);

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
const OTHER: &str = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// The reference implementation of the standard, as senders of webhooks use it.
const SIGN: &str = "
import json, sys
from datetime import datetime, timezone
from standardwebhooks import Webhook
given = json.load(sys.stdin)
time = datetime.fromtimestamp(given['timestamp'], timezone.utc)
print(Webhook(given['secret']).sign(given['id'], time, given['body']))
";

const PAID: &str = r#"
name: paid
triggers: [{ type: event, name: order.paid, with: { order: "${{ event.data.order }}" } }]
params: { order: { type: integer } }
steps: [{ id: one, uses: test.step, with: { give: "${{ params.order }}" } }]
"#;

/// A webhook to send.
#[derive(Clone)]
struct Webhook {
    event: &'static str,
    id: &'static str,
    timestamp: i64,
    body: &'static str,
    signature: String,
}

impl Webhook {
    fn signed(secret: &str, id: &'static str, timestamp: i64, body: &'static str) -> Self {
        let mut child = Command::new(python())
            .args(["-c", SIGN])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("Python starts");
        let given = json!({ "secret": secret, "id": id, "timestamp": timestamp, "body": body });
        child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let signature = String::from_utf8(output.stdout).unwrap().trim().to_owned();
        Self { event: "order.paid", id, timestamp, body, signature }
    }

    async fn send(&self, app: &TestApp) -> (u16, Value) {
        let request = app.client.post(format!("{}/v1/events/{}", app.url, self.event));
        let request = request.header("webhook-id", self.id).header("webhook-timestamp", self.timestamp);
        let request = request.header("webhook-signature", &self.signature).body(self.body);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }
}

async fn runs(app: &TestApp) -> usize {
    let page: Value = app.get("/v1/runs").await.json().await.expect("JSON");
    page["runs"].as_array().expect("runs").len()
}

async fn webhook_publishes_one_event_and_a_forged_one_none(database: Database) {
    let events = BTreeMap::from([("order.paid".to_owned(), Secret::new(SECRET))]);
    let app = TestApp::builder(database).pipeline("paid", PAID).config(|config| config.webhooks.events = events);
    let app = app.start().await;
    let (now, body) = (Clock::system().now() / 1000, r#"{"type": "order.paid", "data": {"order": 7}}"#);
    let good = Webhook::signed(SECRET, "msg_1", now, body);

    let unsigned = app.client.post(format!("{}/v1/events/order.paid", app.url)).body(body).send().await.unwrap();
    let (status, problem): (_, Value) = (unsigned.status().as_u16(), unsigned.json().await.unwrap());
    assert_eq!((status, &problem["code"]), (401, &json!("key_missing")));
    let changed = |change: &dyn Fn(&mut Webhook)| {
        let mut webhook = good.clone();
        change(&mut webhook);
        webhook
    };
    for (what, webhook) in [
        ("another body", changed(&|webhook| webhook.body = r#"{"data": {"order": 8}}"#)),
        ("another id", changed(&|webhook| webhook.id = "msg_2")),
        ("another time", changed(&|webhook| webhook.timestamp += 1)),
        ("another event", changed(&|webhook| webhook.event = "order.lost")),
        ("no id", Webhook::signed(SECRET, "", now, body)),
        ("another secret", Webhook::signed(OTHER, "msg_1", now, body)),
        ("another version", changed(&|webhook| webhook.signature = webhook.signature.replace("v1,", "v2,"))),
        ("a part", changed(&|webhook| drop(webhook.signature.split_off(20)))),
        ("nothing", changed(&|webhook| webhook.signature = "v1,".into())),
        ("no Base64", changed(&|webhook| webhook.signature = "v1,?".into())),
    ] {
        let (status, problem) = webhook.send(&app).await;
        assert_eq!((status, &problem["code"]), (401, &json!("webhook_invalid")), "{what}: {problem}");
    }
    for time in [now - 400, now + 400] {
        let (status, problem) = Webhook::signed(SECRET, "msg_1", time, body).send(&app).await;
        assert_eq!((status, &problem["code"]), (401, &json!("webhook_expired")), "{problem}");
    }
    assert_eq!(runs(&app).await, 0);

    // While a sender rotates its secret, it signs with the old and the new one.
    let mut changing = Webhook::signed(OTHER, "msg_1", now, body);
    changing.signature = format!("{} {}", changing.signature, good.signature);
    let later = Webhook::signed(SECRET, "msg_1", now + 1, body);
    let mut started = Vec::new();
    for webhook in [&good, &good, &changing, &later] {
        let (status, heard) = webhook.send(&app).await;
        assert_eq!(status, 200, "{heard}");
        started.push(heard["runs"].clone());
    }
    started.dedup();
    assert_eq!((started.len(), runs(&app).await), (1, 1), "sent again, it is the same event");
    let run = app.ended(&json!({ "id": started[0][0] })).await;
    assert_eq!(run["steps"][0]["outputs"]["value"], 7, "{run}");
    // Another event under the same id is a mistake of the sender.
    let other = Webhook::signed(SECRET, "msg_1", now, r#"{"type": "order.paid", "data": {"order": 8}}"#);
    let (status, problem) = other.send(&app).await;
    assert_eq!((status, &problem["code"]), (422, &json!("idempotency_key_reused")), "{problem}");
    assert_eq!(runs(&app).await, 1);
    // An API key is not a webhook secret, whatever its name.
    let request = app.client.post(format!("{}/v1/events/order.paid", app.url)).bearer_auth(&app.admin_key);
    let request = request.header("idempotency-key", "msg_1").body(body);
    let heard: Value = request.send().await.unwrap().json().await.unwrap();
    app.ended(&json!({ "id": heard["runs"][0] })).await;
    assert_eq!(runs(&app).await, 2);
    app.finish().await;
}

async fn notification_of_a_run_can_start_another_run(database: Database) {
    let first = "name: first\nsteps: [{ id: one, uses: test.step, with: { give: 1 } }]\n";
    let second = r#"
name: second
triggers: [{ type: event, name: run.over, with: { run: "${{ event.data.id }}" } }]
params: { run: { type: string } }
steps: [{ id: one, uses: test.step, with: { give: "${{ params.run }} ${{ event.type }}" } }]
"#;
    let app = TestApp::builder(database).pipeline("first", first).pipeline("second", second).config(|config| {
        config.http.allow = vec!["127.0.0.1".into()];
        config.webhooks.secret = Some(Secret::new(SECRET));
        config.webhooks.events = BTreeMap::from([("run.over".to_owned(), Secret::new(SECRET))]);
    });
    let app = app.start().await;
    let url = format!("{}/v1/events/run.over", app.url);
    let (status, run) = app.post("/v1/pipelines/first/runs", json!({ "notify_url": url })).await;
    assert_eq!(status, 202, "{run}");
    let page = eventually("the second run", async || {
        let page: Value = app.get("/v1/runs?pipeline=second&status=succeeded").await.json().await.unwrap();
        (!page["runs"][0].is_null()).then_some(page)
    })
    .await;
    let second = app.show(page["runs"][0]["id"].as_str().expect("an id")).await;
    let expected = format!("{} run.succeeded", run["id"].as_str().unwrap());
    assert_eq!(second["steps"][0]["outputs"]["value"], json!(expected), "{second}");
    app.finish().await;
}
