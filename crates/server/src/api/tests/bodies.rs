//! No route reads a body without an end, whatever it announces.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::body::Body;
use axum::http::Request;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::stage::{Answer, Stage};
use crate::api::routes::openapi_document;

/// What is read of a refused form so that its sender gets the answer, and some more.
const MAX_READ_BYTES: u64 = 20 << 20;
const FORM: &str = "multipart/form-data; boundary=xYzZY";
const FILE_PART: &str =
    "--xYzZY\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a.csv\"\r\nContent-Type: text/csv\r\n\r\n";

/// Sends `start` and then blanks without an end. Returns the answer and how much was read.
async fn send_endless(stage: &Stage, method: &str, path: &str, media: &str, start: &'static str) -> (Answer, u64) {
    let (read, chunk) = (Arc::new(AtomicU64::new(0)), Bytes::from(vec![b' '; 64 << 10]));
    let counted = read.clone();
    let blanks = stream::repeat_with(move || {
        counted.fetch_add(chunk.len() as u64, Ordering::Relaxed);
        chunk.clone()
    });
    let body = stream::iter([Bytes::from_static(start.as_bytes())]).chain(blanks).map(Ok::<_, std::io::Error>);
    let request = Request::builder().method(method).uri(path).header("content-type", media);
    let request = request.header("authorization", format!("Bearer {}", stage.admin));
    let answer = stage.send(request.body(Body::from_stream(body)).unwrap()).await;
    (answer, read.load(Ordering::Relaxed))
}

#[tokio::test]
async fn every_route_stops_reading_an_endless_body() {
    let stage = Stage::new().await;
    let mut refused = 0;
    for (path, operations) in openapi_document()["paths"].as_object().unwrap() {
        let path = path.replace("{name}", "contacts-import").replace(['{', '}'], "");
        for (method, operation) in operations.as_object().unwrap() {
            let medias = operation["requestBody"]["content"].as_object();
            let medias = medias.map_or_else(|| vec!["*/*"], |medias| medias.keys().map(String::as_str).collect());
            for media in medias {
                let (media, starts) = match media {
                    "multipart/form-data" => (FORM, &["", FILE_PART][..]),
                    "*/*" => ("application/octet-stream", &[""][..]),
                    media => (media, &[""][..]),
                };
                for start in starts {
                    let (answer, read) = send_endless(&stage, &method.to_ascii_uppercase(), &path, media, start).await;
                    assert!(read <= MAX_READ_BYTES, "{method} {path} {media}: {read} bytes, then {}", answer.status);
                    refused += u32::from(answer.status == 413);
                }
            }
        }
    }
    assert!(refused >= 4, "only {refused} routes read the body at all");
}

#[tokio::test]
async fn direct_upload_stops_at_its_announced_size() {
    let stage = Stage::new().await;
    let new = json!({ "pipeline": "contacts-import", "param": "file", "filename": "a.csv", "size": 100_000 });
    let ticket = stage.post(&stage.admin, "/v1/uploads", "application/json", new.to_string()).await;
    assert_eq!(ticket.status, 201, "{:?}", ticket.bytes);
    let ticket: Value = ticket.json();
    let path = ticket["url"].as_str().unwrap().strip_prefix(stage.app.base_url()).unwrap().to_owned();
    let (answer, read) = send_endless(&stage, "PUT", &path, "text/csv", "").await;
    assert_eq!(answer.code(), "upload_size_differs");
    assert!(read <= 1 << 20, "{read} bytes");
}
