//! Snapshots of response bodies.

use axum::body::Body;
use axum::http::Request;
use serde_json::json;

use super::stage::{Answer, Stage, filters};

const RUNS: &str = "/v1/pipelines/contacts-import/runs";

/// Sends the requests and renders their responses under the given names. The request id is fixed.
async fn shown(stage: &Stage, cases: Vec<(&str, Request<Body>)>) -> String {
    let mut text = String::new();
    for (name, mut request) in cases {
        request.headers_mut().insert("x-request-id", "request-1".parse().unwrap());
        let answer: Answer = stage.send(request).await;
        assert_eq!(answer.headers["x-request-id"], "request-1", "{name}");
        assert_eq!(answer.headers["x-content-type-options"], "nosniff", "{name}");
        text.push_str(&format!("## {name}\n{}\n\n", answer.shown()));
    }
    text
}

fn get(key: &str, path: &str) -> Request<Body> {
    Request::get(path).header("authorization", format!("Bearer {key}")).body(Body::empty()).unwrap()
}

fn post(key: &str, path: &str, media: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header("authorization", format!("Bearer {key}")).header("content-type", media);
    request.body(body.into()).unwrap()
}

fn form(body: &str) -> String {
    body.replace('\n', "\r\n")
}

#[tokio::test]
async fn error_responses_match_their_snapshot() {
    let stage = Stage::new().await;
    let (admin, reader) = (stage.admin.clone(), stage.key(&["runs:read"]).await);
    let writer = stage.key(&["runs:write"]).await;
    let json = |body: &str| post(&admin, RUNS, "application/json", body.to_owned());
    let run = "/v1/runs/01ARZ3NDEKTSV4RRFFQ69G5FAV";
    let mut repeated = json("{}");
    repeated.headers_mut().insert("idempotency-key", "two words".parse().unwrap());
    let cases = vec![
        ("nothing there", get(&admin, "/v2/runs")),
        ("method", Request::delete("/v1/runs").body(Body::empty()).unwrap()),
        ("no key", Request::get("/v1/runs").body(Body::empty()).unwrap()),
        ("wrong key", get("al_aaaaaaaaaa_bb", "/v1/runs")),
        ("wrong token", Request::get(format!("{run}?token=x")).body(Body::empty()).unwrap()),
        ("no scope", post(&reader, RUNS, "application/json", "{}")),
        ("no such pipeline", post(&admin, "/v1/pipelines/none/runs", "application/json", "{}")),
        ("no such run", get(&admin, run)),
        ("no such file", get(&admin, "/v1/artifacts/01ARZ3NDEKTSV4RRFFQ69G5FAV")),
        ("query: status", get(&admin, "/v1/runs?status=done")),
        ("query: limit", get(&admin, "/v1/runs?limit=1000")),
        ("query: cursor", get(&admin, "/v1/runs?cursor=x")),
        ("query: pipeline", get(&admin, "/v1/runs?pipeline=a%00b")),
        ("query: unknown", get(&admin, "/v1/runs?state=failed")),
        ("JSON: broken", json("{\"params\": {\n  \"email\": }}")),
        ("JSON: a list", json("[]")),
        ("JSON: a list of fields", json("[{}, null, null, null]")),
        ("JSON: null", json("null")),
        ("JSON: unlike", json("{\"params\": []}")),
        ("JSON: unknown field", json("{\"parameters\": {}}")),
        ("JSON: no time", json("{\"run_at\": \"tomorrow\"}")),
        ("JSON: too large", json(&format!("{{\"params\": {{\"email\": \"{}\"}}}}", "x".repeat(70_000)))),
        ("idempotency key", repeated),
        ("media type", post(&admin, RUNS, "text/csv", "a,b")),
        ("params", json("{\"params\": {\"colour\": \"red\"}}")),
        ("file: unlike", json("{\"params\": {\"file\": \"a.csv\"}}")),
        ("file: not there", json("{\"params\": {\"file\": \"s3://uploads/none.csv\"}}")),
        ("file: no such bucket", json("{\"params\": {\"file\": \"s3://nobody/none.csv\"}}")),
        ("file: bucket", post(&writer, RUNS, "application/json", "{\"params\": {\"file\": \"s3://secret/a\"}}")),
        ("form: no boundary", post(&admin, RUNS, "multipart/form-data", "x")),
        ("form: cut", post(&admin, RUNS, "multipart/form-data; boundary=b", form("--b\nContent-"))),
        (
            "form: not a file param",
            post(
                &admin,
                RUNS,
                "multipart/form-data; boundary=b",
                form("--b\nContent-Disposition: form-data; name=\"photo\"; filename=\"a.png\"\n\nx\n--b--\n"),
            ),
        ),
        ("database", json("{\"params\": {\"email\": \"unavailable\"}}")),
        ("panic", Request::get("/panic").body(Body::empty()).unwrap()),
    ];
    let text = shown(&stage, cases).await;
    filters().bind(|| insta::assert_snapshot!("refusals", text));
}

#[tokio::test]
async fn file_error_responses_match_their_snapshot() {
    let stage = Stage::new().await;
    let admin = stage.admin.clone();
    let upload = |content: &str| {
        let head = "--b\nContent-Disposition: form-data; name=\"file\"; filename=\"a.csv\"\n\n";
        post(&admin, RUNS, "multipart/form-data; boundary=b", form(&format!("{head}{content}\n--b--\n")))
    };
    let artifact = |run: &serde_json::Value| format!("/v1/artifacts/{}", run["artifacts"][0]["id"].as_str().unwrap());
    let (kept, gone) = (stage.send(upload("kept")).await.json(), stage.send(upload("gone")).await.json());
    let place = |field: &str| gone["params"]["file"][field].as_str().unwrap();
    stage.objects.delete_object(place("bucket"), place("key")).await.unwrap();
    stage.objects.put_object("uploads", "a.csv", "text/csv", "a".into()).await.unwrap();
    let stale = json!({ "params": { "file": { "bucket": "uploads", "key": "a.csv", "etag": "other" } } });
    let mut range = get(&admin, &artifact(&kept));
    range.headers_mut().insert("range", "bytes=4-".parse().unwrap());
    let cases = vec![
        ("too large", upload(&"x".repeat((1 << 20) + 1))),
        ("changed", post(&admin, RUNS, "application/json", stale.to_string())),
        ("gone", get(&admin, &artifact(&gone))),
        ("range", range),
    ];
    let mut text = shown(&stage, cases).await;
    stage.db.close().await;
    text += &shown(&stage, vec![("not ready", Request::get("/readyz").body(Body::empty()).unwrap())]).await;
    filters().bind(|| insta::assert_snapshot!("refusals_about_files", text));
}

#[tokio::test]
async fn success_responses_match_their_snapshot() {
    let stage = Stage::new().await;
    let admin = stage.admin.clone();
    let upload = form(
        "--b\nContent-Disposition: form-data; name=\"email\"\n\nme@example.com\n\
         --b\nContent-Disposition: form-data; name=\"file\"; filename=\"contacts.csv\"\n\nEmail\na@example.com\n\n--b--\n",
    );
    let cases = vec![
        ("alive", Request::get("/healthz").body(Body::empty()).unwrap()),
        ("ready", Request::get("/readyz").body(Body::empty()).unwrap()),
        ("no runs", get(&admin, "/v1/runs")),
        ("a run by JSON", post(&admin, RUNS, "application/json", json!({ "params": {} }).to_string())),
        ("a run by a form", post(&admin, RUNS, "multipart/form-data; boundary=b", upload)),
        ("runs", get(&admin, "/v1/runs?status=queued&pipeline=contacts-import&limit=1")),
        ("pipelines", get(&admin, "/v1/pipelines")),
        ("a pipeline", get(&admin, "/v1/pipelines/contacts-import")),
        ("the schema", get(&admin, "/v1/schema")),
    ];
    let text = shown(&stage, cases).await;
    filters().bind(|| insta::assert_snapshot!("answers", text));
}

#[tokio::test]
async fn cursors_page_through_all_runs() {
    let stage = Stage::new().await;
    let mut made = Vec::new();
    for _ in 0..5 {
        made.push(stage.run(&stage.admin, json!({})).await.json()["id"].as_str().unwrap().to_owned());
    }
    let (mut seen, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = stage.get(&stage.admin, &format!("/v1/runs?limit=2{cursor}")).await.json();
        seen.extend(page["runs"].as_array().unwrap().iter().map(|run| run["id"].as_str().unwrap().to_owned()));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    made.sort();
    made.reverse();
    assert_eq!(seen, made);
}

#[tokio::test]
async fn unsafe_request_ids_are_replaced() {
    let stage = Stage::new().await;
    for id in ["", "a b", "x\"y", &"a".repeat(200)] {
        let request = Request::get("/healthz").header("x-request-id", id).body(Body::empty()).unwrap();
        let given = stage.send(request).await.headers["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(given.len(), 26, "`{id}` became `{given}`");
    }
    let strange = stage.get(&stage.admin, "/v1/runs/%ff").await;
    assert_eq!((strange.status.as_u16(), strange.code().as_str()), (404, "not_found"));
    assert_eq!(stage.get(&stage.admin, "/v1/runs/%01").await.code(), "run_not_found");
    assert_eq!(stage.get(&stage.admin, "/v1/artifacts/%01").await.code(), "artifact_not_found");
    for path in ["/v1/runs/%00", "/v1/runs/%00%ff", "/v1/artifacts/%00"] {
        let refused = stage.get(&stage.admin, path).await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (422, "text_invalid"), "{path}");
    }
}
