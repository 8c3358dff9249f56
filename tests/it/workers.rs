//! `afterload worker` next to a service that runs no steps, with the real binary.

use std::fmt::Write;
use std::path::Path;
use std::process::Output;

use serde_json::{Value, json};

use crate::support::{ADMIN_KEY, Database, Moto, Place, Process, both};

both!(workers_share_the_folder_of_a_service, worker_runs_only_its_queues);

const SECRET_KEY: (&str, &str) = ("AFTERLOAD_SECRET_KEY", "a-secret-key-for-tests-of-32-characters");
const ROWS: u64 = 60_000;
const CHUNK: u64 = 1000;

const IMPORT: &str = r#"
name: people
params:
  file: { type: file }
steps:
  - id: import
    uses: csv.import
    queue: imports
    with:
      source: "${{ params.file }}"
      into: { table: people }
      columns:
        id: { type: integer, required: true }
        name: { type: string, required: true, max_length: 9 }
      chunk: 1000
      errors: { file: rejected.csv }
  - id: mail
    uses: email.send
    queue: mails
    with: { to: ada@example.com, subject: Done, body: "${{ steps.import.inserted }} rows" }
"#;

/// Creates a table that takes each chunk slowly, and a file whose last row is invalid.
async fn prepare(place: &Place, database: Database) -> std::path::PathBuf {
    place.pipeline("people", IMPORT);
    place.sql("CREATE TABLE people (id BIGINT NOT NULL, name TEXT NOT NULL)").await;
    let slow = match database {
        Database::Sqlite => {
            "CREATE TRIGGER slow AFTER INSERT ON people WHEN NEW.id % 1000 = 0 BEGIN
             SELECT COUNT(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 300000) SELECT x FROM c);
             END"
        }
        Database::Postgres => {
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN PERFORM pg_sleep(0.1); RETURN NEW; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON people FOR EACH ROW WHEN (NEW.id % 1000 = 0) EXECUTE FUNCTION slow()"
        }
    };
    place.sql(slow).await;
    let mut text = String::from("id,name\n");
    for id in 1..ROWS {
        writeln!(text, "{id},ada").expect("a string");
    }
    writeln!(text, "{ROWS},a name that is too long").expect("a string");
    let path = place.dir.path().join("people.csv");
    std::fs::write(&path, text).expect("a file");
    path
}

fn id(run: &Value) -> &str {
    run["id"].as_str().unwrap_or_else(|| panic!("no run: {run}"))
}

fn rows(run: &Value) -> u64 {
    run["steps"][0]["progress"]["counts"]["rows"].as_u64().unwrap_or(0)
}

async fn under_way(service: &Process, run: &Value) -> u64 {
    let look = |run: &Value| Some(rows(run)).filter(|rows| *rows >= CHUNK);
    service.until("progress", id(run), look).await
}

async fn step_is(service: &Process, run: &Value, at: usize, status: &str) {
    service.until(status, id(run), |run| (run["steps"][at]["status"] == status).then_some(())).await;
}

async fn ended(place: &Place, service: &Process, run: &Value) -> Value {
    let run = service.until("the end", id(run), |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!(run["status"], "succeeded", "{run}\n{}", place.log());
    let found = place.numbers("SELECT COUNT(*), COUNT(DISTINCT id) FROM people").await;
    assert_eq!(found, [ROWS as i64 - 1, ROWS as i64 - 1]);
    let file = &run["steps"][0]["outputs"]["errors_file"]["artifact_id"];
    let errors = service.download(&format!("/v1/artifacts/{}", file.as_str().expect("an error file"))).await;
    assert!(String::from_utf8_lossy(&errors).contains("a name that is too long"), "{errors:?}");
    run
}

/// Two workers on their own machines, which share the database and one S3 store.
async fn machines(place: &mut Place, store: &[(&str, &str)]) -> [Place; 2] {
    place.env.extend([SECRET_KEY, ("AFTERLOAD_LIMITS__CRASHES", "3"), ("AFTERLOAD_LIMITS__LEASE", "5s")].map(owned));
    let machine = || {
        let mut machine = place.elsewhere();
        machine.env.extend(store.iter().copied().map(owned));
        machine
    };
    [machine(), machine()]
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

async fn another_worker_takes_over(place: &Place, [first, second]: &[Place; 2]) {
    let file = prepare(place, Database::Postgres).await;
    let service = place.serve(&["--queues", "none"]).await;
    let run = service.upload("people", &file).await;
    let one = first.worker(&["--queues", "mails, imports"]).await;
    assert_eq!(one.queues, "imports, mails");
    under_way(&service, &run).await;
    let two = second.worker(&[]).await;
    assert_eq!(two.queues, "all queues");
    one.kill().await;
    let seen = rows(&service.show(id(&run)).await);
    assert!(seen < ROWS, "the kill came too late to prove anything");
    service.until("the step in the other worker", id(&run), |run| (rows(run) > seen).then_some(())).await;
    ended(place, &service, &run).await;
    assert!(two.terminate().await.success() && service.terminate().await.success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_worker_takes_over_with_the_embedded_store() {
    let mut place = Place::new(Database::Postgres).await;
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    place.env.push(("AFTERLOAD_OBJECTS__LISTEN".into(), free.clone()));
    // The keys of the store, as an administrator would copy them.
    let shown = place.command(&["key", "s3"]).stderr(std::process::Stdio::piped()).output().await.unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    let export = |name: &str| {
        let line = shown.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
        line.unwrap_or_else(|| panic!("{name} is not in {shown}")).to_owned()
    };
    let (endpoint, access, secret) =
        (format!("http://{free}"), export("AWS_ACCESS_KEY_ID"), export("AWS_SECRET_ACCESS_KEY"));
    let store = [
        ("AFTERLOAD_OBJECTS__STORES__MAIN__ENDPOINT", endpoint.as_str()),
        ("AFTERLOAD_OBJECTS__STORES__MAIN__ACCESS_KEY", &access),
        ("AFTERLOAD_OBJECTS__STORES__MAIN__SECRET_KEY", &secret),
        ("AFTERLOAD_OBJECTS__STORES__MAIN__PATH_STYLE", "true"),
        ("AFTERLOAD_OBJECTS__BUCKETS__ARTIFACTS__STORE", "main"),
    ];
    let machines = machines(&mut place, &store).await;
    another_worker_takes_over(&place, &machines).await;
    for machine in &machines {
        assert!(!machine.dir.path().join("data/objects").exists(), "a worker makes no store of its own");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_worker_takes_over_with_another_store() {
    let mut place = Place::new(Database::Postgres).await;
    let moto = Moto::start().await;
    let store = [
        ("AFTERLOAD_OBJECTS__STORES__MAIN__ENDPOINT", moto.endpoint.as_str()),
        ("AFTERLOAD_OBJECTS__STORES__MAIN__ACCESS_KEY", "test"),
        ("AFTERLOAD_OBJECTS__STORES__MAIN__SECRET_KEY", "test"),
        ("AFTERLOAD_OBJECTS__STORES__MAIN__PATH_STYLE", "true"),
        ("AFTERLOAD_OBJECTS__BUCKETS__ARTIFACTS__STORE", "main"),
    ];
    place.env.extend(store.map(owned));
    let machines = machines(&mut place, &[]).await;
    another_worker_takes_over(&place, &machines).await;
}

async fn workers_share_the_folder_of_a_service(database: Database) {
    let mut place = Place::new(database).await;
    place.env.push(("AFTERLOAD_LIMITS__CRASHES".into(), "3".into()));
    let file = prepare(&place, database).await;
    let service = place.serve(&["--queues", "none"]).await;
    let told = std::fs::read_to_string(place.dir.path().join("data/s3-endpoint")).unwrap();
    let worker = place.worker(&[]).await;
    let run = service.upload("people", &file).await;
    let seen = under_way(&service, &run).await;
    // SIGTERM parks the import and does not count as an attempt.
    assert!(worker.terminate().await.success());
    let parked = service.show(id(&run)).await;
    assert_eq!(
        (&parked["steps"][0]["status"], &parked["steps"][0]["attempt"]),
        (&json!("queued"), &json!(1)),
        "{parked}"
    );
    assert!((seen..ROWS).contains(&rows(&parked)), "{parked}");
    let worker = place.worker(&["--queues", "imports,mails"]).await;
    ended(&place, &service, &run).await;
    let now = std::fs::read_to_string(place.dir.path().join("data/s3-endpoint")).unwrap();
    assert_eq!(now, told, "clients of the store go on to be told the address of the service");
    assert!(worker.terminate().await.success() && service.terminate().await.success());
}

async fn worker_runs_only_its_queues(database: Database) {
    let place = Place::new(database).await;
    let file = prepare(&place, database).await;
    std::fs::write(&file, format!("id,name\n1,ada\n{ROWS},a name that is too long\n")).unwrap();
    let service = place.serve(&["--queues", "none"]).await;
    let run = service.upload("people", &file).await;
    let imports = place.worker(&["--queues", "imports"]).await;
    step_is(&service, &run, 0, "succeeded").await;
    // Once the next import has ended too, the worker has handled everything that it would fetch.
    let next = service.upload("people", &file).await;
    step_is(&service, &next, 0, "succeeded").await;
    for run in [&run, &next] {
        assert_eq!(service.show(id(run)).await["steps"][1]["status"], "queued");
    }
    let queues = service.get("/v1/queues").await;
    let mails = queues["queues"].as_array().unwrap().iter().find(|queue| queue["name"] == "mails").unwrap();
    assert_eq!((&mails["waiting"], &mails["running"], &mails["paused_at"]), (&json!(2), &json!(0), &Value::Null));
    assert!(mails["oldest_waiting_at"].is_string(), "{mails}");
    let mails = place.worker(&["--queues", "mails"]).await;
    for run in [&run, &next] {
        step_is(&service, run, 1, "succeeded").await;
    }
    for worker in [imports, mails] {
        assert!(worker.terminate().await.success());
    }
    assert!(service.terminate().await.success());
}

async fn refused(place: &Place, args: &[&str], without: &[&str]) -> (Option<i32>, String) {
    let mut command = place.command(args);
    without.iter().for_each(|name| {
        command.env_remove(name);
    });
    let Output { status, stderr, .. } = command.stderr(std::process::Stdio::piped()).output().await.unwrap();
    (status.code(), String::from_utf8_lossy(&stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unusable_worker_setups_are_refused_with_a_reason() {
    let place = Place::new(Database::Postgres).await;
    for (args, without, code, message) in [
        (&["worker"][..], &[][..], 1, "the files of the service lie in its embedded store, and there is none in"),
        (&["worker"], &["AFTERLOAD_SECRET_KEY"], 1, "missing field `secret_key`, which a PostgreSQL database needs"),
        (&["worker", "--queues", ""], &[], 2, "`` lacks the name of a queue"),
        (&["worker", "--queues", "images,,mails"], &[], 2, "`images,,mails` lacks the name of a queue"),
        (&["worker", "--queues", "Images"], &[], 2, "`Images` is not a name for a queue"),
        (&["worker", "--queues", "none"], &[], 2, "a worker needs a queue to work"),
        (&["serve", "--queues", "none,images"], &[], 2, "`none` stands alone"),
    ] {
        let (status, text) = refused(&place, args, without).await;
        assert_eq!(status, Some(code), "{args:?}: {text}");
        assert!(text.contains(message), "{args:?}: {text}");
        assert!(!text.contains(ADMIN_KEY));
    }
    let data: &Path = &place.dir.path().join("data");
    assert!(!data.exists(), "a refused worker leaves nothing behind");
}
