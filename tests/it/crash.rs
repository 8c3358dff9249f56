//! `kill -9` during an import while another process waits, with the real binary, on both databases.

use std::fmt::Write;
use std::path::Path;

use serde_json::Value;

use crate::support::{Database, Place, Process, both};

both!(second_process_takes_over_after_a_kill);

/// The rows of the file.
pub const ROWS: u64 = 80_000;

const PIPELINE: &str = r#"
name: people
params:
  file: { type: file }
steps:
  - id: import
    uses: csv.import
    with:
      source: "${{ params.file }}"
      into: { table: people }
      columns:
        id: { type: integer, required: true }
        name: { type: string, required: true, max_length: 40 }
        amount: { type: integer, min: 0 }
      chunk: 2000
      errors: { file: rejected.csv, max: 100000 }
"#;

/// Writes a file with this many rows. Returns the sum of the valid amounts and the number of invalid rows.
pub fn people(path: &Path, rows: u64) -> (i64, u64) {
    let (mut text, mut sum, mut bad) = (String::from("id,name,amount\n"), 0, 0);
    for id in 1..=rows {
        let amount = if id % 200 == 7 { -1 } else { (id % 1000) as i64 };
        writeln!(text, "{id},\"Person, {id}\",{amount}").expect("a string");
        if amount < 0 { bad += 1 } else { sum += amount }
    }
    std::fs::write(path, text).expect("a file");
    (sum, bad)
}

/// Returns the number of rows that the import has read.
pub fn rows(run: &Value) -> u64 {
    run["steps"][0]["progress"]["counts"]["rows"].as_u64().unwrap_or(0)
}

/// Creates a place with the pipeline and a table that takes each chunk slowly.
pub async fn place(database: Database) -> Place {
    let place = Place::new(database).await;
    place.pipeline("people", PIPELINE);
    // Without a unique key, a row that is inserted twice is visible.
    place.sql("CREATE TABLE people (id BIGINT NOT NULL, name TEXT NOT NULL, amount BIGINT)").await;
    // Every chunk takes a while on any machine, so that a kill interrupts the import.
    place
        .sql(match database {
            Database::Sqlite => {
                "CREATE TRIGGER slow AFTER INSERT ON people WHEN NEW.id % 2000 = 0 BEGIN
                 SELECT COUNT(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 300000) SELECT x FROM c);
                 END"
            }
            Database::Postgres => {
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS
                 $$ BEGIN PERFORM pg_sleep(0.05); RETURN NEW; END $$;
                 CREATE TRIGGER slow BEFORE INSERT ON people FOR EACH ROW WHEN (NEW.id % 2000 = 0) EXECUTE FUNCTION slow()"
            }
        })
        .await;
    place
}

/// Checks the result of an import after any kills: the table, the counts, and the error file, which it returns.
pub async fn check(place: &Place, process: &Process, run: &Value, rows: u64, (sum, bad): (i64, u64)) -> Vec<u8> {
    assert_eq!(run["status"], "succeeded", "{run}\n{}", place.log());
    let outputs = &run["steps"][0]["outputs"];
    assert_eq!(
        (outputs["rows"].as_u64(), outputs["rejected"].as_u64(), outputs["inserted"].as_u64()),
        (Some(rows), Some(bad), Some(rows - bad))
    );
    let found = place.numbers("SELECT COUNT(*), COUNT(DISTINCT id), CAST(SUM(amount) AS BIGINT) FROM people").await;
    assert_eq!(found, [(rows - bad) as i64, (rows - bad) as i64, sum]);
    let file = outputs["errors_file"]["artifact_id"].as_str().expect("an error file");
    let errors = process.download(&format!("/v1/artifacts/{file}")).await;
    let text = String::from_utf8(errors.clone()).expect("UTF-8");
    assert_eq!(text.lines().count() as u64, bad + 1, "the header and one line for each bad row");
    let ids: Vec<u64> = text
        .lines()
        .skip(1)
        .map(|line| line.split(',').next().and_then(|id| id.parse().ok()).expect("an id"))
        .collect();
    assert!(ids.is_sorted() && ids.iter().all(|id| id % 200 == 7));
    errors
}

async fn second_process_takes_over_after_a_kill(database: Database) {
    let mut place = place(database).await;
    place.set("LIMITS__LEASE", "5s");
    let file = place.dir.path().join("people.csv");
    let facts = people(&file, ROWS);
    let first = place.start().await;
    let run = first.upload("people", &file).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    first.until("progress", &id, |run| (rows(run) > 0).then_some(())).await;
    // The second process starts before the first dies, so the lease must expire by itself.
    let second = place.start().await;
    first.kill().await;
    let run = second.until("the end", &id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    check(&place, &second, &run, ROWS, facts).await;
    assert!(second.terminate().await.success());
}
