//! Pages in a real browser. The example page: an upload, its progress, and its run, across a restart of the service.

mod dashboard;
mod mails;
mod unsubscribe;

use std::ffi::OsStr;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use serde_json::Value;
use sqlx::Connection;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

use crate::support::{ADMIN_KEY, Database, Place, eventually, http_client};

const PIPELINE: &str = "
name: contacts-import
params:
  file: { type: file }
steps:
  - id: import
    uses: csv.import
    with:
      source: \"${{ params.file }}\"
      into: { table: people }
      columns: { id: { type: integer, required: true }, name: { type: string, max_length: 40 } }
      errors: { file: rejected.csv }
  - id: copy
    uses: csv.import
    with:
      source: \"${{ params.file }}\"
      connection: archive
      into: { table: people }
      columns: { id: { type: integer, required: true }, name: { type: string, max_length: 40 } }
";

fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Returns the path of a tool that `scripts/test.sh` installed.
fn installed(variable: &str, default: &str) -> String {
    let found = std::env::var(variable).unwrap_or_else(|_| default.to_owned());
    let there = Path::new(&found).exists() || std::process::Command::new(&found).arg("--version").output().is_ok();
    assert!(there, "`{found}` is missing; run scripts/test.sh, which installs it and sets {variable}");
    found
}

/// Creates the command for a browser script of this folder.
fn browser(script: &str, args: &[impl AsRef<OsStr>]) -> Command {
    let packages = repository("target/test-node").display().to_string();
    let mut command = Command::new("node");
    command
        .arg(repository("tests/it/pages").join(script))
        .args(args)
        .env("AFTERLOAD_TEST_NODE", installed("AFTERLOAD_TEST_NODE", &packages))
        .env("AFTERLOAD_TEST_CHROMIUM", installed("AFTERLOAD_TEST_CHROMIUM", "/usr/bin/chromium"))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// Returns the address in the first line that a server prints.
async fn first_line(child: &mut tokio::process::Child) -> String {
    let mut lines = BufReader::new(child.stdout.take().expect("its output")).lines();
    lines.next_line().await.expect("its output").expect("a line")
}

/// Starts the server of the example page and returns it with its address.
async fn start_site(service: &str) -> (tokio::process::Child, String) {
    let mut site = Command::new("node")
        .arg(repository("examples/upload-page/server.mjs"))
        .env("AFTERLOAD_URL", service)
        .env("AFTERLOAD_KEY", ADMIN_KEY)
        .env("PORT", "0")
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("node, which the tests need");
    let page = first_line(&mut site).await;
    (site, page)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_server_forwards_only_files_that_the_param_accepts() {
    let place = Place::new(Database::Sqlite).await;
    let params = "{ file: { type: file, accept: [text/csv] }, note: { type: string, required: false } }";
    place.pipeline("contacts-import", &format!("name: contacts-import\nparams: {params}\nsteps: [{{ id: check, uses: file.check, with: {{ source: \"${{{{ params.file }}}}\" }} }}]\n"));
    let service = place.start().await;
    let (_site, page) = start_site(&service.url).await;
    let send = async |name: &str, media: &'static str, body: &'static str| {
        let request = http_client().post(format!("{page}upload?name={name}")).header("content-type", media);
        let answer = request.body(body).send().await.expect("an answer");
        (answer.status().as_u16(), answer.json::<Value>().await.expect("JSON"))
    };
    let form = "--b\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nx\r\n--b--\r\n";
    let json = r#"{"params": {"file": "s3://artifacts/secret.csv", "note": "x"}}"#;
    for (name, media, body) in
        [("a.png", "image/png", "x"), ("a", "application/json", json), ("a", "multipart/form-data; boundary=b", form)]
    {
        let (status, refused) = send(name, media, body).await;
        assert_eq!((status, &refused["code"]), (415, &"type_not_accepted".into()), "{media}: {refused}");
    }
    // What a visitor sends under the right type is the content of the file and nothing else.
    for (media, body) in [("application/vnd.ms-excel", "id\n1\n"), ("application/json", json)] {
        let (status, run) = send("people.csv", media, body).await;
        assert_eq!((status, &run["params"]["note"]), (202, &Value::Null), "{run}");
        let file = &run["params"]["file"];
        assert_eq!((&file["name"], &file["content_type"]), (&"people.csv".into(), &"text/csv".into()), "{run}");
        assert_eq!(file["size"], body.len(), "{run}");
    }
    assert!(service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn page_follows_its_run_across_a_restart() {
    let mut place = Place::new(Database::Sqlite).await;
    let archive = format!("sqlite://{}", place.dir.path().join("archive.db").display());
    place.env.push(("AFTERLOAD_CONNECTIONS__ARCHIVE__URL".into(), archive.clone()));
    place.pipeline("contacts-import", PIPELINE);
    place.sql("CREATE TABLE people (id BIGINT NOT NULL, name TEXT NOT NULL)").await;
    // The second step needs this lock, which is released only after the restart.
    let options = archive.parse::<sqlx::sqlite::SqliteConnectOptions>().expect("an address").create_if_missing(true);
    let mut lock = sqlx::SqliteConnection::connect_with(&options).await.expect("a database");
    let locked = "CREATE TABLE people (id BIGINT NOT NULL, name TEXT NOT NULL); BEGIN IMMEDIATE";
    sqlx::raw_sql(locked).execute(&mut lock).await.expect("a lock");
    let (rows, mut text) = (2_000, String::from("id,name\n"));
    for id in 1..=rows {
        // The first row is invalid, so that there is an error file to link to.
        let id = if id == 1 { "x".to_owned() } else { id.to_string() };
        writeln!(text, "{id},Person {id}").expect("a string");
    }
    let file = place.dir.path().join("people.csv");
    std::fs::write(&file, text).expect("a file");

    let service = place.start().await;
    let address = service.url.strip_prefix("http://").expect("an address").to_owned();
    let (_site, page) = start_site(&service.url).await;
    let under_way = place.dir.path().join("under-way");
    let args = [page.as_ref(), file.as_os_str(), under_way.as_os_str()];
    let browser = browser("upload.mjs", &args).spawn().expect("node, which the tests need");
    let (output, service) = tokio::join!(browser.wait_with_output(), async {
        eventually("the run to be under way in the page", async || under_way.exists().then_some(())).await;
        service.kill().await;
        let service = place.start_at(&address).await;
        sqlx::raw_sql("ROLLBACK").execute(&mut lock).await.expect("no lock");
        service
    });
    let output = output.expect("the browser's end");
    let faults = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{faults}\n{}", place.log());
    let seen: Value = serde_json::from_slice(&output.stdout).expect("what the page showed");
    assert_eq!(seen["faults"], serde_json::json!([]), "{seen}");
    let numbers = |name: &str| -> Vec<f64> {
        seen[name].as_array().expect("a list").iter().map(|value| value.as_f64().expect("a number")).collect()
    };
    let (sent, done) = (numbers("sent"), numbers("done"));
    assert!(sent.is_sorted() && sent.last() == Some(&1.0), "{sent:?}");
    assert!(done.is_sorted() && done.last() == Some(&100.0) && done.len() > 2, "{done:?}");
    assert_eq!(seen["links"][0][0].as_str().map(|text| text.starts_with("rejected.csv")), Some(true), "{seen}");
    // Whoever may watch the run can open the link, without a key.
    let link = seen["links"][0][1].as_str().expect("a link");
    let rejected = http_client().get(link).send().await.expect("an answer").text().await.expect("a file");
    assert!(rejected.contains("Person x"), "{rejected}");
    assert_eq!(place.numbers("SELECT COUNT(*), COUNT(DISTINCT id) FROM people").await, [rows - 1, rows - 1]);
    assert!(service.terminate().await.success());
}
