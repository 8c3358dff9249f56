//! Clients that send or read slowly: each wait has an end, and takes no room from others.

use afterload::config::ConnectionLimits;
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;

use crate::support::raw_http::{
    PEER_TIMEOUT, SHORT_LIMIT, patient_limits, read_response, read_until_closed, send_bytes,
};
use crate::support::{Database, TestApp, eventually};

const PIPELINE: &str = "name: up\nparams:\n  file: { type: file }\nsteps:\n  - { id: one, uses: test.step }\n";

async fn start(limits: ConnectionLimits) -> TestApp {
    let builder = TestApp::builder(Database::Sqlite).pipeline("up", PIPELINE);
    builder.config(|config| config.limits.connections = limits).start().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_have_a_time_limit() {
    let app = start(ConnectionLimits { header_timeout: SHORT_LIMIT, ..patient_limits() }).await;
    for beginning in ["", "GET /healthz HTTP/1.1\r\nHost: x\r\n"] {
        assert_eq!(read_until_closed(&mut send_bytes(&app.url, beginning).await).await, b"", "{beginning:?}");
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heads_have_a_size_limit() {
    let app = start(patient_limits()).await;
    let head = |size: usize| {
        let start = "GET /healthz HTTP/1.1\r\nHost: x\r\nX-Long: ";
        format!("{start}{}", "y".repeat(size - start.len()))
    };
    let mut long = send_bytes(&app.url, format!("{}\r\n\r\n", head(60 << 10))).await;
    assert_eq!(read_response(&mut long).await.0, 200);
    let refused = read_until_closed(&mut send_bytes(&app.url, head(64 << 10)).await).await;
    assert!(refused.starts_with(b"HTTP/1.1 431 "), "{}", String::from_utf8_lossy(&refused));
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_between_requests_have_a_time_limit() {
    let app = start(ConnectionLimits { idle_timeout: SHORT_LIMIT, ..patient_limits() }).await;
    let mut idle = send_bytes(&app.url, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(read_response(&mut idle).await.0, 200);
    assert_eq!(read_until_closed(&mut idle).await, b"");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bodies_have_a_minimum_rate() {
    let app = start(ConnectionLimits { body_window: SHORT_LIMIT, ..patient_limits() }).await;
    let ticket = announce(&app, 5000).await;
    let heads = [
        format!(
            "POST /v1/pipelines/up/runs HTTP/1.1\r\nAuthorization: Bearer {}\r\nContent-Type: application/json",
            app.admin_key
        ),
        format!(
            "POST /v1/pipelines/up/runs HTTP/1.1\r\nAuthorization: Bearer {}\r\nContent-Type: multipart/form-data; boundary=b",
            app.admin_key
        ),
        format!("PUT {} HTTP/1.1", path_of(&app, &ticket)),
    ];
    for head in heads {
        let part = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\n\r\none";
        let mut slow = send_bytes(&app.url, format!("{head}\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{part}")).await;
        let (status, problem) = read_response(&mut slow).await;
        assert_eq!((status, problem["code"].as_str()), (408, Some("request_timeout")), "{head}: {problem}");
        read_until_closed(&mut slow).await;
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_that_read_nothing_are_dropped() {
    let limits = ConnectionLimits { write_timeout: SHORT_LIMIT, api: Some(1), ..patient_limits() };
    let app = start(limits).await;
    let size = 64 << 20;
    let run = app.upload("up", "a.bin", vec![7; size]).await;
    let run = app.ended(&run).await;
    let id = run["params"]["file"]["artifact_id"].as_str().unwrap();
    let head = format!("GET /v1/artifacts/{id} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\r\n", app.admin_key);
    let mut reader = send_bytes(&app.url, head).await;
    let mut status = [0; 12];
    tokio::time::timeout(PEER_TIMEOUT, reader.read_exact(&mut status)).await.expect("an answer").unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    // The one connection of the service is free again once it has dropped the reader.
    eventually("the end of the download", async || {
        let answer = app.client.get(format!("{}/healthz", app.url)).send().await.ok()?;
        answer.status().is_success().then_some(())
    })
    .await;
    assert!(read_until_closed(&mut reader).await.len() < size, "the rest was not sent");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_streams_outlive_the_limits_on_requests() {
    let builder = TestApp::builder(Database::Sqlite);
    let gate = builder.folder().join("gate");
    let yaml = format!("name: p\nsteps:\n  - {{ id: one, uses: test.step, with: {{ until: {} }} }}\n", gate.display());
    let limits = ConnectionLimits {
        idle_timeout: SHORT_LIMIT,
        body_window: SHORT_LIMIT,
        write_timeout: SHORT_LIMIT,
        ..patient_limits()
    };
    let app = builder.pipeline("p", &yaml).config(|config| config.limits.connections = limits).start().await;
    let run = app.run("p", json!({})).await;
    let stream = app.get(&format!("/v1/runs/{}/events", run["id"].as_str().unwrap())).await;
    // Other connections come and go by these limits meanwhile.
    for _ in 0..3 {
        let mut idle = send_bytes(&app.url, "GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(read_response(&mut idle).await.0, 200);
        assert_eq!(read_until_closed(&mut idle).await, b"");
    }
    std::fs::write(&gate, "").unwrap();
    let events = stream.text().await.unwrap();
    assert!(events.contains("event: end\ndata: {\"status\":\"succeeded\"}\n\n"), "{events}");
    app.finish().await;
}

async fn announce(app: &TestApp, size: u64) -> Value {
    let (status, ticket) =
        app.post("/v1/uploads", json!({ "pipeline": "up", "filename": "a.csv", "size": size })).await;
    assert_eq!(status, 201, "{ticket}");
    ticket
}

fn path_of(app: &TestApp, ticket: &Value) -> String {
    ticket["url"].as_str().unwrap().strip_prefix(&app.url).unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tokens_leave_room_for_keys() {
    let app = start(patient_limits()).await;
    let put = |ticket: &Value| {
        let (client, url) = (app.client.clone(), ticket["url"].as_str().unwrap().to_owned());
        async move {
            let answer = client.put(url).body("one").send().await.unwrap();
            let (status, wait) = (answer.status().as_u16(), answer.headers().get("retry-after").cloned());
            let problem: Value = answer.json().await.unwrap_or_default();
            (status, problem["code"].as_str().map(str::to_owned), wait.is_some())
        }
    };
    // Uploads by token, of which only the first byte arrives, until there is no room for one more.
    let (mut open, mut refused) = (Vec::new(), None);
    while refused.is_none() {
        let ticket = announce(&app, 3).await;
        let head = format!("PUT {} HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\no", path_of(&app, &ticket));
        let stream;
        (stream, refused) = eventually("an answer to a second upload by the same token", async || {
            let stream = send_bytes(&app.url, &head).await;
            match put(&ticket).await {
                (409, Some(code), true) if code == "upload_in_progress" => Some((stream, None)),
                (503, Some(code), true) if code == "too_many_uploads" => Some((stream, Some(ticket.clone()))),
                // The second request came first, and may have taken the slot from the other one.
                (204, ..) => None,
                other => panic!("{other:?}"),
            }
        })
        .await;
        open.push(stream);
        assert!(open.len() < 100, "the room has an end");
    }
    let run = app.upload("up", "a.csv", b"one".to_vec()).await;
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    drop(open);
    let ticket = refused.unwrap();
    eventually("room for uploads by token", async || (put(&ticket).await.0 == 204).then_some(())).await;
    app.finish().await;
}
