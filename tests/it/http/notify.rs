//! Notifications at the end of runs.

use std::time::Duration;

use afterload_core::clock::Clock;
use afterload_state::{Db, DefinitionRecord, NotificationStatus, RunDeadlines, RunStatus};
use serde_json::{Value, json};

use super::receiver::{Receiver, respond_with};
use super::{secret, verify};
use crate::support::{Database, Server, TestApp, both, eventually, execute};

both!(
    end_of_run_is_notified_if_requested,
    failed_notification_is_retried_with_the_same_id,
    retried_run_sends_a_second_notification,
    blocked_notification_url_fails_at_once,
    hanging_receiver_delays_no_other_notification,
    runs_that_never_start_are_notified,
    notification_has_one_claim_and_survives_its_loss,
);

const PIPELINE: &str = r#"
name: p
params: { refuse: { type: string, default: "" }, file: { type: string, default: "" } }
steps:
  - { id: hold, uses: test.step, if: "params.refuse == 'hold'", with: { wait: true } }
  - { id: work, uses: test.step, if: "params.file != ''", with: { needs_file: "${{ params.file }}" } }
"#;

async fn app(database: Database) -> TestApp {
    let app = TestApp::builder(database).pipeline("p", PIPELINE);
    app.config(|config| config.http.allow = vec!["127.0.0.1".into()]).start().await
}

async fn start(app: &TestApp, params: Value, url: &str) -> Value {
    let (status, run) = app.post("/v1/pipelines/p/runs", json!({ "params": params, "notify_url": url })).await;
    assert_eq!(status, 202, "{run}");
    run
}

/// Waits until the notification of a run has this status, and returns the run.
async fn notified_run(app: &TestApp, run: &Value, status: &str) -> Value {
    let id = run["id"].as_str().unwrap();
    eventually("a notification", async || {
        let run = app.show(id).await;
        (run["notification"]["status"] == status).then_some(run)
    })
    .await
}

async fn end_of_run_is_notified_if_requested(database: Database) {
    let server = Receiver::start(|_| respond_with(204, &[], "")).await;
    let (app, url) = (app(database).await, format!("{}/hook?token=canary", server.url));
    let secret = secret(&app);
    let held = start(&app, json!({ "refuse": "hold" }), &url).await;
    app.step_is(&held, "hold", "running").await;
    let waiting = &app.show(held["id"].as_str().unwrap()).await["notification"];
    assert_eq!(
        (&waiting["status"], &waiting["attempts"], &waiting["next_at"]),
        (&json!("waiting"), &json!(0), &Value::Null)
    );
    assert_eq!(waiting["url"], json!(server.url), "path and query may be a secret");
    app.post(&format!("/v1/runs/{}/cancel", held["id"].as_str().unwrap()), json!({})).await;
    notified_run(&app, &held, "sent").await;
    let good = start(&app, json!({}), &url).await;
    let good = notified_run(&app, &good, "sent").await;
    let bad = start(&app, json!({ "file": "/nowhere" }), &url).await;
    notified_run(&app, &bad, "sent").await;
    let calls = server.calls();
    let kinds: Vec<_> = calls.iter().map(|call| serde_json::from_str::<Value>(&call.body).unwrap()).collect();
    let types: Vec<_> = kinds.iter().map(|body| body["type"].as_str().unwrap()).collect();
    assert_eq!(types, ["run.cancelled", "run.succeeded", "run.failed"]);
    for call in &calls {
        verify(&secret, call);
        assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/hook?token=canary"));
        assert_eq!(call.headers["content-type"], "application/json");
        assert!(!call.body.contains("canary"), "{}", call.body);
    }
    // The body equals the API's response, except for the state of the notification.
    let (mut shown, mut sent) = (good.clone(), kinds[1]["data"].clone());
    assert_eq!((&sent["notification"]["status"], &sent["finished_at"]), (&json!("pending"), &kinds[1]["timestamp"]));
    (shown["notification"], sent["notification"]) = (Value::Null, Value::Null);
    assert_eq!(shown, sent);
    let notification = &good["notification"];
    assert_eq!(
        (&notification["attempts"], &notification["error"], &notification["next_at"]),
        (&json!(1), &Value::Null, &Value::Null)
    );
    // `notify_url` in the query beside a form, and a run without it.
    let form = reqwest::multipart::Form::new().text("file", "");
    let request = app.client.post(format!("{}/v1/pipelines/p/runs", app.url)).query(&[("notify_url", &url)]);
    let run: Value = request.bearer_auth(&app.admin_key).multipart(form).send().await.unwrap().json().await.unwrap();
    notified_run(&app, &run, "sent").await;
    let quiet = app.run_to_end("p", json!({})).await;
    assert_eq!((&quiet["notification"], server.calls().len()), (&Value::Null, 4));
    app.finish().await;
}

async fn failed_notification_is_retried_with_the_same_id(database: Database) {
    let server = Receiver::start(|call| match call.before {
        0 => respond_with(503, &[("retry-after", "1")], "canary"),
        1 => respond_with(302, &[("location", "/elsewhere")], ""),
        _ => respond_with(200, &[], ""),
    })
    .await;
    let app = app(database).await;
    let run = start(&app, json!({}), &server.url).await;
    let pending = eventually("a failed attempt", async || {
        let run = app.show(run["id"].as_str().unwrap()).await;
        (!run["notification"]["error"].is_null()).then_some(run)
    })
    .await;
    let error = &pending["notification"]["error"];
    assert!(["http_server_error", "http_unexpected_status"].contains(&error["code"].as_str().unwrap()), "{pending}");
    assert!(!error.to_string().contains("canary"), "{pending}");
    let run = notified_run(&app, &run, "sent").await;
    assert_eq!((&run["notification"]["attempts"], &run["notification"]["error"]), (&json!(3), &Value::Null), "{run}");
    let (calls, secret) = (server.calls(), secret(&app));
    assert_eq!(calls.len(), 3, "a webhook follows no redirect: {calls:?}");
    for call in &calls {
        verify(&secret, call);
        assert_eq!(call.headers["webhook-id"], calls[0].headers["webhook-id"]);
    }
    app.finish().await;
}

async fn retried_run_sends_a_second_notification(database: Database) {
    let server = Receiver::start(|_| respond_with(200, &[], "")).await;
    let app = app(database).await;
    let path = app.dir.path().join("there");
    let run = start(&app, json!({ "file": path }), &server.url).await;
    notified_run(&app, &run, "sent").await;
    std::fs::write(path, "").unwrap();
    let (status, again) = app.post(&format!("/v1/runs/{}/retry", run["id"].as_str().unwrap()), json!({})).await;
    assert!((200..300).contains(&status), "{again}");
    eventually("the second message", async || (server.calls().len() == 2).then_some(())).await;
    let run = notified_run(&app, &run, "sent").await;
    let calls = server.calls();
    let types: Vec<_> =
        calls.iter().map(|call| serde_json::from_str::<Value>(&call.body).unwrap()["type"].clone()).collect();
    assert_eq!((types, &run["status"]), (vec![json!("run.failed"), json!("run.succeeded")], &json!("succeeded")));
    assert_ne!(calls[0].headers["webhook-id"], calls[1].headers["webhook-id"]);
    app.finish().await;
}

async fn blocked_notification_url_fails_at_once(database: Database) {
    let server = Receiver::start(|_| respond_with(200, &[], "")).await;
    let app = TestApp::builder(database).pipeline("p", PIPELINE).start().await;
    let run = start(&app, json!({}), &format!("http://localhost:{}/canary", server.port)).await;
    let run = notified_run(&app, &run, "failed").await;
    let (notification, error) = (&run["notification"], &run["notification"]["error"]);
    assert_eq!(
        (&notification["attempts"], &error["code"], &run["status"]),
        (&json!(1), &json!("egress_blocked"), &json!("succeeded"))
    );
    assert!(server.calls().is_empty() && !error.to_string().contains("canary"), "{run}");
    for url in ["canary", "ftp://a.example/", "http://user:canary@a.example/", "http://", ""] {
        let (status, problem) = app.post("/v1/pipelines/p/runs", json!({ "notify_url": url })).await;
        assert_eq!((status, &problem["code"]), (422, &json!("run_options_invalid")), "{url}: {problem}");
        assert!(!problem.to_string().contains("canary"), "{problem}");
    }
    app.finish().await;
}

async fn runs_that_never_start_are_notified(database: Database) {
    let steps = "steps: [{ id: hold, uses: test.step, with: { wait: true } }]\n";
    let one_at_a_time = |name: &str, conflict: &str| {
        format!("name: {name}\nconcurrency: {{ key: one, limit: 1, on_conflict: {conflict} }}\n{steps}")
    };
    let server = Receiver::start(|_| respond_with(200, &[], "")).await;
    let app = TestApp::builder(database)
        .pipeline("skips", &one_at_a_time("skips", "skip"))
        .pipeline("queues", &one_at_a_time("queues", "queue"))
        .config(|config| config.http.allow = vec!["127.0.0.1".into()]);
    let app = app.start().await;
    for name in ["skips", "queues"] {
        let first = app.run(name, json!({})).await;
        app.step_is(&first, "hold", "running").await;
        let (status, second) =
            app.post(&format!("/v1/pipelines/{name}/runs"), json!({ "notify_url": server.url })).await;
        assert!((200..300).contains(&status), "{second}");
        if name == "queues" {
            app.post(&format!("/v1/runs/{}/cancel", second["id"].as_str().unwrap()), json!({})).await;
        }
        let second = notified_run(&app, &second, "sent").await;
        assert_eq!((&second["status"], &second["steps"][0]["status"]), (&json!("cancelled"), &json!("cancelled")));
        app.post(&format!("/v1/runs/{}/cancel", first["id"].as_str().unwrap()), json!({})).await;
        app.ended(&first).await;
    }
    let bodies = server.calls().into_iter().map(|call| serde_json::from_str::<Value>(&call.body).unwrap());
    assert_eq!(bodies.map(|body| body["type"].clone()).collect::<Vec<_>>(), ["run.cancelled", "run.cancelled"]);
    app.finish().await;
}

async fn hanging_receiver_delays_no_other_notification(database: Database) {
    // This server accepts connections and never answers.
    let deaf = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf = format!("http://{}/", deaf.local_addr().unwrap());
    let (server, app) = (Receiver::start(|_| respond_with(200, &[], "")).await, app(database).await);
    let hanging = start(&app, json!({}), &deaf).await;
    app.ended(&hanging).await;
    eventually("the attempt", async || {
        let run = app.show(hanging["id"].as_str().unwrap()).await;
        (run["notification"]["attempts"] == 1).then_some(())
    })
    .await;
    let good = start(&app, json!({}), &server.url).await;
    notified_run(&app, &good, "sent").await;
    let hanging = app.show(hanging["id"].as_str().unwrap()).await;
    assert_eq!((&hanging["status"], &hanging["notification"]["status"]), (&json!("succeeded"), &json!("pending")));
    // A hanging receiver does not delay the shutdown either.
    app.finish().await;
}

async fn notification_has_one_claim_and_survives_its_loss(database: Database) {
    let server = if database == Database::Postgres { Some(Server::start().await) } else { None };
    let dir = tempfile::tempdir().unwrap();
    let url = server.as_ref().map_or_else(|| format!("sqlite://{}", dir.path().join("s.db").display()), Server::url);
    let db = Db::open(&url, Clock::system()).await.unwrap();
    db.definitions()
        .replace_live(&[DefinitionRecord { name: "p".into(), digest: "d".into(), source: String::new() }], &[])
        .await
        .unwrap();
    for id in ["told", "other", "quiet"] {
        let sql = "INSERT INTO runs (id, pipeline, digest, status, origin, params, revision, created_at) VALUES";
        execute(&url, &format!("{sql} ('{id}', 'p', 'd', 'running', 'api', '{{}}', 1, 1)")).await;
    }
    let mut tx = db.begin().await.unwrap();
    tx.notifications().insert("told", "http://a.example/").await.unwrap();
    tx.notifications().insert("other", "http://a.example/").await.unwrap();
    tx.commit().await.unwrap();
    let claim = async |seconds| db.notifications().claim(Duration::from_secs(seconds), 10).await.unwrap();
    assert!(claim(60).await.is_empty(), "no run has ended");
    let mut tx = db.begin().await.unwrap();
    for id in ["told", "quiet"] {
        tx.runs().finish(id, RunStatus::Succeeded).await.unwrap();
    }
    tx.commit().await.unwrap();

    // Of many concurrent claims only one gets the notification. Its claim expires.
    let claims = futures::future::join_all((0..8).map(|_| claim(60))).await;
    let lost: Vec<_> = claims.into_iter().flatten().collect();
    assert_eq!((lost.len(), lost[0].run_id.as_str(), lost[0].attempts), (1, "told", 1));
    execute(&url, "UPDATE notifications SET next_at = 1 WHERE run_id = 'told'").await;
    let found = claim(60).await;
    assert_eq!((found.len(), found[0].attempts, found[0].since), (1, 2, lost[0].since));

    // The expired claim cannot write; the current one can.
    let error = json!({ "code": "x" });
    db.notifications().record_attempt(&lost[0], NotificationStatus::Failed, None, Some(&error)).await.unwrap();
    let state = async || db.notifications().find("told").await.unwrap().unwrap();
    assert_eq!(state().await.status, NotificationStatus::Pending);
    db.notifications().record_attempt(&found[0], NotificationStatus::Pending, Some(1), Some(&error)).await.unwrap();
    assert_eq!((state().await.next_at, state().await.error), (Some(1), Some(error)));
    let third = claim(60).await;

    // Meanwhile the run is retried. Its next end sends another notification.
    let mut tx = db.begin().await.unwrap();
    tx.runs().reopen("told", RunDeadlines::default()).await.unwrap();
    tx.commit().await.unwrap();
    db.notifications().record_attempt(&third[0], NotificationStatus::Sent, None, None).await.unwrap();
    let waiting = state().await;
    assert_eq!((waiting.status, waiting.attempts, waiting.error), (NotificationStatus::Waiting, 0, None));
    let mut tx = db.begin().await.unwrap();
    tx.runs().finish("told", RunStatus::Failed).await.unwrap();
    tx.commit().await.unwrap();
    let last = claim(60).await;
    assert_eq!((last.len(), last[0].attempts), (1, 1));
    db.notifications().record_attempt(&last[0], NotificationStatus::Sent, None, None).await.unwrap();
    assert_eq!((state().await.status, claim(60).await.len()), (NotificationStatus::Sent, 0));
    db.close().await;
}
