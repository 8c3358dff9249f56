//! Pipeline files that are added, changed and removed while the service runs.

use std::os::unix::fs::symlink;
use std::path::Path;

use afterload::app::RunningService;
use afterload::config::{Config, WatchMode};
use serde_json::{Value, json};

use crate::support::{Database, Place, TestApp, both, eventually, kinds};

both!(
    pipeline_is_live_while_its_file_exists,
    invalid_file_is_refused_and_old_version_stays_live,
    file_that_is_not_utf8_is_refused_and_old_version_stays_live,
    file_that_closes_a_loop_is_refused_until_it_is_open,
    polling_detects_changes_without_file_events,
    run_keeps_its_definition,
    other_service_on_same_database_shows_published_pipelines
);

fn yaml(name: &str, give: u32) -> String {
    format!("name: {name}\nsteps:\n  - {{ id: a, uses: test.step, with: {{ give: {give} }} }}\n")
}

async fn catalogue(app: &TestApp) -> Value {
    app.get("/v1/pipelines").await.json().await.unwrap()
}

/// Waits until the live definition of the pipeline is this text.
async fn live(app: &TestApp, name: &str, text: &str) {
    eventually("a pipeline to be live", async || {
        let one: Value = app.get(&format!("/v1/pipelines/{name}")).await.json().await.unwrap();
        (one["source"] == text).then_some(())
    })
    .await;
}

async fn gone(app: &TestApp, name: &str) {
    let path = format!("/v1/pipelines/{name}");
    eventually("a pipeline to be gone", async || (app.get(&path).await.status() == 404).then_some(())).await;
}

/// Lists the first problem of each refused file as `file: code line:col`.
async fn refused(app: &TestApp) -> Vec<String> {
    let line = |file: &Value| {
        let (path, problem) = (file["file"].as_str().unwrap(), &file["problems"][0]);
        let name = Path::new(path).file_name().unwrap().to_str().unwrap();
        format!("{name}: {} {}:{}", problem["code"].as_str().unwrap(), problem["line"], problem["col"])
    };
    catalogue(app).await["refused"].as_array().unwrap().iter().map(line).collect()
}

/// Replaces a file atomically, as editors do: write a new file, then rename it.
fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("swp");
    std::fs::write(&beside, text).unwrap();
    std::fs::rename(beside, path).unwrap();
}

async fn pipeline_is_live_while_its_file_exists(database: Database) {
    let app = TestApp::builder(database).start().await;
    let path = app.config.pipelines.join("p.yaml");
    for give in 1..4 {
        let text = yaml("p", give);
        if give == 2 {
            std::fs::write(&path, &text).unwrap();
        } else {
            replace(&path, &text);
        }
        live(&app, "p", &text).await;
        let run = app.run_to_end("p", json!({})).await;
        assert_eq!(run["steps"][0]["outputs"]["value"], give);
    }
    std::fs::rename(&path, app.config.pipelines.join("q.yaml")).unwrap();
    gone(&app, "p").await;
    assert_eq!(refused(&app).await, ["q.yaml: definition_invalid 1:7"], "its name is another one than the file's");
    replace(&app.config.pipelines.join("q.yaml"), &yaml("q", 4));
    live(&app, "q", &yaml("q", 4)).await;
    assert!(refused(&app).await.is_empty());
    std::fs::remove_file(app.config.pipelines.join("q.yaml")).unwrap();
    gone(&app, "q").await;
    let start = app.client.post(format!("{}/v1/pipelines/q/runs", app.url)).bearer_auth(&app.admin_key);
    assert_eq!(start.send().await.unwrap().status(), 404);
    app.finish().await;
}

async fn invalid_file_is_refused_and_old_version_stays_live(database: Database) {
    let app = TestApp::builder(database).pipeline("p", &yaml("p", 1)).start().await;
    let path = app.config.pipelines.join("p.yaml");
    std::fs::write(&path, "name: p\nsteps:\n  - { id: a, uses: test.stepp }\n").unwrap();
    let told = eventually("a refusal", async || Some(refused(&app).await).filter(|told| !told.is_empty())).await;
    assert_eq!(told, ["p.yaml: definition_invalid 3:20"]);
    live(&app, "p", &yaml("p", 1)).await;
    assert_eq!(app.run_to_end("p", json!({})).await["status"], "succeeded");
    std::fs::write(&path, yaml("p", 2)).unwrap();
    live(&app, "p", &yaml("p", 2)).await;
    assert!(refused(&app).await.is_empty());
    // A missing template is an error of the pipeline. Adding the template fixes the pipeline.
    let mail = "name: m\nsteps:\n  - { id: m, uses: email.send, with: { to: a@example.com, template: hello } }\n";
    std::fs::write(app.config.pipelines.join("m.yaml"), mail).unwrap();
    eventually("a refusal", async || (refused(&app).await == ["m.yaml: definition_invalid 3:69"]).then_some(())).await;
    let template = app.config.templates.join("email/hello");
    std::fs::create_dir_all(&template).unwrap();
    std::fs::write(template.join("subject.txt"), "Hello").unwrap();
    std::fs::write(template.join("body.txt"), "You").unwrap();
    live(&app, "m", mail).await;
    app.finish().await;
}

/// A character of another encoding must not become part of the live definition in its place.
async fn file_that_is_not_utf8_is_refused_and_old_version_stays_live(database: Database) {
    let app = TestApp::builder(database).pipeline("p", &yaml("p", 1)).start().await;
    let path = app.config.pipelines.join("p.yaml");
    let latin1 = [yaml("p", 2).as_bytes(), b"description: caf\xe9\n"].concat();
    let utf16: Vec<u8> = "\u{feff}name: p\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let wrong_byte = yaml("p", 2).len() + "description: caf".len();
    for (bytes, at, hint) in [(latin1, wrong_byte, "save it as UTF-8"), (utf16, 0, "UTF-16")] {
        std::fs::write(&path, bytes).unwrap();
        let message = format!("the file is not UTF-8; byte {at} is the first that is wrong");
        let problem = eventually("a refusal", async || {
            let problem = catalogue(&app).await["refused"][0]["problems"][0].clone();
            (problem["message"] == message).then_some(problem)
        })
        .await;
        assert_eq!(problem["code"], "definition_invalid");
        assert!(problem["hint"].as_str().unwrap().contains(hint), "{problem}");
        live(&app, "p", &yaml("p", 1)).await;
    }
    assert_eq!(app.run_to_end("p", json!({})).await["steps"][0]["outputs"]["value"], 1);
    std::fs::write(&path, yaml("p", 3)).unwrap();
    live(&app, "p", &yaml("p", 3)).await;
    assert!(refused(&app).await.is_empty());
    app.finish().await;
}

/// The others go on, and the file is live as soon as one of them leads elsewhere.
async fn file_that_closes_a_loop_is_refused_until_it_is_open(database: Database) {
    let part = |name: &str, from: &str, to: &str| {
        format!(
            "name: {name}\ntriggers: [{{ type: s3, bucket: uploads, prefix: {from}/ }}]\nsteps:\n  \
             - {{ id: a, uses: test.step, with: {{ file: a.txt }}, output: {{ bucket: uploads, key: \"{to}/${{{{ run.id }}}}\" }} }}\n"
        )
    };
    let app = TestApp::builder(database).pipeline("z", &part("z", "in", "out")).start().await;
    let path = |name: &str| app.config.pipelines.join(name);
    std::fs::write(path("a.yaml"), part("a", "out", "in")).unwrap();
    eventually("a refusal", async || (refused(&app).await == ["a.yaml: trigger_loop 4:86"]).then_some(())).await;
    let problem = catalogue(&app).await["refused"][0]["problems"][0].clone();
    assert!(problem["hint"].as_str().unwrap().contains("`a` -> `z` -> `a`"), "{problem}");
    live(&app, "z", &part("z", "in", "out")).await;
    std::fs::write(path("z.yaml"), part("z", "in", "elsewhere")).unwrap();
    live(&app, "a", &part("a", "out", "in")).await;
    assert!(refused(&app).await.is_empty());
    app.finish().await;
}

/// Kubernetes changes mounted files through a symlink to a symlink that changes.
async fn polling_detects_changes_without_file_events(database: Database) {
    let app = TestApp::builder(database).config(|config| config.watch = WatchMode::Poll).start().await;
    let folder = app.config.pipelines.clone();
    for give in 1..3 {
        let version = format!("..version_{give}");
        std::fs::create_dir(folder.join(&version)).unwrap();
        std::fs::write(folder.join(&version).join("p.yaml"), yaml("p", give)).unwrap();
        symlink(&version, folder.join("..data_new")).unwrap();
        std::fs::rename(folder.join("..data_new"), folder.join("..data")).unwrap();
        if give == 1 {
            symlink("..data/p.yaml", folder.join("p.yaml")).unwrap();
        }
        live(&app, "p", &yaml("p", give)).await;
    }
    // The folder itself may disappear and come back.
    let aside = folder.with_extension("aside");
    std::fs::rename(&folder, &aside).unwrap();
    std::fs::create_dir(&folder).unwrap();
    gone(&app, "p").await;
    std::fs::remove_dir(&folder).unwrap();
    std::fs::rename(&aside, &folder).unwrap();
    live(&app, "p", &yaml("p", 2)).await;
    app.finish().await;
}

async fn run_keeps_its_definition(database: Database) {
    let app = TestApp::builder(database).start().await;
    let gate = app.dir.path().join("gate");
    let text = |give: u32| {
        let wait = format!("  - {{ id: wait, uses: test.step, with: {{ until: \"{}\" }} }}\n", gate.display());
        let (head, step) =
            ("name: p\nsteps:\n", format!("  - {{ id: a, uses: test.step, with: {{ give: {give} }} }}\n"));
        format!("{head}{wait}{step}")
    };
    std::fs::write(app.config.pipelines.join("p.yaml"), text(1)).unwrap();
    live(&app, "p", &text(1)).await;
    let run = app.run("p", json!({})).await;
    std::fs::write(app.config.pipelines.join("p.yaml"), text(2)).unwrap();
    live(&app, "p", &text(2)).await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(app.ended(&run).await["steps"][1]["outputs"]["value"], 1);
    assert_eq!(app.run_to_end("p", json!({})).await["steps"][1]["outputs"]["value"], 2);
    app.finish().await;
}

async fn other_service_on_same_database_shows_published_pipelines(database: Database) {
    let app = TestApp::builder(database).start().await;
    let other = Config { pipelines: app.dir.path().join("nowhere"), ..app.config.clone() };
    let other = RunningService::start_with_steps(other, Some(app.admin_key.clone()), kinds()).await.unwrap();
    let seen = async || {
        let request = app.client.get(format!("{}/v1/pipelines/p", other.url)).bearer_auth(&app.admin_key);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let path = app.config.pipelines.join("p.yaml");
    for give in 1..3 {
        std::fs::write(&path, yaml("p", give)).unwrap();
        eventually("the other to show it", async || (seen().await["source"] == yaml("p", give)).then_some(())).await;
    }
    std::fs::remove_file(path).unwrap();
    eventually("the other to show it no more", async || (seen().await["code"] == "pipeline_not_found").then_some(()))
        .await;
    other.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn refused_file_is_logged_once_with_its_spans() {
    let place = Place::new(Database::Sqlite).await;
    let process = place.start().await;
    let told = async |name: &str| {
        eventually("a refusal", async || {
            let seen: Value = serde_json::from_slice(&process.download("/v1/pipelines").await).unwrap();
            let files = seen["refused"].as_array().unwrap().iter();
            files.map(|file| file["file"].as_str().unwrap().to_owned()).find(|file| file.ends_with(name))
        })
        .await;
    };
    place.pipeline("bad", "name: bad\nsteps:\n  - { id: a, uses: nothing }\n");
    told("bad.yaml").await;
    // Another file causes a rescan of all files.
    place.pipeline("worse", "name: worse\nsteps: 3\n");
    told("worse.yaml").await;
    let log = place.log();
    let lines: Vec<_> =
        log.lines().filter(|line| line.contains("bad.yaml:3:20: unknown step kind `nothing`")).collect();
    assert_eq!(lines.len(), 1, "{log}");
    assert!(process.terminate().await.success());
}
