//! Direct uploads: a file is announced, sent straight to its store, and starts a run.

use afterload::config::{BucketConfig, ObjectStoreConfig, Secret};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::UP;
use crate::support::{Database, Moto, TestApp, both};

both!(
    direct_upload_starts_a_run,
    late_write_leaves_the_file_of_the_run,
    direct_upload_goes_to_another_store,
    invalid_upload_is_rejected
);

impl TestApp {
    async fn announce(&self, body: Value) -> (StatusCode, Value) {
        let request = self.client.post(format!("{}/v1/uploads", self.url)).bearer_auth(&self.admin_key);
        let response = request.json(&body).send().await.unwrap();
        (response.status(), response.json().await.unwrap())
    }

    /// PUTs to the URL of a ticket, as a page does.
    async fn send(&self, ticket: &Value, bytes: &str) -> StatusCode {
        let request = self.client.put(ticket["url"].as_str().unwrap()).header("origin", "https://example.com");
        let headers = ticket["headers"].as_object().unwrap().iter();
        let request = headers.fold(request, |request, (name, value)| request.header(name, value.as_str().unwrap()));
        request.body(bytes.to_owned()).send().await.unwrap().status()
    }

    async fn complete(&self, ticket: &Value) -> (StatusCode, Value) {
        let response = self.client.post(ticket["complete_url"].as_str().unwrap()).send().await.unwrap();
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        (response.status(), response.json().await.unwrap())
    }
}

fn announcement() -> Value {
    json!({ "pipeline": "up", "filename": "../größe.csv", "content_type": "text/csv", "size": 3 })
}

const PLAIN: &str = "name: up\nparams:\n  file: { type: file, accept: [text/csv], max_size: 1kb }\n  \
                     word: { type: string, required: false }\nsteps:\n  \
                     - { id: one, uses: test.step, with: { give: \"${{ params.file.size }} ${{ params.file.etag }}\" } }\n";

async fn direct_upload_starts_a_run(database: Database) {
    let app = TestApp::builder(database).pipeline("up", PLAIN).start().await;
    let mut body = announcement();
    body["params"] = json!({ "word": "a" });
    let (status, ticket) = app.announce(body).await;
    assert_eq!((status.as_u16(), ticket["method"].as_str()), (201, Some("PUT")), "{ticket}");
    let (status, refused) = app.complete(&ticket).await;
    assert_eq!((status.as_u16(), refused["code"].as_str()), (409, Some("upload_incomplete")));
    for (bytes, expected) in [("four", 409), ("on", 409), ("one", 204), ("two", 204)] {
        assert_eq!(app.send(&ticket, bytes).await.as_u16(), expected, "{bytes}");
    }
    let url = ticket["url"].as_str().unwrap();
    let asked = app.client.request(reqwest::Method::OPTIONS, url).header("origin", "https://example.com");
    let asked = asked.header("access-control-request-method", "PUT").send().await.unwrap();
    assert_eq!(
        (asked.status().as_u16(), &asked.headers()["access-control-allow-origin"]),
        (204, &"*".parse().unwrap())
    );
    assert_eq!(app.client.put(format!("{url}x")).body("one").send().await.unwrap().status(), 401);
    // Concurrent and repeated completions give one run.
    let completed = futures::future::join_all((0..8).map(|_| app.complete(&ticket))).await;
    assert!(completed.iter().all(|(status, run)| *status == 202 && run["id"] == ticket["id"]), "{completed:?}");
    let run = app.ended(&completed[0].1).await;
    let file = &run["params"]["file"];
    assert_eq!((file["name"].as_str(), file["content_type"].as_str()), (Some("größe.csv"), Some("text/csv")));
    assert_eq!(run["steps"][0]["outputs"]["value"], format!("3 {}", file["etag"].as_str().unwrap()));
    assert_eq!((run["params"]["word"].as_str(), run["origin"].as_str()), (Some("a"), Some("uploads")));
    let path = format!("/v1/artifacts/{}", file["artifact_id"].as_str().unwrap());
    assert_eq!(app.get(&path).await.text().await.unwrap(), "two");
    assert_eq!(app.complete(&ticket).await.1["id"], ticket["id"]);
    assert_eq!(app.send(&ticket, "one").await, 404, "what has been completed is not written again");
    assert_eq!(app.runs().await.len(), 1);
    app.finish().await;
}

async fn late_write_leaves_the_file_of_the_run(database: Database) {
    let app = TestApp::builder(database).pipeline("up", PLAIN).start().await;
    let (_, ticket) = app.announce(announcement()).await;
    assert_eq!(app.send(&ticket, "one").await, 204);
    let address = app.url.strip_prefix("http://").unwrap();
    let url = ticket["url"].as_str().unwrap();
    let path = &url[url.find("/v1/").unwrap()..];
    let mut late = TcpStream::connect(address).await.unwrap();
    let head = format!("PUT {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nContent-Length: 3\r\n");
    late.write_all(format!("{head}Content-Type: text/csv\r\nExpect: 100-continue\r\n\r\n").as_bytes()).await.unwrap();
    // The service asks for the body when it has accepted the rest of the request.
    let mut begun = Vec::new();
    while !begun.ends_with(b"\r\n\r\n") {
        begun.push(late.read_u8().await.unwrap());
    }
    assert!(begun.starts_with(b"HTTP/1.1 100"), "{}", String::from_utf8_lossy(&begun));
    let (status, run) = app.complete(&ticket).await;
    assert_eq!(status, 202, "{run}");
    late.write_all(b"two").await.unwrap();
    let mut answer = String::new();
    late.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let path = format!("/v1/artifacts/{}", run["params"]["file"]["artifact_id"].as_str().unwrap());
    assert_eq!(app.get(&path).await.text().await.unwrap(), "one");
    app.finish().await;
}

async fn direct_upload_goes_to_another_store(database: Database) {
    let moto = Moto::start().await;
    let endpoint = Some(moto.endpoint.clone());
    let app = TestApp::builder(database)
        .config(|config| {
            let store = ObjectStoreConfig {
                public_endpoint: endpoint.as_ref().map(|endpoint| endpoint.replace("127.0.0.1", "localhost")),
                endpoint,
                access_key: Some(Secret::new("key")),
                secret_key: Some(Secret::new("secret")),
                path_style: true,
                ..ObjectStoreConfig::default()
            };
            config.objects.stores.insert("foreign".into(), store);
            let bucket = BucketConfig { store: Some("foreign".into()), ..BucketConfig::default() };
            config.objects.buckets.insert("artifacts".into(), bucket);
        })
        .pipeline("up", PLAIN)
        .start()
        .await;
    let (_, ticket) = app.announce(announcement()).await;
    let url = ticket["url"].as_str().unwrap();
    assert!(url.starts_with("http://localhost:") && url.contains("X-Amz-Signature="), "{url}");
    assert!(url.contains("content-length"), "the size is signed: {url}");
    assert_eq!(app.send(&ticket, "one").await, 200);
    let (status, run) = app.complete(&ticket).await;
    assert_eq!(status, 202, "{run}");
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    assert_eq!(app.send(&ticket, "two").await, 412, "the file of an accepted run stays");
    let path = format!("/v1/artifacts/{}", run["params"]["file"]["artifact_id"].as_str().unwrap());
    assert_eq!(app.get(&path).await.text().await.unwrap(), "one");
    app.finish().await;
}

async fn invalid_upload_is_rejected(database: Database) {
    let app = TestApp::builder(database).pipeline("up", UP).start().await;
    let with = |field: &str, value: Value| {
        let mut body = announcement();
        body[field] = value;
        body
    };
    for (body, code) in [
        (with("pipeline", json!("nobody")), "pipeline_not_found"),
        (with("param", json!("word")), "params_invalid"),
        (with("content_type", json!("image/png")), "params_invalid"),
        (with("params", json!({ "nobody": 1 })), "params_invalid"),
        (with("size", json!(2000)), "upload_too_large"),
        (with("size", json!(-1)), "json_invalid"),
        (json!({}), "json_invalid"),
    ] {
        let (_, refused) = app.announce(body.clone()).await;
        assert_eq!(refused["code"].as_str(), Some(code), "{body}: {refused}");
    }
    let (_, ticket) = app.announce(announcement()).await;
    let nowhere = ticket["complete_url"].as_str().unwrap().replace("token=", "token=x");
    assert_eq!(app.client.post(nowhere).send().await.unwrap().status(), 401);
    // For a key that may neither start nor read the pipeline, its uploads do not exist.
    let (stored, key) = afterload_server::api::create_api_key("other", &["runs:write:other".into()], &[], 0).unwrap();
    app.app.engine.db().api_keys().insert(&stored).await.unwrap();
    let complete = format!("{}/v1/uploads/{}/complete", app.url, ticket["id"].as_str().unwrap());
    assert_eq!(app.client.post(complete).bearer_auth(key).send().await.unwrap().status(), 404);
    assert!(app.runs().await.is_empty());
    app.finish().await;
}
