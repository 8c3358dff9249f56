//! Forms, JSON and URLs whose parts, names, files and texts are too many or not to be stored.

use std::fmt::Write;

use reqwest::Body;
use reqwest::header::CONTENT_TYPE;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both};

both!(
    undeclared_part_is_refused_before_its_content,
    parts_and_files_are_counted,
    chunked_form_is_limited_in_all,
    unknown_params_are_counted_and_not_all_listed,
    list_param_is_limited,
    nul_is_refused_in_every_text,
);

const PIPELINE: &str = "
name: p
params:
  file: { type: file, required: false, max_size: 1kb }
  photos: { type: list, items: { type: file }, required: false, max_items: 4 }
  note: { type: string, required: false }
  codes: { type: list, items: { type: string, pattern: '^[a-z]+$' }, required: false, max_items: 3 }
steps: [{ id: one, uses: test.step }]
";
const MEDIA: &str = "multipart/form-data; boundary=xYzZY";

async fn app(database: Database) -> TestApp {
    TestApp::builder(database)
        .pipeline("p", PIPELINE)
        .config(|config| {
            config.limits.form_parts = 20;
            config.limits.files = 3;
            config.limits.upload = "64kb".parse().unwrap();
        })
        .start()
        .await
}

fn part(head: &str, content: &str) -> String {
    format!("--xYzZY\r\nContent-Disposition: form-data; {head}\r\n\r\n{content}\r\n")
}

async fn send(app: &TestApp, media: &str, body: impl Into<Body>) -> (u16, Value) {
    let request = app.client.post(format!("{}/v1/pipelines/p/runs", app.url)).bearer_auth(&app.admin_key);
    let answer = request.header(CONTENT_TYPE, media).body(body).send().await.expect("an answer");
    (answer.status().as_u16(), answer.json().await.expect("JSON"))
}

async fn send_form(app: &TestApp, parts: &str) -> (u16, Value) {
    send(app, MEDIA, format!("{parts}--xYzZY--\r\n")).await
}

/// Asserts that no run and no uploaded file is left.
async fn assert_nothing_stays(app: &TestApp) {
    let runs: Value = app.get("/v1/runs").await.json().await.unwrap();
    assert_eq!(runs["runs"], json!([]));
    let left = app.app.engine.objects().delete_prefix(&app.config.objects.artifacts, "uploads/").await.unwrap();
    assert_eq!(left, 0, "uploads stay in the store");
}

async fn undeclared_part_is_refused_before_its_content(database: Database) {
    let app = app(database).await;
    // The content is larger than all text of a form may be, and is not what the answer is about.
    let (status, problem) = send_form(&app, &part("name=\"nota\"", &"x".repeat(2 << 20))).await;
    assert_eq!((status, &problem["code"]), (422, &json!("params_invalid")), "{problem}");
    assert_eq!(
        problem["details"],
        json!([{
            "param": "nota",
            "code": "param_unknown",
            "message": "the pipeline has no such param; did you mean `note`?",
        }])
    );
    assert_nothing_stays(&app).await;
    app.finish().await;
}

async fn parts_and_files_are_counted(database: Database) {
    let app = app(database).await;
    let empty = part("name=\"file\"; filename=\"\"", "");
    let (status, problem) = send_form(&app, &empty.repeat(21)).await;
    assert_eq!((status, &problem["code"]), (422, &json!("too_many_parts")), "{problem}");
    let photo = part("name=\"photos\"; filename=\"a.jpg\"", "x");
    let (status, problem) = send_form(&app, &photo.repeat(4)).await;
    assert_eq!((status, &problem["code"]), (422, &json!("too_many_files")), "{problem}");
    assert_nothing_stays(&app).await;
    // Files that are named count as well, before the store is asked for them.
    let named = json!({ "params": { "photos": vec!["s3://uploads/none.jpg"; 4] } });
    let (status, problem) = app.post("/v1/pipelines/p/runs", named).await;
    assert_eq!((status, &problem["code"]), (422, &json!("too_many_files")), "{problem}");
    let both = photo.repeat(3) + &part("name=\"file\"", "s3://uploads/none.jpg");
    assert_eq!(send_form(&app, &both).await.1["code"], "too_many_files");
    assert_nothing_stays(&app).await;
    let (status, run) = send_form(&app, &(photo.repeat(3) + &empty.repeat(17))).await;
    assert_eq!((status, run["params"]["photos"].as_array().map(Vec::len)), (202, Some(3)), "{run}");
    app.ended(&run).await;
    app.finish().await;
}

async fn chunked_form_is_limited_in_all(database: Database) {
    let app = app(database).await;
    let file = part("name=\"file\"; filename=\"a.csv\"", &"x".repeat(2 << 10));
    let note = part("name=\"note\"", &"x".repeat(3 << 20));
    for (form, code) in [(file, "upload_too_large"), (note, "body_too_large")] {
        // A stream announces no length.
        let chunks: Vec<_> =
            form.as_bytes().chunks(60_000).map(|chunk| Ok::<_, std::io::Error>(chunk.to_vec())).collect();
        let (status, problem) = send(&app, MEDIA, Body::wrap_stream(futures::stream::iter(chunks))).await;
        assert_eq!((status, &problem["code"]), (413, &json!(code)), "{problem}");
        assert_nothing_stays(&app).await;
    }
    app.finish().await;
}

async fn unknown_params_are_counted_and_not_all_listed(database: Database) {
    let app = app(database).await;
    let mut names = String::new();
    for number in 0..10_000 {
        write!(names, "\"unknown-{number}\":0,").unwrap();
    }
    let long = format!("\"{}\":0", "x".repeat(500_000));
    let bodies = [
        ("application/json", format!("{{\"params\":{{{names}{long}}}}}")),
        (MEDIA, part("name=\"params\"", &format!("{{{names}{long}}}")) + "--xYzZY--\r\n"),
    ];
    for (media, body) in bodies {
        let (status, problem) = send(&app, media, body).await;
        assert_eq!((status, &problem["code"]), (422, &json!("params_invalid")), "{media}");
        assert_eq!(problem["details"].as_array().unwrap().len(), 20);
        assert!(problem["detail"].as_str().unwrap().ends_with("; and 9981 more"), "{problem}");
        assert!(problem.to_string().len() < 10_000, "the answer repeats its request");
    }
    for option in ["run_at", "queue", "notify_url"] {
        let (status, problem) = app.post("/v1/pipelines/p/runs", json!({ option: "x".repeat(900_000) })).await;
        assert_eq!(status, 422, "{option}");
        assert!(problem.to_string().len() < 100_000, "the answer for `{option}` repeats its request");
    }
    app.finish().await;
}

async fn list_param_is_limited(database: Database) {
    let app = app(database).await;
    let (status, problem) =
        app.post("/v1/pipelines/p/runs", json!({ "params": { "codes": ["a", "b", "c", "d"] } })).await;
    assert_eq!((status, &problem["code"]), (422, &json!("params_invalid")));
    assert_eq!(
        problem["details"],
        json!([{ "param": "codes", "code": "param_too_many_items", "message": "it has 4 items; at most 3 are accepted" }])
    );
    let run = app.run_to_end("p", json!({ "codes": ["a", "b", "c"] })).await;
    assert_eq!(run["status"], "succeeded");
    app.finish().await;
}

async fn nul_is_refused_in_every_text(database: Database) {
    let app = app(database).await;
    let runs = "/v1/pipelines/p/runs";
    let url = "https://example.com/a\0b";
    let bodies = [
        (runs, json!({ "notify_url": url })),
        (runs, json!({ "queue": "a\0b" })),
        (runs, json!({ "run_at": "a\0b" })),
        (runs, json!({ "params": { "note": "a\0b" } })),
        (runs, json!({ "params": { "a\0b": 1 } })),
        (runs, json!({ "params": { "file": { "bucket": "uploads", "key": "a\0b" } } })),
        ("/v1/events/order.accepted", json!({ "id": "a\0b" })),
        ("/v1/uploads", json!({ "pipeline": "p", "filename": "a\0b", "size": 1 })),
        ("/v1/uploads", json!({ "pipeline": "a\0b", "filename": "a", "size": 1 })),
        ("/v1/pipelines/p/runs?notify_url=https://example.com/%00", json!({})),
        ("/v1/pipelines/p%00/runs", json!({})),
        ("/v1/events/a%00b", json!({})),
        ("/v1/queues/a%00b/pause", json!({})),
    ];
    for (path, body) in bodies {
        let (status, problem) = app.post(path, body.clone()).await;
        assert_eq!((status, &problem["code"]), (422, &json!("text_invalid")), "{path} {body}: {problem}");
    }
    for path in ["/v1/runs?pipeline=%00", "/v1/runs/%00", "/v1/runs?cursor=a%00", "/d/%00", "/v1/artifacts/%00/links"] {
        let answer = app.get(path).await;
        assert_eq!(answer.status().as_u16(), 422, "{path}");
        assert_eq!(answer.json::<Value>().await.unwrap()["code"], "text_invalid", "{path}");
    }
    for parts in [
        part("name=\"note\"", "a\0b"),
        part("name=\"params\"", r#"{"note": "a\u0000b"}"#),
        part("name=\"params\"", r#"{"note\u0000": 1}"#),
    ] {
        assert_eq!(send_form(&app, &parts).await.1["code"], "text_invalid", "{parts:?}");
    }
    // What comes to the database in another way is refused there, alike on both.
    let error = app.app.engine.db().dedup_keys().find("p", "test", "a\0b").await.unwrap_err();
    assert_eq!(error.code().name(), "text_invalid");
    assert_nothing_stays(&app).await;
    app.finish().await;
}
