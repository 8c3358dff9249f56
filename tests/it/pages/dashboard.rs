//! The dashboard in a real browser: in light and dark, narrow and wide, with and without JavaScript.

use afterload_dashboard::sign_in_url;
use afterload_server::api::create_sign_in_code;
use serde_json::{Value, json};

use super::browser;
use crate::support::{Database, TestApp};

const GREET: &str = r#"
name: greet
description: Greets, and makes a file
triggers: [{ type: cron, schedule: "0 6 * * MON", timezone: Europe/Paris, with: { note: Morning } }]
params:
  note: { type: string, description: What to say }
  mode: { type: enum, values: [loud, quiet], default: quiet }
  names: { type: list, required: false }
  file: { type: file, accept: [text/csv], required: false }
steps:
  - { id: make, uses: test.step, with: { file: made.txt, give: "${{ params.note }}", units: 3 } }
on_failure:
  - { id: alarm, uses: test.step }
"#;
const BROKEN: &str = "name: broken\nsteps: [{ id: fail, uses: test.step, with: { refuse: no such luck } }]\n";
const REFUSED: &str = "name: refused\nstep: []\n";
/// A name in which nothing can be wrapped at a space.
const LONG_NAME_CHARS: usize = 10_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dashboard_suits_every_scheme_width_and_reader() {
    let builder = TestApp::builder(Database::Sqlite).pipeline("greet", GREET).pipeline("broken", BROKEN);
    let app = builder.pipeline("refused", REFUSED).start().await;
    let hostile = format!("<b>\u{202e}{}", "x".repeat(LONG_NAME_CHARS));
    let run = app.run_to_end("greet", json!({ "note": hostile })).await;
    let failed = app.run_to_end("broken", json!({})).await;
    let db = app.app.engine.db();
    let code = async || create_sign_in_code(db, &["admin".to_owned()]).await.expect("a code");
    let link = sign_in_url(&app.url, &code().await);
    let id = |run: &Value| run["id"].as_str().expect("an id").to_owned();
    let paths = [
        "/ui/".to_owned(),
        "/ui/runs".to_owned(),
        "/ui/runs?q=status%3Aqueued".to_owned(),
        format!("/ui/runs/{}", id(&run)),
        format!("/ui/runs/{}", id(&failed)),
        "/ui/pipelines".to_owned(),
        "/ui/pipelines/greet".to_owned(),
        "/ui/enter".to_owned(),
    ];
    let args: Vec<_> = [link, code().await].into_iter().chain(paths.clone()).collect();
    let output = browser("dashboard.mjs", &args).output().await.expect("node, which the tests need");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let seen: Value = serde_json::from_slice(&output.stdout).expect("what the browser saw");
    assert_eq!(seen["faults"], json!([]), "{seen:#}");
    let pages = seen["pages"].as_array().expect("pages");
    assert_eq!(pages.len(), 4 * paths.len());
    for page in pages {
        assert_eq!((&page["too_wide"], &page["violations"]), (&json!(0), &json!([])), "{page:#}");
    }
    assert!(seen["live"]["started"].as_str().is_some_and(|text| text.contains("from a browser")), "{seen:#}");
    assert_eq!(seen["live"]["kept"], json!([true, "half a wo", "find"]), "{seen:#}");
    assert!(seen["without"]["started"].as_str().is_some_and(|text| text.contains("without JavaScript")), "{seen:#}");
    assert_eq!(seen["without"]["headline"], "1 run failed in the last 24 hours, and 1 pipeline file is not live.");
    // The last runs end before the application does.
    let runs: Value = app.get("/v1/runs").await.json().await.expect("JSON");
    for run in runs["runs"].as_array().expect("runs") {
        app.ended(run).await;
    }
    app.finish().await;
}
