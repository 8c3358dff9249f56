//! Creating runs by form: streaming, rejected forms, and the files of runs that are not created.

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde_json::{Value, json};

use super::stage::{Answer, Stage};

const RUNS: &str = "/v1/pipelines/contacts-import/runs";
const MEDIA: &str = "multipart/form-data; boundary=xYzZY";

/// The header parameters and the bytes of a part.
type Part<'a> = (&'a str, &'a [u8]);

fn form(parts: &[Part<'_>]) -> Vec<u8> {
    let mut body = Vec::new();
    for (head, bytes) in parts {
        body.extend_from_slice(format!("--xYzZY\r\nContent-Disposition: form-data; {head}\r\n\r\n").as_bytes());
        body.extend_from_slice(bytes);
        body.extend_from_slice(b"\r\n");
    }
    body.extend_from_slice(b"--xYzZY--\r\n");
    body
}

/// Splits a body into chunks of `size`, like a network.
fn chunked(body: Vec<u8>, size: usize) -> Body {
    let chunks: Vec<_> =
        body.chunks(size).map(|chunk| Ok::<_, std::io::Error>(Bytes::copy_from_slice(chunk))).collect();
    Body::from_stream(stream::iter(chunks))
}

async fn send(stage: &Stage, parts: &[Part<'_>]) -> Answer {
    stage.post(&stage.admin, RUNS, MEDIA, form(parts)).await
}

/// Asserts that the store holds no upload.
async fn nothing_stays(stage: &Stage) {
    assert_eq!(stage.objects.delete_prefix("artifacts", "uploads/").await.unwrap(), 0, "an upload stays in the store");
}

#[tokio::test]
async fn a_file_is_stored_unchanged_for_every_chunk_size() {
    let stage = Stage::new().await;
    let mut content = b"a,b\r\n--xYzZ\r\n\r\n--".repeat(5_000);
    content.extend_from_slice(&[0, 255, 13, 10, 13]);
    for size in [1 << 20, 4096, 77] {
        let body = form(&[("name=\"email\"", b"a@b.c"), ("name=\"file\"; filename=\"../my fïle.csv\"", &content)]);
        let answer = stage.post(&stage.admin, RUNS, MEDIA, chunked(body, size)).await;
        assert_eq!(answer.status, 202, "{:?}", answer.bytes);
        let run = answer.json();
        assert_eq!(answer.headers["location"], format!("/v1/runs/{}", run["id"].as_str().unwrap()));
        let file = &run["params"]["file"];
        assert_eq!((&file["name"], &file["content_type"]), (&json!("my fïle.csv"), &json!("text/csv")));
        assert_eq!(run["params"]["email"], "a@b.c");
        assert_eq!(run["artifacts"][0]["id"], file["artifact_id"]);
        let path = format!("/v1/artifacts/{}", file["artifact_id"].as_str().unwrap());
        assert_eq!(stage.get(&stage.admin, &path).await.bytes, content);
    }
}

#[tokio::test]
async fn params_come_from_form_parts_or_json() {
    let stage = Stage::new().await;
    let given = |answer: Answer| {
        assert_eq!(answer.status, 202, "{:?}", answer.bytes);
        answer.json()["params"].clone()
    };
    let both =
        send(&stage, &[("name=\"params\"", br#"{"email": "a@b.c"}"#), ("name=\"file\"; filename=\"\"", b"")]).await;
    assert_eq!(given(both), json!({ "email": "a@b.c" }), "a file that nobody chose is none");
    let many =
        send(&stage, &[("name=\"extras\"; filename=\"1\"", b"1"), ("name=\"extras\"; filename=\"2\"", b"2")]).await;
    let names = |params: &Value| -> Vec<Value> {
        params["extras"].as_array().unwrap().iter().map(|file| file["name"].clone()).collect()
    };
    assert_eq!(names(&given(many)), ["1", "2"]);
    stage.objects.put_object("uploads", "a.csv", "text/csv", "a".into()).await.unwrap();
    let named = send(&stage, &[("name=\"file\"", b"s3://uploads/a.csv")]).await;
    assert_eq!(given(named)["file"]["key"], "a.csv");
    let html = send(&stage, &[("name=\"email\"", b""), ("name=\"active\"", b"on"), ("name=\"extras\"", b"")]).await;
    assert_eq!(given(html), json!({ "active": true }), "fields left empty are not given");
    let by_json = stage.run(&stage.admin, json!({ "active": "on" })).await;
    assert_eq!(by_json.code(), "params_invalid", "JSON has truths of its own");
    let nothing = stage.post(&stage.admin, RUNS, "application/json", "").await;
    assert_eq!(given(nothing), json!({}));
}

#[tokio::test]
async fn uploaded_files_keep_their_client_names() {
    let stage = Stage::new().await;
    for (head, name) in [
        ("filename=\"a%22b.csv\"", "a\"b.csv"),
        ("filename=\"a%0D%0Ab.csv\"", "ab.csv"),
        ("filename=\"x.csv\"; filename*=UTF-8''na%C3%AFve.csv", "na\u{ef}ve.csv"),
        ("filename*=UTF-8''%E2%82%AC.csv", "\u{20ac}.csv"),
    ] {
        let answer = send(&stage, &[(&format!("name=\"file\"; {head}"), b"a")]).await;
        assert_eq!(answer.status, 202, "{:?}", answer.bytes);
        assert_eq!(answer.json()["params"]["file"]["name"], name, "{head}");
    }
}

#[tokio::test]
async fn rejected_forms_leave_no_files() {
    let stage = Stage::new().await;
    let file: Part<'_> = ("name=\"file\"; filename=\"a.csv\"", b"a");
    let large = vec![b'x'; (1 << 20) + 1];
    let text = vec![b'x'; 70_000];
    let cases: [(Part<'_>, &str); 11] = [
        (file, "params_invalid"),
        (("name=\"file\"", b"s3://uploads/a"), "params_invalid"),
        (("name=\"email\"; filename=\"a\"", b"a"), "params_invalid"),
        (("name=\"colour\"", b"red"), "params_invalid"),
        (("name=\"params\"", br#"{"file": null}"#), "params_invalid"),
        (("name=\"params\"", b"{"), "json_invalid"),
        (("name=\"email\"", b"\xff"), "multipart_invalid"),
        (("filename=\"a\"", b"a"), "multipart_invalid"),
        (("name=\"extras\"; filename=\"\"", b"bytes"), "multipart_invalid"),
        (("name=\"email\"", &text), "body_too_large"),
        (("name=\"email\"", b"unavailable"), "database_unavailable"),
    ];
    for (part, code) in cases {
        assert_eq!(send(&stage, &[file, part]).await.code(), code, "{}", part.0);
        nothing_stays(&stage).await;
    }
    assert_eq!(send(&stage, &[("name=\"file\"; filename=\"a.csv\"", &large)]).await.code(), "upload_too_large");
    nothing_stays(&stage).await;
    assert_eq!(stage.get(&stage.admin, "/v1/runs").await.json()["runs"], json!([]));
}

#[tokio::test]
async fn an_interrupted_upload_leaves_no_files() {
    let stage = Stage::new().await;
    let whole = form(&[("name=\"file\"; filename=\"a.csv\"", b"a"), ("name=\"extras\"; filename=\"b\"", b"bytes")]);
    for cut in [whole.len() - 2, whole.len() - 20, whole.len() - 100, 30] {
        let gone = std::io::Error::other("connection reset");
        let chunks = vec![Ok(Bytes::copy_from_slice(&whole[..cut])), Err(gone)];
        let answer = stage.post(&stage.admin, RUNS, MEDIA, Body::from_stream(stream::iter(chunks))).await;
        if answer.status != 202 {
            assert_eq!(answer.code(), "body_incomplete", "cut at {cut}");
            nothing_stays(&stage).await;
        }
    }
}

#[tokio::test]
async fn an_endless_part_header_is_rejected() {
    let stage = Stage::new().await;
    let starts: [&[u8]; 2] = [b"", b"--xYzZY\r\nContent-Disposition: form-data; name=\"email\r\n"];
    for start in starts {
        let start = Bytes::copy_from_slice(start);
        let noise = stream::repeat(Bytes::from(vec![b'x'; 8192]));
        let body = Body::from_stream(stream::iter([start]).chain(noise).map(Ok::<_, std::io::Error>));
        let answer = stage.post(&stage.admin, RUNS, MEDIA, body).await;
        assert_eq!(answer.code(), "multipart_invalid");
    }
}

#[tokio::test]
async fn parts_and_files_are_limited() {
    let stage = Stage::new().await;
    let empty: Part<'_> = ("name=\"file\"; filename=\"\"", b"");
    assert_eq!(send(&stage, &[empty; 50]).await.status, 202);
    assert_eq!(send(&stage, &[empty; 51]).await.code(), "too_many_parts");
    let file: Part<'_> = ("name=\"extras\"; filename=\"a\"", b"a");
    assert_eq!(send(&stage, &[file; 10]).await.status, 202);
    assert_eq!(stage.objects.delete_prefix("artifacts", "uploads/").await.unwrap(), 10);
    assert_eq!(send(&stage, &[file; 11]).await.code(), "too_many_files");
    nothing_stays(&stage).await;
    let named = vec!["s3://uploads/none"; 11];
    assert_eq!(stage.run(&stage.admin, json!({ "extras": named })).await.code(), "too_many_files");
}

#[tokio::test]
async fn undeclared_part_is_refused_at_its_head() {
    let stage = Stage::new().await;
    let answer = send(&stage, &[("name=\"emial\"", &[b'x'; 70_000])]).await;
    assert_eq!(answer.code(), "params_invalid", "the content would be `body_too_large`");
    assert_eq!(answer.json()["details"][0]["message"], "the pipeline has no such param; did you mean `email`?");
    let long = format!("name=\"{}\"", "x".repeat(10_000));
    let answer = send(&stage, &[(&long, b"")]).await;
    assert!(answer.code() == "params_invalid" && answer.bytes.len() < 2_000, "{:?}", answer.bytes);
}

#[tokio::test]
async fn too_many_parallel_uploads_get_503() {
    let stage = Stage::new().await;
    let file: Part<'_> = ("name=\"file\"; filename=\"a.csv\"", b"a");
    let under_way: Vec<_> = std::iter::from_fn(|| stage.app.upload_slots().take_key_slot().ok()).collect();
    let refused = send(&stage, &[file]).await;
    assert_eq!((refused.status.as_u16(), refused.code().as_str()), (503, "too_many_uploads"));
    assert_eq!(refused.headers["retry-after"], "5");
    assert_eq!(stage.run(&stage.admin, json!({})).await.status, 202, "what uploads nothing needs no room");
    drop(under_way);
    for _ in 0..3 {
        assert_eq!(send(&stage, &[file]).await.status, 202);
    }
    let room: Vec<_> = std::iter::from_fn(|| stage.app.upload_slots().take_key_slot().ok()).collect();
    assert_eq!(room.len(), crate::api::upload_slots::MAX_KEY_UPLOADS, "all room is given back");
}
