//! Downloads: whole files and ranges, always as attachments.

use axum::body::Body;
use axum::http::Request;
use serde_json::Value;

use super::stage::{Answer, Stage};

const FORM: &str = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"größe.html\"\r\n\
    Content-Type: text/html\r\n\r\n0123456789\r\n--b--\r\n";

async fn uploaded(stage: &Stage) -> Value {
    let runs = "/v1/pipelines/contacts-import/runs";
    let run = stage.post(&stage.admin, runs, "multipart/form-data; boundary=b", FORM).await.json();
    run["params"]["file"].clone()
}

async fn ask(stage: &Stage, file: &Value, method: &str, headers: &[(&str, &str)]) -> Answer {
    let path = format!("/v1/artifacts/{}", file["artifact_id"].as_str().unwrap());
    let request =
        Request::builder().method(method).uri(path).header("authorization", format!("Bearer {}", stage.admin));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    stage.send(request.body(Body::empty()).unwrap()).await
}

#[tokio::test]
async fn a_file_is_served_as_attachment() {
    let stage = Stage::new().await;
    let file = uploaded(&stage).await;
    let answer = ask(&stage, &file, "GET", &[]).await;
    assert_eq!((answer.status.as_u16(), &answer.bytes[..]), (200, &b"0123456789"[..]));
    let header = |name: &str| answer.headers[name].to_str().unwrap();
    let named = "attachment; filename=\"gr__e.html\"; filename*=UTF-8''gr%C3%B6%C3%9Fe.html";
    assert_eq!(header("content-disposition"), named);
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("content-security-policy"), "sandbox; default-src 'none'");
    assert_eq!((header("content-type"), header("content-length")), ("text/html", "10"));
    assert_eq!(header("etag"), format!("\"{}\"", file["etag"].as_str().unwrap()));
    let head = ask(&stage, &file, "HEAD", &[]).await;
    assert_eq!((head.headers["content-length"].to_str().unwrap(), head.bytes.len()), ("10", 0));
}

#[tokio::test]
async fn range_and_condition_headers_are_honored() {
    let stage = Stage::new().await;
    let file = uploaded(&stage).await;
    let etag = format!("\"{}\"", file["etag"].as_str().unwrap());
    let part = |answer: Answer| {
        let range = answer.headers.get("content-range").map(|value| value.to_str().unwrap().to_owned());
        (answer.status.as_u16(), range.unwrap_or_default(), String::from_utf8(answer.bytes.to_vec()).unwrap())
    };
    for (range, status, place, bytes) in [
        ("bytes=2-4", 206, "bytes 2-4/10", "234"),
        ("bytes=8-", 206, "bytes 8-9/10", "89"),
        ("bytes=-3", 206, "bytes 7-9/10", "789"),
        ("bytes=0-0", 206, "bytes 0-0/10", "0"),
        ("bytes=0-1,4-5", 200, "", "0123456789"),
    ] {
        let answer = part(ask(&stage, &file, "GET", &[("range", range)]).await);
        assert_eq!(answer, (status, place.to_owned(), bytes.to_owned()), "{range}");
    }
    let beyond = ask(&stage, &file, "GET", &[("range", "bytes=10-")]).await;
    assert_eq!((beyond.status.as_u16(), beyond.code().as_str()), (416, "range_not_satisfiable"));
    assert_eq!(beyond.headers["content-range"], "bytes */10");
    let same = ask(&stage, &file, "GET", &[("range", "bytes=1-1"), ("if-range", &etag)]).await;
    assert_eq!(&same.bytes[..], b"1");
    let other = ask(&stage, &file, "GET", &[("range", "bytes=1-1"), ("if-range", "\"x\"")]).await;
    assert_eq!((other.status.as_u16(), other.bytes.len()), (200, 10));
    let known = ask(&stage, &file, "GET", &[("if-none-match", &format!("\"x\", {etag}"))]).await;
    assert_eq!((known.status.as_u16(), known.bytes.len()), (304, 0));
}

#[tokio::test]
async fn a_deleted_file_gives_410() {
    let stage = Stage::new().await;
    let file = uploaded(&stage).await;
    let (bucket, key) = (file["bucket"].as_str().unwrap(), file["key"].as_str().unwrap());
    assert!(stage.exists(bucket, key).await);
    stage.objects.delete_object(bucket, key).await.unwrap();
    let gone = ask(&stage, &file, "GET", &[]).await;
    assert_eq!((gone.status.as_u16(), gone.code().as_str()), (410, "artifact_gone"));
    let reader = stage.key(&["runs:read:quiet"]).await;
    let path = format!("/v1/artifacts/{}", file["artifact_id"].as_str().unwrap());
    assert_eq!(stage.get(&reader, &path).await.code(), "artifact_not_found");
}
