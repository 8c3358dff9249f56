//! Many connections: they never take what uploads and runs need.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Database, Place, Process, TestApp, eventually};

const UPLOAD: &str = "name: up\nparams:\n  file: { type: file }\nsteps:\n  \
                      - { id: one, uses: file.check, with: { source: \"${{ params.file }}\" } }\n";
/// A test that waits longer fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(120);

async fn place() -> Place {
    let mut place = Place::new(Database::Sqlite).await;
    place.pipeline("up", UPLOAD);
    // Only the number of connections decides in these tests.
    place.set("LIMITS__CONNECTIONS__HEADER_TIMEOUT", "1h");
    place
}

async fn connect(url: &str, count: usize) -> Vec<TcpStream> {
    let address = url.strip_prefix("http://").unwrap();
    let mut streams = Vec::new();
    for _ in 0..count {
        streams.push(TcpStream::connect(address).await.unwrap());
    }
    streams
}

async fn upload_to_end(place: &Place, process: &Process) -> Value {
    let path = place.dir.path().join("a.txt");
    std::fs::write(&path, "hello").unwrap();
    let run = process.upload("up", &path).await;
    let id = run["id"].as_str().unwrap();
    process.until("the end of a run", id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_leave_room_for_uploads_and_runs() {
    let place = place().await;
    let process = place.serve_with_open_files("-n 256").await;
    let mut idle = connect(&process.url, 400).await;
    for _ in 0..3 {
        let run = upload_to_end(&place, &process).await;
        assert_eq!(run["status"], "succeeded", "{run}");
    }
    // The oldest made room.
    let closed = tokio::time::timeout(TEST_TIMEOUT, idle[0].read(&mut [0; 1])).await.expect("it is closed");
    assert_eq!(closed.unwrap_or(0), 0);
    assert!(process.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn soft_limit_of_open_files_is_raised() {
    let place = place().await;
    let process = place.serve_with_open_files("-S -n 100").await;
    let mut streams = connect(&process.url, 150).await;
    for stream in &mut streams {
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let read = tokio::time::timeout(TEST_TIMEOUT, stream.read(&mut [0; 512])).await.expect("an answer").unwrap();
        assert!(read > 0, "every connection is served");
    }
    assert!(process.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_without_room_are_refused() {
    let builder = TestApp::builder(Database::Sqlite).config(|config| config.limits.connections.api = Some(2));
    let gate = builder.folder().join("gate");
    let yaml = format!("name: p\nsteps:\n  - {{ id: one, uses: test.step, with: {{ until: {} }} }}\n", gate.display());
    let app = builder.pipeline("p", &yaml).start().await;
    let run = app.run("p", json!({})).await;
    let path = format!("/v1/runs/{}/events", run["id"].as_str().unwrap());
    let first = app.get(&path).await;
    assert_eq!(first.status(), 200);
    let mut second = connect(&app.url, 1).await.remove(0);
    let head = format!(
        "POST /v1/pipelines/p/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nExpect: 100-continue\r\n\
         Content-Type: application/json\r\nContent-Length: 9\r\n\r\n",
        app.admin_key
    );
    second.write_all(head.as_bytes()).await.unwrap();
    let mut goes_on = [0; 12];
    tokio::time::timeout(TEST_TIMEOUT, second.read_exact(&mut goes_on)).await.expect("an answer").unwrap();
    assert_eq!(&goes_on, b"HTTP/1.1 100", "the service waits for the body");
    let mut third = connect(&app.url, 1).await.remove(0);
    let mut answer = String::new();
    tokio::time::timeout(TEST_TIMEOUT, third.read_to_string(&mut answer)).await.expect("an answer").unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("Retry-After: 5\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let problem: Value = serde_json::from_str(body).unwrap();
    assert_eq!((&problem["code"], &problem["status"]), (&json!("too_many_connections"), &json!(503)));
    drop(first);
    eventually("room for a connection", async || {
        let answer = app.client.get(format!("{}/healthz", app.url)).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    std::fs::write(&gate, "").unwrap();
    drop(second);
    app.ended(&run).await;
    app.finish().await;
}
