//! Imports that are interrupted, superseded or stopped, and then resumed.

use super::bench::{BOTH, Bench, Memory, spec};
use super::{CONTACTS, conflict, contacts};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

const COLUMNS: [&str; 3] = ["email", "name", "age"];

/// 2,500 rows with invalid ones, repeated keys, and rows that the database refuses.
fn file() -> String {
    let row = |row: u32| match row % 50 {
        7 => format!("bad{row},\"x\ny\",1\r\n"),
        11 => format!("r{row}@x.de,refused,13\r\n"),
        13 => format!("r{}@x.de,again,2\r\n", row - 3),
        _ => format!("r{row}@x.de,Zoë {row},3\r\n"),
    };
    format!("email,name,age\r\n{}", (0..2500).map(row).collect::<String>())
}

fn with(action: &str) -> Value {
    let mut with = contacts(conflict(action));
    with["chunk"] = 100.into();
    with
}

#[tokio::test]
async fn interrupted_import_ends_like_an_undisturbed_one() {
    let text = file();
    let utf16 = std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    for db in BOTH {
        for (action, bytes) in
            [("update", text.clone().into_bytes()), ("reject", text.clone().into_bytes()), ("skip", utf16.clone())]
        {
            let whole = Bench::new(db, CONTACTS).await;
            let expected = whole.import(&spec(with(action)), &Memory::new(bytes.clone())).await.unwrap();
            let utf8 = action != "skip";
            let cuts = if utf8 { vec![5_000, 5_001, 20_000, 33_333, 47_000] } else { Vec::new() };

            let bench = Bench::new(db, CONTACTS).await;
            let source = Memory::new(bytes).pieces(1000).breaking(cuts.clone());
            let (mut epoch, mut before) = (1, 0);
            let done = loop {
                let stop = CancellationToken::new();
                match bench.attempt(&spec(with(action)), &source, epoch, stop).await {
                    Ok(done) => break done,
                    Err(error) => assert!(error.is_transient(), "{error:?}"),
                }
                let committed = bench.rows("contacts", &COLUMNS).await.len();
                assert!(committed >= before);
                (before, epoch) = (committed, epoch + 1);
                assert!(epoch < 20);
            };
            assert_eq!(epoch as usize, cuts.len() + 1);
            assert_eq!(done.counts(), expected.counts());
            assert_eq!(done.outputs, expected.outputs);
            assert!(done.errors == expected.errors && done.errors.lines().count() > 50);
            assert_eq!(bench.rows("contacts", &COLUMNS).await, whole.rows("contacts", &COLUMNS).await);

            // After the end, a later attempt changes nothing and returns the same outputs.
            let again = bench.attempt(&spec(with(action)), &source, epoch + 1, CancellationToken::new()).await.unwrap();
            assert_eq!((again.outputs, again.errors), (done.outputs, done.errors));
        }
    }
}

#[tokio::test]
async fn import_resumes_after_every_chunk() {
    let text = file();
    let utf16 = std::iter::once(0xfeff).chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect::<Vec<_>>();
    for db in BOTH {
        for bytes in [text.clone().into_bytes(), utf16.clone()] {
            let whole = Bench::new(db, CONTACTS).await;
            let expected = whole.import(&spec(with("update")), &Memory::new(bytes.clone())).await.unwrap();
            let bench = Bench::new(db, CONTACTS).await;
            let source = Memory::new(bytes);
            // A growing `max_rows` simulates a crash after each chunk but the last. Only the `finished` mark must be
            // reset.
            for (epoch, rows) in (1..).zip((100..2500).step_by(300)) {
                let mut cut = with("update");
                cut["max_rows"] = rows.into();
                bench.attempt(&spec(cut), &source, epoch, CancellationToken::new()).await.unwrap();
                bench.execute("UPDATE afterload_checkpoints SET cursor = replace(cursor, '\"finished\":true', '\"finished\":false')").await;
            }
            let done = bench.attempt(&spec(with("update")), &source, 100, CancellationToken::new()).await.unwrap();
            assert_eq!(done.outputs, expected.outputs);
            assert!(done.errors == expected.errors);
            assert_eq!(bench.rows("contacts", &COLUMNS).await, whole.rows("contacts", &COLUMNS).await);
        }
    }
}

#[tokio::test]
async fn stale_attempt_writes_nothing() {
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        let source = Memory::new(file());
        bench.attempt(&spec(with("update")), &source, 5, CancellationToken::new()).await.unwrap();
        bench.execute("DELETE FROM contacts").await;
        let error = bench.attempt(&spec(with("update")), &source, 4, CancellationToken::new()).await.err().unwrap();
        assert_eq!(error.code().name(), "lease_lost");
        assert!(bench.rows("contacts", &COLUMNS).await.is_empty());
    }
}

#[tokio::test]
async fn attempt_that_loses_its_lease_stops_at_the_next_chunk() {
    for db in BOTH {
        let bench = Bench::new(db, &format!("{CONTACTS};;CREATE TABLE other (a INTEGER)")).await;
        // The trigger simulates another process that claims the checkpoint during the first chunk.
        let claim = "UPDATE afterload_checkpoints SET epoch = 9";
        bench.execute("CREATE TABLE afterload_checkpoints (key TEXT PRIMARY KEY, epoch BIGINT NOT NULL, cursor TEXT, updated_at BIGINT NOT NULL, finished_at BIGINT)").await;
        let when = "AFTER INSERT ON contacts FOR EACH ROW WHEN (NEW.email = 'r150@x.de')";
        let trigger = match db {
            super::Db::Sqlite => format!("CREATE TRIGGER overtake {when} BEGIN {claim}; END"),
            super::Db::Postgres => format!(
                "CREATE FUNCTION overtake() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {claim}; RETURN NULL; END $$;;\
                 CREATE TRIGGER overtake {when} EXECUTE FUNCTION overtake()"
            ),
        };
        for sql in trigger.split(";;") {
            bench.execute(sql).await;
        }
        let error = bench.import(&spec(with("update")), &Memory::new(file())).await.err().unwrap();
        assert_eq!(error.code().name(), "lease_lost");
        let rows = bench.texts("SELECT cursor FROM afterload_checkpoints").await;
        let cursor: Value = serde_json::from_str(&rows[0]).unwrap();
        assert_eq!(cursor["rows"], json!(200));
    }
}

#[tokio::test]
async fn cancelled_import_stops_between_chunks() {
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        let stop = CancellationToken::new();
        stop.cancel();
        let error = bench.attempt(&spec(with("update")), &Memory::new(file()), 1, stop).await.err().unwrap();
        assert_eq!(error.code().name(), "step_stopped");
        let done =
            bench.attempt(&spec(with("update")), &Memory::new(file()), 2, CancellationToken::new()).await.unwrap();
        assert_eq!(done.counts()[0], 2500);
    }
}

#[tokio::test]
async fn old_checkpoints_and_rejects_are_deleted() {
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        bench.import(&spec(with("update")), &Memory::new(file())).await.unwrap();
        bench.execute("UPDATE afterload_checkpoints SET key = 'old', finished_at = 1").await;
        bench.execute("UPDATE afterload_rejects SET key = 'old'").await;
        bench.import(&spec(with("update")), &Memory::new("email,name,age\nbad,x,1\n")).await.unwrap();
        assert_eq!(bench.rows("afterload_checkpoints", &["key"]).await, ["run1/import"]);
        assert_eq!(bench.rows("afterload_rejects", &["key"]).await, ["run1/import"]);
    }
}
