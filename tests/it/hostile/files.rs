//! Which files a run may read: those that were authorized for it, and those that its steps made.

mod forged;
mod leaks;
mod legal;
mod rotation;

use serde_json::{Value, json};

use crate::support::{TestApp, eventually};

/// Steps that read the file `FILE`, each in its own way.
const READERS: &str = r#"
  - { id: attach, uses: email.send, continue_on_error: true, with: { to: a@example.com, subject: s, body: b, attach: "${{ FILE }}" } }
  - { id: attach_list, uses: email.send, continue_on_error: true, with: { to: a@example.com, subject: s, body: b, attach: ["${{ FILE }}"] } }
  - { id: inline, uses: email.send, continue_on_error: true, with: { to: a@example.com, subject: s, html: "<img src='cid:it'>", inline: { it: "${{ FILE }}" } } }
  - { id: link, uses: email.send, continue_on_error: true, with: { to: a@example.com, subject: s, body: b, links: { it: "${{ FILE }}" } } }
  - { id: check, uses: file.check, continue_on_error: true, with: { source: "${{ FILE }}" } }
  - { id: resize, uses: image.resize, continue_on_error: true, with: { source: "${{ FILE }}", styles: { s: "10x10" } } }
  - { id: import, uses: csv.import, continue_on_error: true, with: { source: "${{ FILE }}", into: { table: contacts }, columns: { a: {} } } }
"#;
const READER_IDS: [&str; 7] = ["attach", "attach_list", "inline", "link", "check", "resize", "import"];

/// The `readers` of this expression.
fn readers(file: &str) -> String {
    READERS.replace("FILE", file)
}

/// The step of a run with this id.
fn step<'a>(run: &'a Value, id: &str) -> &'a Value {
    let steps = run["steps"].as_array().expect("steps");
    steps.iter().find(|step| step["id"] == id).unwrap_or_else(|| panic!("no step `{id}`: {run}"))
}

/// Requires that these steps were refused their file, at the first attempt.
fn require_refused(run: &Value, steps: &[&str]) {
    for id in steps {
        let step = step(run, id);
        let refused = (&step["status"], &step["error"]["code"], &step["attempt"]);
        assert_eq!(refused, (&json!("failed"), &json!("file_not_authorized"), &json!(1)), "{id}: {step}");
        assert!(step["error"]["hint"].as_str().is_some_and(|hint| hint.contains("params of type `file`")), "{step}");
    }
}

/// Requires that these steps succeeded.
fn require_success(run: &Value, steps: &[&str]) {
    for id in steps {
        assert_eq!(step(run, id)["status"], "succeeded", "{id}: {run}");
    }
}

/// Waits for the end of the run that an event started.
async fn run_of_event(app: &TestApp, name: &str, body: Value) -> Value {
    let (status, heard) = app.post(&format!("/v1/events/{name}"), body).await;
    assert_eq!(status, 202, "{heard}");
    app.ended(&json!({ "id": heard["runs"][0] })).await
}

/// Reads one text from the database of the service.
async fn stored_text(app: &TestApp, sql: &str) -> String {
    let row = app.app.engine.db().fetch_optional(sql, &[]).await.unwrap();
    row.expect("a row").get_text("t").unwrap()
}

/// Starts a run with an uploaded file, and waits until its step `hold` runs.
async fn start_held_run(app: &TestApp, pipeline: &str) -> Value {
    let run = app.upload(pipeline, "a.csv", b"a\n1\n".to_vec()).await;
    app.step_is(&run, "hold", "running").await;
    run
}

/// Waits until a pipeline is live.
async fn until_live(app: &TestApp, name: &str) {
    let path = format!("/v1/pipelines/{name}");
    eventually("a pipeline", async || (app.get(&path).await.status() == 200).then_some(())).await;
}
