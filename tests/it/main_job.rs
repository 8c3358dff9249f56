//! The shipped pipelines on the sample files, and the commands of the README.

use std::process::Command;

use serde_json::json;

use crate::support::{Database, TestApp, both, http_client};

both!(
    airports_are_imported_and_rejects_are_mailed,
    contacts_can_be_imported_twice,
    corrected_error_file_can_be_imported
);

fn repository(path: &str) -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository(path)).unwrap()
}

async fn shipped(database: Database, pipeline: &str) -> TestApp {
    let yaml = read(&format!("pipelines/{pipeline}.yaml"));
    let app = TestApp::builder(database).pipeline(pipeline, &yaml).start().await;
    app.sql(&read("examples/app.sql")).await;
    app
}

async fn download(app: &TestApp, url: &serde_json::Value) -> String {
    let request = app.client.get(url.as_str().expect("a URL")).bearer_auth(&app.admin_key);
    request.send().await.unwrap().error_for_status().unwrap().text().await.unwrap()
}

/// The numbers are those of `examples/README.md`. They were counted with another program.
async fn airports_are_imported_and_rejects_are_mailed(database: Database) {
    let app = shipped(database, "airports-import").await;
    let sample = read("examples/airports.csv");
    let run = app.upload("airports-import", "airports.csv", sample.clone().into_bytes()).await;
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let outputs = &run["steps"][0]["outputs"];
    let counts = ["rows", "inserted", "updated", "skipped", "rejected"].map(|name| outputs[name].as_u64().unwrap());
    assert_eq!(counts, [18_771, 16_872, 0, 0, 1_899]);
    assert_eq!(app.numbers("SELECT COUNT(*) FROM airports").await, [16_872]);
    assert_eq!(app.numbers("SELECT COUNT(*) FROM airports WHERE elevation_ft > 14500").await, [0]);

    let rejects = download(&app, &outputs["errors_file"]["url"]).await;
    let originals: std::collections::HashSet<_> = sample.lines().collect();
    let mut lines = rejects.lines();
    assert!(lines.next().unwrap().starts_with(sample.lines().next().unwrap()));
    let mut seen = 0;
    for line in lines {
        let own = line.rsplitn(7, ',').last().unwrap();
        // A message may contain a comma, which puts the end of the original further left.
        let is_part = |original: &&str| original.starts_with(own) || own.starts_with(original);
        assert!(originals.contains(own) || originals.iter().any(is_part), "{line}");
        seen += 1;
    }
    assert_eq!(seen, 1_899);

    let mails = app.mails();
    assert_eq!(mails.len(), 1);
    assert!(
        mails[0].contains("Subject: airports-import: 16,872 of 18,771 rows imported, 1,899 rejected"),
        "{}",
        mails[0]
    );
    assert_eq!(run["steps"][1]["outputs"]["message_ids"].as_array().unwrap().len(), 1);

    // The recipient has no API key. The link alone opens this file, and no other.
    let text = mails[0].replace("=\r\n", "").replace("=\n", "").replace("=3D", "=");
    let link = text.split_whitespace().find(|word| word.contains("/d/")).expect("a link");
    let stranger = http_client();
    assert_eq!(stranger.get(link).send().await.unwrap().text().await.unwrap(), rejects);
    let upload = run["params"]["file"]["url"].as_str().unwrap();
    let token = link.rsplit('/').next().expect("a token");
    assert_eq!(stranger.get(format!("{upload}?token={token}")).send().await.unwrap().status(), 401);
    app.finish().await;
}

async fn contacts_can_be_imported_twice(database: Database) {
    let app = shipped(database, "contacts-import").await;
    let sample = read("examples/contacts.csv").into_bytes();
    let first = app.upload("contacts-import", "contacts.csv", sample.clone()).await;
    let first = app.ended(&first).await;
    let second = app.upload("contacts-import", "contacts.csv", sample).await;
    let second = app.ended(&second).await;
    let counts = |run: &serde_json::Value| {
        ["rows", "inserted", "updated", "skipped", "rejected"]
            .map(|name| run["steps"][0]["outputs"][name].as_u64().unwrap())
    };
    let ([rows, inserted, updated, skipped, rejected], again) = (counts(&first), counts(&second));
    assert_eq!(rows, inserted + updated + skipped + rejected);
    assert_eq!([rows, inserted, updated, skipped, rejected], [12, 6, 1, 0, 5], "docs/tutorial.md shows them");
    assert_eq!(again, [rows, 0, inserted + updated, skipped, rejected]);
    assert_eq!(app.numbers("SELECT COUNT(*) FROM contacts").await, [inserted as i64]);
    app.finish().await;
}

async fn corrected_error_file_can_be_imported(database: Database) {
    let app = shipped(database, "contacts-import").await;
    let run = app.upload("contacts-import", "contacts.csv", read("examples/contacts.csv").into_bytes()).await;
    let run = app.ended(&run).await;
    let rejects = download(&app, &run["steps"][0]["outputs"]["errors_file"]["url"]).await;
    let shown = rejects.replace(run["id"].as_str().unwrap(), "01J…");
    assert!(read("docs/tutorial.md").contains(&format!("```\n{shown}```\n")), "copy it to docs/tutorial.md: {shown}");
    let before = app.numbers("SELECT COUNT(*) FROM contacts").await[0];
    // One corrected row, with the header and the six columns of the error file.
    let header = rejects.lines().next().unwrap();
    let fields = header.split(',').count();
    let mut row = vec!["corrected@example.com", "Corrected", "Fixed Ltd", "GB", "2024-01-02"];
    row.resize(fields, "x");
    let corrected = format!("{header}\n{}\n", row.join(","));
    let run = app.upload("contacts-import", "rejected.csv", corrected.into_bytes()).await;
    let run = app.ended(&run).await;
    assert_eq!(run["steps"][0]["outputs"]["inserted"], 1, "{run}");
    assert_eq!(run["steps"][0]["outputs"]["errors_file"], json!(null));
    assert_eq!(app.numbers("SELECT COUNT(*) FROM contacts").await, [before + 1]);
    app.finish().await;
}

fn afterload(dir: &std::path::Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_afterload"));
    command.current_dir(dir).env_remove("AFTERLOAD_CONFIG");
    command
}

#[test]
fn demo_keeps_files_that_are_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    std::fs::write(dir.path().join("data/app.db"), "of somebody").unwrap();
    let output = afterload(dir.path()).args(["demo", "--exit", "--dir", "."]).output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("holds files that no demo has made"), "{log}");
    let left: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(left, ["data"]);
    assert_eq!(std::fs::read(dir.path().join("data/app.db")).unwrap(), b"of somebody");
}

/// The addresses are of the reserved class E: no machine has them, so each attempt to listen there fails.
#[test]
fn demo_listens_on_the_configured_address() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("afterload.yaml"), "listen: 240.0.0.1:8080\n").unwrap();
    for (name, value, expected) in [
        ("AFTERLOAD_MAIL__FROM", "demo@example.com", "240.0.0.1:8080"),
        ("AFTERLOAD_LISTEN", "240.0.0.2:8080", "240.0.0.2:8080"),
    ] {
        let output = afterload(dir.path()).args(["demo", "--exit"]).env(name, value).output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && log.contains(&format!("cannot listen on {expected}: ")), "{log}");
    }
    std::fs::write(dir.path().join("afterload.yaml"), "objects: { listen: 240.0.0.3:9000 }\n").unwrap();
    let output =
        afterload(dir.path()).args(["demo", "--exit"]).env("AFTERLOAD_LISTEN", "127.0.0.1:0").output().unwrap();
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && log.contains("cannot listen on 240.0.0.3:9000: "), "{log}");
}

/// Every added pipeline must be part of the demo, and must succeed.
#[test]
fn demo_runs_every_pipeline_repeatedly() {
    let dir = tempfile::tempdir().unwrap();
    for counts in ["inserted=16872 updated=0", "inserted=0 updated=16872"] {
        let output = afterload(dir.path()).args(["demo", "--exit"]).output().unwrap();
        let (text, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        // On a slow machine sqlx warns of slow statements.
        let is_quiet = log.lines().all(|line| line.contains(r#""target":"sqlx::"#));
        assert!(output.status.success() && is_quiet, "{text}\n{log}");
        let mut plays = std::collections::BTreeMap::<&str, Vec<&str>>::new();
        for play in text.split("\n\n") {
            plays.entry(play.split(':').next().unwrap()).or_default().push(play);
        }
        for entry in std::fs::read_dir(repository("pipelines")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let played =
                plays.get(name).unwrap_or_else(|| panic!("`{name}` is not in examples/demo/plays.yaml: {text}"));
            assert!(played.iter().all(|play| play.contains("\n  succeeded in ")), "{played:?}");
        }
        for (pipeline, facts) in [
            (
                "airports-import",
                &[counts, "airports has 16872 rows", "demo-data/rejected-airports.csv", "to ops@example.com: "][..],
            ),
            ("contacts-import", &["demo-data/rejected.csv"]),
            ("avatar", &["96x96", "320x320", "/thumbnails/avatars/"]),
            ("sales-report", &["rows=180", ".xlsx (", "to ops@example.com: ", "to sales@example.com: "]),
            ("country-sales", &["sales-DE.csv", "to sales-de@example.com: ", "to sales-es@example.com: "]),
            ("sign-in-geo", &["sign-in from 192.175.48.7 noted as Kyoto, JP"]),
            (
                "tweet-notify",
                &["4999 timelines have it by follow", "2 timelines have it by mention", "to zoe@example.com: "],
            ),
            ("order-auto-reject", &["order 1 is accepted", "order 2 is rejected", "to bob@example.com: "]),
            ("purge-account", &["rows_affected=20000", "1 account is left, with 500 events"]),
        ] {
            let played = plays[pipeline].join("\n");
            facts.iter().for_each(|fact| assert!(played.contains(fact), "no {fact} in {played}"));
        }
        // Files that the README names must exist.
        for word in text.split_whitespace().filter(|word| word.starts_with("demo-data/") && word.contains('.')) {
            assert!(dir.path().join(word).exists(), "{word}");
        }
    }
}

#[test]
fn check_prints_the_span_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let good = afterload(dir.path()).arg("check").arg(repository("pipelines/contacts-import.yaml")).output().unwrap();
    assert!(good.status.success(), "{}", String::from_utf8_lossy(&good.stdout));
    std::fs::write(dir.path().join("orders.yaml"), "name: orders\nsteps:\n  - id: a\n    uses: csv.imprt\n").unwrap();
    let bad = afterload(dir.path()).args(["check", "orders.yaml"]).output().unwrap();
    assert_eq!(bad.status.code(), Some(1));
    assert!(
        String::from_utf8_lossy(&bad.stdout).contains(" --> orders.yaml:4:11\n"),
        "{}",
        String::from_utf8_lossy(&bad.stdout)
    );
    let json = afterload(dir.path()).args(["check", "--format", "json", "orders.yaml"]).output().unwrap();
    let faults: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&faults[0]["line"], &faults[0]["col"]), (&json!(4), &json!(11)));
}

#[test]
fn shipped_pipelines_are_valid() {
    let dir = tempfile::tempdir().unwrap();
    let mut check = afterload(dir.path());
    check.arg("check");
    for entry in std::fs::read_dir(repository("pipelines")).unwrap() {
        check.arg(entry.unwrap().path());
    }
    let output = check.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn every_kind_is_documented_and_its_example_is_valid() {
    let kinds = afterload::registry::step_kinds().catalog().0;
    let names: Vec<_> = kinds.iter().map(|kind| kind.name()).collect();
    let distinct: std::collections::BTreeSet<_> = names.iter().collect();
    assert_eq!(distinct.len(), names.len());
    for kind in kinds {
        let name = kind.name();
        assert!(name.chars().all(|letter| letter.is_ascii_lowercase() || letter == '.' || letter == '_'), "{name}");
        for example in std::iter::once(kind.example_input()).chain(kind.more_example_inputs().iter().copied()) {
            let example =
                afterload_spanned_yaml::parse(example).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
            let problems = kind.validate(&example, &afterload_pipeline::ValidationContext::default());
            assert!(problems.is_empty(), "{name}: {problems:?}");
        }
        for (schema, what) in [(kind.input_schema(), "with"), (kind.output_schema(), "outputs")] {
            for (field, schema) in schema.get("properties").and_then(serde_json::Value::as_object).into_iter().flatten()
            {
                assert!(schema.get("description").is_some(), "`{name}`: `{what}.{field}` has no description");
            }
        }
    }
}
