//! Seals and tokens while the secret key changes, and seals that are not those of the run.

use afterload::config::Secret;
use serde_json::json;

use super::{require_refused, require_success, start_held_run, step, stored_text};
use crate::support::{Database, TestApp, both};

both!(replaced_key_stays_valid_while_it_is_listed, run_without_its_own_seals_reads_no_file);

/// The key of every test application on PostgreSQL.
const FIRST_KEY: &str = "a-secret-key-for-tests-of-32-characters";
const SECOND_KEY: &str = "another-secret-key-for-tests-of-48-characters-xy";

/// A pipeline that reads its files once its gate is open.
fn held_pipeline(name: &str, dir: &std::path::Path) -> String {
    let gate = dir.join(name).display().to_string();
    let steps = r#"
params: { file: { type: file } }
steps:
  - { id: make, uses: test.step, with: { file: a.txt } }
  - { id: many, uses: test.step, for_each: { items: [1] }, with: { file: b.txt } }
  - { id: hold, uses: test.step, with: { until: "GATE" } }
  - { id: param, uses: file.check, continue_on_error: true, with: { source: "${{ params.file }}" } }
  - { id: made, uses: file.check, continue_on_error: true, with: { source: "${{ steps.make.file }}" } }
  - { id: item, uses: file.check, continue_on_error: true, with: { source: "${{ steps.many.items[0].file }}" } }
  - { id: link, uses: email.send, continue_on_error: true, with: { to: a@example.com, subject: s, body: b, links: { it: "${{ steps.make.file }}" } } }
"#;
    format!("name: {name}{}", steps.replace("GATE", &gate))
}

const HELD_READERS: [&str; 4] = ["param", "made", "item", "link"];

async fn app(database: Database) -> TestApp {
    let builder = TestApp::builder(database);
    let (first, second) = (held_pipeline("first", builder.folder()), held_pipeline("second", builder.folder()));
    let builder = builder.pipeline("first", &first).pipeline("second", &second);
    builder.config(|config| config.secret_key = Some(Secret::new(FIRST_KEY))).start().await
}

fn open_gate(app: &TestApp, pipeline: &str) {
    std::fs::write(app.dir.path().join(pipeline), "").unwrap();
}

async fn replaced_key_stays_valid_while_it_is_listed(database: Database) {
    let mut app = app(database).await;
    let (run, other) = (start_held_run(&app, "first").await, start_held_run(&app, "second").await);
    let announced = json!({ "pipeline": "second", "filename": "c.csv", "size": 4 });
    let (_, ticket) = app.post("/v1/uploads", announced).await;
    // Addresses change with the port of each process.
    let path =
        |url: &serde_json::Value| url.as_str().unwrap().split_once("/v1/").expect("a path of the API").1.to_owned();
    let (watch, upload) = (path(&run["watch_url"]), path(&ticket["url"]));

    app.config.secret_key = Some(Secret::new(SECOND_KEY));
    app.config.previous_secret_keys = vec![Secret::new(FIRST_KEY)];
    let mut app = app.restart().await;
    let watched = app.client.get(format!("{}/v1/{watch}", app.url)).send().await.unwrap();
    assert_eq!(watched.status(), 200);
    let sent = app.client.put(format!("{}/v1/{upload}", app.url)).body("a\n1\n").send().await.unwrap();
    assert_eq!(sent.status(), 204);
    open_gate(&app, "first");
    let run = app.ended(&run).await;
    require_success(&run, &HELD_READERS);
    let mail = app.mails().pop().expect("a mail");
    let link = mailparse::parse_mail(mail.as_bytes()).unwrap().get_body().unwrap();
    let link = link.lines().find_map(|line| line.strip_prefix("it: ")).unwrap().split_once("/d/").unwrap().1.to_owned();

    app.config.previous_secret_keys.clear();
    let mut app = app.restart().await;
    open_gate(&app, "second");
    require_refused(&app.ended(&other).await, &HELD_READERS);
    let watched = app.client.get(format!("{}/v1/{watch}", app.url)).send().await.unwrap();
    assert_eq!(watched.status(), 401);
    assert_eq!(app.client.get(format!("{}/d/{link}", app.url)).send().await.unwrap().status(), 200);

    // The link was signed with the second key.
    app.config.secret_key = Some(Secret::new("yet-another-secret-key-for-tests-of-51-characters-x"));
    app.config.previous_secret_keys = vec![Secret::new(FIRST_KEY)];
    let mut app = app.restart().await;
    assert_eq!(app.client.get(format!("{}/d/{link}", app.url)).send().await.unwrap().status(), 404);
    app.config.previous_secret_keys.push(Secret::new(SECOND_KEY));
    let app = app.restart().await;
    assert_eq!(app.client.get(format!("{}/d/{link}", app.url)).send().await.unwrap().status(), 200);
    app.finish().await;
}

async fn run_without_its_own_seals_reads_no_file(database: Database) {
    let app = app(database).await;
    let (run, other) = (start_held_run(&app, "first").await, start_held_run(&app, "second").await);
    let [id, other_id] = [&run, &other].map(|run| run["id"].as_str().unwrap().to_owned());
    let db = app.app.engine.db();
    // One run has the seals of the other, and the other has none, as before there were any.
    for (table, column, at) in [
        ("runs", "params", "id"),
        ("step_runs", "outputs", "step_id = 'make' AND run_id"),
        ("step_runs", "outputs", "step_id = 'many' AND run_id"),
    ] {
        let sql = format!(
            "UPDATE {table} SET {column} = (SELECT {column} FROM {table} WHERE {at} = '{other_id}') WHERE {at} = '{id}'"
        );
        assert_eq!(db.execute(&sql, &[]).await.unwrap(), 1, "{sql}");
        let sql = format!("UPDATE {table} SET {column} = REPLACE({column}, '$seal', 'none') WHERE {at} = '{other_id}'");
        assert_eq!(db.execute(&sql, &[]).await.unwrap(), 1, "{sql}");
    }
    assert!(stored_text(&app, &format!("SELECT params AS t FROM runs WHERE id = '{id}'")).await.contains("$seal"));
    open_gate(&app, "first");
    open_gate(&app, "second");
    for run in [run, other] {
        let run = app.ended(&run).await;
        require_refused(&run, &HELD_READERS);
        assert!(
            step(&run, "param")["error"]["message"].as_str().unwrap().starts_with("the run may not read `uploads/")
        );
    }
    assert!(app.mails().is_empty());
    app.finish().await;
}
