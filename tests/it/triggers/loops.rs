//! Pipelines that start each other where no definition shows it: the number of hops ends the chain.

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both};

both!(chain_of_runs_ends_at_the_limit_of_hops);

/// The ending comes from a param, so that nobody can tell before a run what the object starts.
const THERE: &str = r#"
name: there
triggers: [{ type: s3, bucket: uploads, prefix: there/, suffix: .txt }]
params: { ending: { type: string, default: txt } }
steps:
  - { id: one, uses: test.step, with: { file: a.txt }, output: { bucket: uploads, key: "back/${{ run.id }}.${{ params.ending }}" } }
"#;
const BACK: &str = r#"
name: back
triggers: [{ type: s3, bucket: uploads, prefix: back/, suffix: .txt }]
params: { ending: { type: string, default: txt } }
steps:
  - { id: one, uses: test.step, with: { file: a.txt }, output: { bucket: uploads, key: "there/${{ run.id }}.${{ params.ending }}" } }
"#;
/// It sends itself the event that starts it.
const ECHO: &str = r#"
name: echo
triggers: [{ type: event, name: ping }]
steps:
  - id: one
    uses: http.request
    with:
      url: "${{ event.base | safe_url }}/v1/events/ping"
      headers: { Authorization: "Bearer ${{ event.key }}" }
      json: { base: "${{ event.base }}", key: "${{ event.key }}" }
      expect: 202
"#;

async fn chain_of_runs_ends_at_the_limit_of_hops(database: Database) {
    let app = TestApp::builder(database)
        .pipeline("there", THERE)
        .pipeline("back", BACK)
        .pipeline("echo", ECHO)
        .config(|config| {
            config.limits.hops = 3;
            config.http.allow = vec!["127.0.0.1".into()];
        })
        .start()
        .await;
    app.put("uploads", "there/first.txt", "one").await;
    let runs = app.until_runs(5).await;
    let seen: Vec<_> = runs.iter().map(|run| (run.pipeline.as_str(), run.hops, run.status.as_str())).collect();
    let expected = [
        ("there", 0, "succeeded"),
        ("back", 1, "succeeded"),
        ("there", 2, "succeeded"),
        ("back", 3, "succeeded"),
        ("there", 4, "failed"),
    ];
    assert_eq!(seen, expected);
    let written = format!("there/{}.txt", runs[3].id);
    let head = app.app.engine.objects().head_version("uploads", &written, None).await.unwrap();
    assert_eq!(head.hops, 4, "the object that starts no run stays");
    let shown = app.show(&runs[4].id).await;
    assert_eq!((&shown["error"]["code"], &shown["hops"]), (&json!("hops_exceeded"), &json!(4)));
    let hint = shown["error"]["hint"].as_str().unwrap_or_default();
    assert!(hint.contains("limits.hops"), "{shown}");

    let event = json!({ "base": app.url, "key": app.admin_key });
    let (status, answer) = app.post("/v1/events/ping", event).await;
    assert_eq!((status, answer["runs"].as_array().map(Vec::len)), (202, Some(1)), "{answer}");
    let runs = app.until_runs(10).await;
    let echoes: Vec<_> = runs[5..].iter().map(|run| (run.pipeline.as_str(), run.hops, run.status.as_str())).collect();
    let status = |hops: u32| if hops <= 3 { "succeeded" } else { "failed" };
    assert_eq!(echoes, [0, 1, 2, 3, 4].map(|hops| ("echo", hops, status(hops))));

    // A call that is too far down a chain is answered, and recorded nowhere.
    let request = app.client.post(format!("{}/v1/pipelines/echo/runs", app.url)).bearer_auth(&app.admin_key);
    let call = |hops: &str| request.try_clone().unwrap().header("afterload-hops", hops).json(&json!({}));
    for (hops, code) in [("4", "hops_exceeded"), ("many", "header_invalid")] {
        let answer: Value = call(hops).send().await.unwrap().json().await.unwrap();
        assert_eq!(answer["code"], code);
    }
    let metrics = app.get("/metrics").await.text().await.unwrap();
    for (pipeline, count) in [("there", 1), ("echo", 2)] {
        let line = format!("afterload_chains_stopped_total{{pipeline=\"{pipeline}\"}} {count}\n");
        assert!(metrics.contains(&line), "{line}{metrics}");
    }
    app.finish().await;
}
