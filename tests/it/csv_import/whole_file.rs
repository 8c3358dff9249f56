//! Imports in one transaction: all or nothing, and dry runs.

use afterload::config::CheckpointMode;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::bench::{BOTH, Bench, Memory, spec};

const PEOPLE: &str = "CREATE TABLE people (email TEXT UNIQUE, name TEXT)";

fn people(extra: Value) -> Value {
    let mut with = json!({
        "into": { "table": "people" }, "chunk": 10, "mode": "all_or_nothing",
        "columns": { "email": { "type": "email" }, "name": {} },
    });
    for (key, value) in extra.as_object().unwrap() {
        with[key] = value.clone();
    }
    with
}

fn file(rows: impl Iterator<Item = String>) -> Memory {
    Memory::new(format!("email,name\n{}", rows.collect::<String>()))
}

/// Rows of which the 36th repeats the second one, in another chunk.
fn repeated() -> Memory {
    file((0..50).map(|row| format!("p{}@x.de,{row}\n", if row == 35 { 1 } else { row })))
}

#[tokio::test]
async fn one_rejected_row_undoes_the_whole_file() {
    for db in BOTH {
        let bench = Bench::new(db, PEOPLE).await;
        let done = bench.import(&spec(people(json!({}))), &repeated()).await.unwrap();
        assert_eq!(done.counts(), [50, 0, 0, 49, 1], "{}", done.errors);
        assert_eq!(done.codes(), [(36, "email".to_owned(), "conflict".to_owned())]);
        assert!(bench.rows("people", &["email"]).await.is_empty());
        // A rejected row by a rule of the columns, too, and a later attempt says the same.
        let broken = file((0..50).map(|row| format!("{row}{},N\n", if row == 3 { "" } else { "@x.de" })));
        for epoch in [2, 3] {
            let attempt =
                bench.attempt(&spec(people(json!({}))), &broken, epoch, CancellationToken::new()).await.unwrap();
            assert_eq!(attempt.counts(), [50, 0, 0, 49, 1], "{}", attempt.errors);
            assert_eq!(attempt.codes(), [(4, "email".to_owned(), "value_invalid".to_owned())]);
        }
        assert!(bench.rows("people", &["email"]).await.is_empty());
        // The database can be written again at once.
        bench.execute("INSERT INTO people VALUES ('x', 'y')").await;
    }
}

#[tokio::test]
async fn good_file_is_committed_once_with_its_checkpoint() {
    for db in BOTH {
        let bench = Bench::new(db, PEOPLE).await;
        let good = file((0..50).map(|row| format!("p{row}@x.de,{row}\n")));
        // The source breaks in the middle. Nothing is there, and the next attempt starts over.
        let cut = file((0..50).map(|row| format!("p{row}@x.de,{row}\n"))).pieces(40).breaking([400]);
        let first = bench.attempt(&spec(people(json!({}))), &cut, 1, CancellationToken::new()).await;
        assert!(first.is_err_and(|error| error.is_transient()));
        assert!(bench.rows("people", &["email"]).await.is_empty());
        let second = bench.attempt(&spec(people(json!({}))), &good, 2, CancellationToken::new()).await.unwrap();
        assert_eq!(second.counts(), [50, 50, 0, 0, 0], "{}", second.errors);
        assert_eq!(second.progress().counts["inserted"], 50);
        let third = bench.attempt(&spec(people(json!({}))), &good, 3, CancellationToken::new()).await.unwrap();
        assert_eq!(third.outputs, second.outputs);
        let stale = bench.attempt(&spec(people(json!({}))), &good, 1, CancellationToken::new()).await.err().unwrap();
        assert_eq!(stale.code().name(), "lease_lost");
        assert_eq!(bench.rows("people", &["email"]).await.len(), 50);
    }
}

#[tokio::test]
async fn dry_run_asks_the_database_and_writes_nothing() {
    for db in BOTH {
        for mode in ["row_by_row", "all_or_nothing"] {
            let bench = Bench::with(db, PEOPLE, CheckpointMode::None, None).await;
            let dry = people(json!({ "dry_run": true, "mode": mode }));
            let source = Memory::new("email,name\na@example.org,1\na@example.org,2\nbad,3\n");
            let done = bench.import(&spec(dry.clone()), &source).await.unwrap();
            assert_eq!(done.counts(), [3, 0, 0, 1, 2], "{}", done.errors);
            let codes = done.codes().into_iter().map(|(row, _, code)| (row, code)).collect::<Vec<_>>();
            assert_eq!(codes, [(2, "conflict".to_owned()), (3, "value_invalid".to_owned())]);
            let done = bench.import(&spec(dry), &repeated()).await.unwrap();
            assert_eq!(done.counts(), [50, 0, 0, 49, 1], "a duplicate in another chunk: {}", done.errors);
            assert!(bench.rows("people", &["email"]).await.is_empty());
        }
    }
}
