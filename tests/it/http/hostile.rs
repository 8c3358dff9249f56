//! Hostile or broken servers, and the steps that call them.

use std::convert::Infallible;
use std::io::Write;
use std::net::TcpListener;

use axum::body::Body;
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use futures::stream;
use serde_json::{Value, json};

use super::outputs;
use super::receiver::{Receiver, respond_with};
use crate::support::{Database, Place, TestApp, both, eventually};

both!(request_after_a_crash_keeps_its_idempotency_key, cancel_stops_a_hanging_request);

const YAML: &str = r#"
name: call
params:
  url: { type: string }
  timeout: { type: string, default: 30s }
  save: { type: string, required: false }
steps:
  - id: call
    uses: http.request
    retry: { attempts: 2, delay: 1ms, max_delay: 2ms }
    with: { url: "${{ params.url }}", timeout: "${{ params.timeout }}", save: "${{ params.save }}", max_size: 2mb }
"#;

/// A body that never ends.
fn endless() -> Body {
    Body::from_stream(stream::repeat_with(|| Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 8192]))))
}

/// A body that never sends a byte.
fn silent() -> Body {
    Body::from_stream(stream::pending::<Result<Bytes, Infallible>>())
}

/// 64 MiB of zeros, compressed to a few bytes.
fn bomb() -> Vec<u8> {
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    for _ in 0..64 {
        gzip.write_all(&[0; 1 << 20]).unwrap();
    }
    gzip.finish().unwrap()
}

async fn app(allow: &[String], database: Database) -> TestApp {
    let allow = allow.to_vec();
    TestApp::builder(database).pipeline("call", YAML).config(|config| config.http.allow = allow).start().await
}

/// Runs the pipeline. Returns the code of its error and the number of attempts.
async fn refused(app: &TestApp, params: Value) -> (String, u64) {
    let run = app.run_to_end("call", params).await;
    let step = &run["steps"][0];
    assert_eq!((&run["status"], run["error"]["step"].as_str()), (&json!("failed"), Some("call")), "{run}");
    assert_eq!(run["artifacts"], json!([]), "{run}");
    (step["error"]["code"].as_str().expect("a code").to_owned(), step["attempt"].as_u64().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_limits_are_enforced() {
    let packed = bomb();
    let server = Receiver::start(move |call| match call.path.as_str() {
        "/silent" => respond_with(200, &[], silent()),
        "/bomb" => respond_with(200, &[("content-encoding", "gzip"), ("content-type", "text/plain")], packed.clone()),
        _ => respond_with(200, &[], endless()),
    })
    .await;
    // This server accepts connections and never answers.
    let deaf = TcpListener::bind("127.0.0.1:0").unwrap();
    let deaf = format!("http://{}/", deaf.local_addr().unwrap());
    let app = app(&["127.0.0.1".into()], Database::Sqlite).await;
    for url in [&deaf, &format!("{}/silent", server.url)] {
        let params = json!({ "url": url, "timeout": "200ms" });
        assert_eq!(refused(&app, params.clone()).await, ("http_timeout".into(), 2), "{url}");
        let mut saving = params;
        saving["save"] = "a.bin".into();
        assert_eq!(refused(&app, saving).await, ("http_timeout".into(), 2), "{url}");
    }
    for params in [json!({ "url": server.url }), json!({ "url": server.url, "save": "a.bin" })] {
        assert_eq!(refused(&app, params).await, ("http_body_too_large".into(), 1));
    }
    // The body stays compressed: the step did not ask for compression, and does not decompress.
    let run = app.run_to_end("call", json!({ "url": format!("{}/bomb", server.url) })).await;
    let found = outputs(&run, "call");
    assert_eq!((&found["headers"]["content-encoding"], &found["text"]), (&json!("gzip"), &Value::Null), "{run}");
    let run = app.run_to_end("call", json!({ "url": format!("{}/bomb", server.url), "save": "a.gz" })).await;
    assert_eq!(outputs(&run, "call")["file"]["size"], bomb().len(), "{run}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redirects_obey_the_egress_policy() {
    let inside = Receiver::start(|_| respond_with(200, &[], "the inside")).await;
    let port = inside.port;
    let outside = Receiver::start(move |call| {
        let to = match call.path.as_str() {
            "/literal" => format!("http://127.0.0.1:{port}/"),
            "/decimal" => format!("http://2130706433:{port}/"),
            "/mapped" => format!("http://[::ffff:127.0.0.1]:{port}/"),
            "/name" => format!("http://localhost:{port}/"),
            "/metadata" => "http://169.254.169.254/latest/meta-data/".to_owned(),
            "/circle" => "/circle".to_owned(),
            _ => "file:///etc/passwd".to_owned(),
        };
        respond_with(302, &[("location", &to)], "")
    })
    .await;
    // What is allowed stands in for the public internet.
    let app = app(&[format!("127.0.0.1:{}", outside.port)], Database::Sqlite).await;
    for (path, code) in [
        ("/literal", "egress_blocked"),
        ("/decimal", "egress_blocked"),
        ("/mapped", "egress_blocked"),
        ("/name", "egress_blocked"),
        ("/metadata", "egress_blocked"),
        ("/circle", "http_redirect_refused"),
        ("/file", "http_url_invalid"),
    ] {
        let found = refused(&app, json!({ "url": format!("{}{path}", outside.url) })).await;
        assert_eq!(found, (code.to_owned(), 1), "{path}");
    }
    assert!(inside.calls().is_empty());
    assert_eq!(outside.calls().iter().filter(|call| call.path == "/circle").count(), 4, "one call and three redirects");
    app.finish().await;
}

async fn request_after_a_crash_keeps_its_idempotency_key(database: Database) {
    let server = Receiver::start(|call| match call.before {
        0 => respond_with(200, &[], silent()),
        _ => respond_with(200, &[], "done"),
    })
    .await;
    let mut place = Place::new(database).await;
    place.env.push(("AFTERLOAD_HTTP__ALLOW".into(), "[127.0.0.1]".into()));
    place.pipeline("call", YAML);
    let process = place.start().await;
    let run = process.start_run("call", json!({ "url": server.url, "timeout": "1h" })).await;
    let id = run["id"].as_str().expect("an id");
    eventually("the first call", async || (server.calls().len() == 1).then_some(())).await;
    process.kill().await;
    place.forget_the_dead().await;
    let process = place.start().await;
    let ended = |run: &Value| (!run["finished_at"].is_null()).then(|| run.clone());
    let run = process.until("the end of the run", id, ended).await;
    assert_eq!((&run["status"], &outputs(&run, "call")["text"]), (&json!("succeeded"), &json!("done")), "{run}");
    let keys: Vec<_> = server.calls().iter().map(|call| call.headers["idempotency-key"].clone()).collect();
    assert_eq!(keys, [format!("{id}/call"), format!("{id}/call")]);
    process.terminate().await;
}

async fn cancel_stops_a_hanging_request(database: Database) {
    let server = Receiver::start(|_| respond_with(200, &[], silent())).await;
    let app = app(&["127.0.0.1".into()], database).await;
    for (before, save) in [Value::Null, json!("a.bin")].into_iter().enumerate() {
        let run = app.run("call", json!({ "url": server.url, "timeout": "1h", "save": save })).await;
        eventually("the call", async || (server.calls().len() > before).then_some(())).await;
        app.post(&format!("/v1/runs/{}/cancel", run["id"].as_str().expect("an id")), json!({})).await;
        let run = app.ended(&run).await;
        assert_eq!((&run["status"], &run["artifacts"]), (&json!("cancelled"), &json!([])), "{run}");
    }
    app.finish().await;
}
