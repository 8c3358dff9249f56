//! Every way in which a run may come to a file.

use serde_json::{Value, json};

use super::{READER_IDS, readers, require_success, run_of_event, step, until_live};
use crate::support::{Database, TestApp, both, eventually};

both!(
    authorized_files_can_be_read,
    files_of_steps_can_be_read,
    new_object_can_be_read,
    files_of_the_author_can_be_read,
);

/// The readers of these expressions, with ids of their own.
fn checks(files: &[&str]) -> (String, Vec<String>) {
    let ids: Vec<_> = (0..files.len()).map(|index| format!("check_{index}")).collect();
    let steps = ids.iter().zip(files);
    let step = |(id, file): (&String, &&str)| {
        format!("\n  - {{ id: {id}, uses: file.check, with: {{ source: \"${{{{ {file} }}}}\" }} }}")
    };
    (steps.map(step).collect(), ids)
}

fn require_checked(run: &Value, ids: &[String]) {
    assert_eq!(run["status"], "succeeded", "{run}");
    require_success(run, &ids.iter().map(String::as_str).collect::<Vec<_>>());
    assert!(!run.to_string().contains("$seal"), "{run}");
}

/// The steps of `authorized_files_can_be_read`, but for its checks and readers.
const AUTHORIZED: &str = r#"name: p
params: { file: { type: file }, files: { type: list, items: { type: file } } }
steps:
  - { id: echo, uses: test.step, with: { give: { deep: ["${{ params.file }}"] } } }
  - { id: each, uses: file.check, for_each: { items: "${{ params.files }}" }, with: { source: "${{ item }}" } }
  - { id: wrapped, uses: file.check, for_each: { items: ["${{ {'in': params.file} }}"] }, with: { source: "${{ item.in }}" } }"#;

async fn authorized_files_can_be_read(database: Database) {
    let renamed = "{'bucket': params.file.bucket, 'key': params.file.key, 'etag': params.file.etag, \
                   'artifact_id': params.file.artifact_id, 'name': 'renamed'}";
    let (more, ids) = checks(&["params.files[0]", "params.files[1]", "steps.echo.value.deep[0]", renamed]);
    let yaml = format!("{AUTHORIZED}{more}{}", readers("params.file"));
    let app = TestApp::builder(database).pipeline("p", &yaml).start().await;
    app.sql("CREATE TABLE contacts (a TEXT)").await;
    app.app.engine.objects().ensure_bucket("uploads").await.unwrap();
    let stored = app.put("uploads", "in/a.csv", "a\n1\n").await;
    let place = json!({ "bucket": "uploads", "key": "in/a.csv", "etag": stored.etag });
    let files = json!([place, "s3://uploads/in/a.csv"]);
    for file in [json!("s3://uploads/in/a.csv"), place] {
        let run = app.run_to_end("p", json!({ "file": file, "files": files })).await;
        require_checked(&run, &ids);
        require_success(&run, &["each", "wrapped", "attach", "attach_list", "inline", "check", "import"]);
    }
    let part = reqwest::multipart::Part::bytes(b"a\n1\n".to_vec()).file_name("b.csv");
    let form = reqwest::multipart::Form::new().part("file", part).text("files", files.to_string());
    let request = app.client.post(format!("{}/v1/pipelines/p/runs", app.url)).bearer_auth(&app.admin_key);
    let uploaded: Value = request.multipart(form).send().await.unwrap().json().await.unwrap();
    let uploaded = app.ended(&uploaded).await;
    // A later run may have the file, too.
    let artifact = json!({ "artifact_id": uploaded["artifacts"][0]["id"] });
    let later = app.run_to_end("p", json!({ "file": artifact, "files": files })).await;

    let params = json!({ "files": files });
    let announced = json!({ "pipeline": "p", "param": "file", "filename": "c.csv", "size": 4, "params": params });
    let (status, ticket) = app.post("/v1/uploads", announced).await;
    assert_eq!(status, 201, "{ticket}");
    let url = |name: &str| ticket[name].as_str().unwrap().to_owned();
    let sent = app.client.put(url("url")).header("content-type", "text/csv").body("a\n1\n").send().await.unwrap();
    assert_eq!(sent.status(), 204);
    let direct: Value = app.client.post(url("complete_url")).send().await.unwrap().json().await.unwrap();
    let direct = app.ended(&direct).await;
    for run in [uploaded, later, direct] {
        require_checked(&run, &ids);
        require_success(&run, &["each", "wrapped", "attach", "attach_list", "inline", "link", "check", "import"]);
    }
    app.finish().await;
}

async fn files_of_steps_can_be_read(database: Database) {
    let head = r#"
steps:
  - { id: make, uses: test.step, with: { file: a.csv } }
  - { id: many, uses: test.step, for_each: { items: [1, 2] }, with: { file: b.csv } }
  - { id: own, uses: test.step, output: { bucket: public, key: "${{ run.id }}/${{ file.name }}" }, with: { file: c.csv } }
  - { id: echo, uses: test.step, with: { give: ["${{ steps.make.file }}"] } }
  - { id: each, uses: file.check, for_each: { items: "${{ steps.many.items }}" }, with: { source: "${{ item.file }}" } }
  - { id: mail, uses: email.send, for_each: { items: "${{ steps.many.items }}" }, with: { to: a@example.com, subject: s, body: b, links: { it: "${{ item.file }}" }, attach: ["${{ item.file }}", "${{ steps.own.file }}"] } }"#;
    let (more, ids) = checks(&["steps.make.file", "steps.many.items[1].file", "steps.own.file", "steps.echo.value[0]"]);
    let yaml = format!("name: p\n{}{more}{}", head.trim_start(), readers("steps.make.file"));
    let app = TestApp::builder(database).pipeline("p", &yaml).start().await;
    app.sql("CREATE TABLE contacts (a TEXT)").await;
    let run = app.run_to_end("p", json!({})).await;
    require_checked(&run, &ids);
    require_success(&run, &["each", "mail", "attach", "attach_list", "inline", "link", "check"]);
    // The others got the file, too: it is no picture, and it has no column `a`.
    for id in ["resize", "import"] {
        let code = step(&run, id)["error"]["code"].as_str().unwrap_or_else(|| panic!("{run}"));
        assert!(READER_IDS.contains(&id) && code != "file_not_authorized", "{id}: {code}");
    }
    app.finish().await;
}

async fn new_object_can_be_read(database: Database) {
    let (more, ids) = checks(&["event.file", "params.file", "params.any.deep"]);
    let yaml = format!(
        "name: p\ntriggers: [{{ type: s3, bucket: uploads, with: {{ file: \"${{{{ event.file }}}}\", any: {{ deep: \"${{{{ event.file }}}}\" }} }} }}]\n\
         params: {{ file: {{ type: file }}, any: {{ type: object }} }}\nsteps:{more}{}",
        readers("params.file")
    );
    let only = format!(
        "name: only\ntriggers: [{{ type: s3, bucket: uploads }}]\nparams: {{ f: {{ type: file }} }}\nsteps:{}",
        checks(&["params.f"]).0
    );
    let app = TestApp::builder(database).pipeline("p", &yaml).pipeline("only", &only).start().await;
    app.sql("CREATE TABLE contacts (a TEXT)").await;
    app.put("uploads", "a.csv", "a\n1\n").await;
    let runs = eventually("the runs", async || {
        let runs: Value = app.get("/v1/runs").await.json().await.unwrap();
        let runs = runs["runs"].as_array().unwrap().clone();
        (runs.len() == 2).then_some(runs)
    })
    .await;
    for run in runs {
        let run = app.ended(&run).await;
        if run["pipeline"] == "p" {
            require_checked(&run, &ids);
            require_success(&run, &["attach", "attach_list", "inline", "check", "import"]);
            // An object of the user is no artifact.
            assert_eq!(step(&run, "link")["error"]["code"], "mail_link_impossible", "{run}");
        }
        assert_eq!(run["status"], "succeeded", "{run}");
    }
    app.until_no_events().await;
    app.finish().await;
}

/// The author of a pipeline may name any file: in the `with` of a trigger, and as a default.
async fn files_of_the_author_can_be_read(database: Database) {
    let (steps, ids) = checks(&["params.named", "params.usual", "params.other"]);
    let yaml = format!(
        "name: p\ntriggers: [{{ type: event, name: go, with: {{ named: \"s3://assets/a.csv\" }} }}]\nparams:\n  named: {{ type: file }}\n  \
         usual: {{ type: file, default: \"s3://assets/b.csv\" }}\n  other: {{ type: file, default: \"s3://assets/b.csv\" }}\nsteps:{steps}"
    );
    let app = TestApp::builder(database).start().await;
    app.app.engine.objects().ensure_bucket("assets").await.unwrap();
    app.put("assets", "a.csv", "a\n1\n").await;
    app.put("assets", "b.csv", "a\n1\n").await;
    std::fs::write(app.config.pipelines.join("p.yaml"), yaml).unwrap();
    until_live(&app, "p").await;
    let run = run_of_event(&app, "go", json!({})).await;
    require_checked(&run, &ids);
    app.finish().await;
}
