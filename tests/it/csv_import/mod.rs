//! `csv.import` against real databases, each test on SQLite and on PostgreSQL.

mod bench;
mod packed_files;
mod real_files;
mod refusals;
mod resume;
mod round_trips;
mod whole_file;

use afterload::config::CheckpointMode;
use bench::{BOTH, Bench, Db, Memory, spec};
use serde_json::{Value, json};

use crate::support::TestApp;

const CONTACTS: &str =
    "CREATE TABLE contacts (email VARCHAR(40) PRIMARY KEY, name TEXT, age INTEGER CHECK (age <> 13))";

fn contacts(extra: Value) -> Value {
    let mut with = json!({
        "into": { "table": "contacts" },
        "columns": {
            "email": { "match": ["E-mail", "email"], "type": "email", "required": true },
            "name": {},
            "age": { "type": "integer", "min": 0 },
        },
    });
    for (key, value) in extra.as_object().unwrap() {
        with[key] = value.clone();
    }
    with
}

fn conflict(action: &str) -> Value {
    json!({ "into": { "table": "contacts", "on_conflict": { "keys": ["email"], "action": action } } })
}

#[tokio::test]
async fn valid_rows_are_imported_and_invalid_rows_are_returned() {
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        let source =
            Memory::new("E-MAIL ,name,age,other\na@b.de,Ann,1,x\nbad,\"=1+1\",2,\"y,z\"\nc@d.de,,,\nd@e.de,D,-3,\n");
        let done = bench.import(&spec(contacts(json!({}))), &source).await.unwrap();
        assert_eq!(done.counts(), [4, 2, 0, 0, 2]);
        assert_eq!(bench.rows("contacts", &["email", "name", "age"]).await, ["a@b.de|Ann|1", "c@d.de|-|-"]);
        assert_eq!(
            done.errors,
            "E-MAIL,name,age,other,_run,_row,_line,_error_column,_error_code,_error_message\n\
             bad,'=1+1,2,\"y,z\",run1,2,3,email,value_invalid,`bad` is not an e-mail address\n\
             d@e.de,D,-3,,run1,4,5,age,value_out_of_range,`-3` is too small\n"
        );
        let file = done.outputs.errors_file.as_ref().unwrap();
        assert_eq!((file.name.as_str(), file.size), ("rejected.csv", done.errors.len() as u64));
        assert_eq!(done.outputs.report.faults["email.value_invalid"], 1);
        let progress = done.progress();
        assert_eq!((progress.done, progress.total), (source.len(), Some(source.len())));
        assert_eq!((progress.counts["rows"], progress.message.as_deref()), (4, Some("4 rows")));
    }
}

#[tokio::test]
async fn corrected_error_file_can_be_imported() {
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        let with = contacts(json!({ "skip_rows": 2, "delimiter": ";" }));
        let source = Memory::new("Export\n\nE-mail;name;age\nbad;'=1;x\nbad2;=2;2\n");
        let first = bench.import(&spec(with.clone()), &source).await.unwrap();
        assert_eq!(first.counts(), [2, 0, 0, 0, 2]);
        let corrected =
            first.errors.replace("\nbad;", "\na@b.de;").replace(";x;", ";7;").replace("\nbad2;", "\nc@d.de;");
        let second = bench.attempt(&spec(with), &Memory::new(corrected), 2, Default::default()).await;
        // The same key resumes the first import; another run has another key.
        assert_eq!(second.unwrap().counts(), [2, 0, 0, 0, 2]);
        bench.execute("DELETE FROM afterload_checkpoints").await;
        bench.execute("DELETE FROM afterload_rejects").await;
        let corrected =
            first.errors.replace("\nbad;", "\na@b.de;").replace(";x;", ";7;").replace("\nbad2;", "\nc@d.de;");
        let with = contacts(json!({ "skip_rows": 2, "delimiter": ";" }));
        let third = bench.import(&spec(with), &Memory::new(corrected)).await.unwrap();
        assert_eq!(third.counts(), [2, 2, 0, 0, 0]);
        assert!(third.outputs.errors_file.is_none() && third.errors.is_empty());
        assert_eq!(bench.rows("contacts", &["email", "name", "age"]).await, ["a@b.de|=1|7", "c@d.de|=2|2"]);
    }
}

#[tokio::test]
async fn every_column_type_is_imported() {
    let columns = [
        ("id", "INTEGER", json!({}), "7", "7", "7"),
        ("small", "SMALLINT", json!({}), "-32768", "-32768", "-32768"),
        ("big", "BIGINT", json!({}), "9223372036854775807", "9223372036854775807", "9223372036854775807"),
        ("single", "REAL", json!({}), "1.5", "1.5", "1.5"),
        ("twice", "DOUBLE PRECISION", json!({}), "-0.25e1", "-2.5", "-2.5"),
        ("amount", "NUMERIC(12, 3)", json!({}), "12345678.905", "12345678.905", "12345678.905"),
        ("words", "TEXT", json!({}), "Zoë 📦", "Zoë 📦", "Zoë 📦"),
        ("number_text", "TEXT", json!({ "type": "decimal" }), "1.10", "1.10", "1.10"),
        ("flag", "BOOLEAN", json!({}), "Yes", "1", "true"),
        ("day", "DATE", json!({ "formats": ["%d.%m.%Y"] }), "29.02.2024", "2024-02-29", "2024-02-29"),
        ("at", "TIMESTAMP", json!({}), "2024-02-29T12:00:00+02:00", "2024-02-29 10:00:00", "2024-02-29 10:00:00"),
        (
            "uid",
            "UUID",
            json!({}),
            "67E5504410B1426F9247BB680E5FE0C8",
            "67e55044-10b1-426f-9247-bb680e5fe0c8",
            "67e55044-10b1-426f-9247-bb680e5fe0c8",
        ),
        ("doc", "JSON", json!({}), "{\"\"a\"\": 1}", "{\"a\": 1}", "{\"a\": 1}"),
        ("blank", "INTEGER", json!({}), "", "-", "-"),
        ("given", "TEXT", json!({ "default": "x" }), "", "x", "x"),
    ];
    let only_postgres = [
        ("jsonb_doc", "JSONB", json!({}), "{\"\"a\"\":1}", "", "{\"a\": 1}"),
        ("zoned", "TIMESTAMPTZ", json!({}), "2024-02-29 12:00", "", "2024-02-29 12:00:00+00"),
        ("address", "INET", json!({}), "10.0.0.1", "", "10.0.0.1/32"),
        ("words_array", "TEXT[]", json!({}), "{a,b}", "", "{a,b}"),
        ("mood", "mood", json!({}), "happy", "", "happy"),
        ("cents", "INTEGER", json!({ "type": "string" }), "99", "", "99"),
        ("fixed", "CHAR(3)", json!({}), "ab", "", "ab"),
    ];
    for db in BOTH {
        let own = if db == Db::Postgres { &only_postgres[..] } else { &[] };
        let all = columns.iter().chain(own).collect::<Vec<_>>();
        let ddl = all.iter().map(|(name, kind, ..)| format!("{name} {kind}")).collect::<Vec<_>>().join(", ");
        let kinds = if db == Db::Postgres { "CREATE TYPE mood AS ENUM ('happy', 'sad');;" } else { "" };
        let bench = Bench::new(db, &format!("{kinds}CREATE TABLE t ({ddl})")).await;
        let names = all.iter().map(|(name, ..)| *name).collect::<Vec<_>>();
        let cells = all.iter().map(|(_, _, _, cell, ..)| format!("\"{cell}\"")).collect::<Vec<_>>();
        let rules = all.iter().map(|(name, _, rule, ..)| ((*name).to_owned(), rule.clone()));
        let with = json!({ "into": { "table": "t" }, "columns": rules.collect::<serde_json::Map<_, _>>() });
        let source = Memory::new(format!("{}\n{}\n", names.join(","), cells.join(",")));
        let done = bench.import(&spec(with), &source).await.unwrap();
        assert_eq!(done.counts(), [1, 1, 0, 0, 0], "{}", done.errors);
        for (name, _, _, _, sqlite, postgres) in all {
            let expected = if db == Db::Sqlite { sqlite } else { postgres };
            assert_eq!(bench.rows("t", &[name]).await, [*expected], "{name}");
        }
    }
}

#[tokio::test]
async fn existing_keys_are_updated_skipped_or_rejected() {
    let file = "email,name,age\nold@x.de,new,1\na@x.de,first,2\na@x.de,second,3\nb@x.de,B,4\n";
    let cases = [
        ("update", [4, 2, 2, 0, 0], ["a@x.de|second|3", "b@x.de|B|4", "old@x.de|new|1"]),
        ("skip", [4, 2, 0, 2, 0], ["a@x.de|first|2", "b@x.de|B|4", "old@x.de|old|9"]),
        ("reject", [4, 2, 0, 0, 2], ["a@x.de|first|2", "b@x.de|B|4", "old@x.de|old|9"]),
    ];
    for db in BOTH {
        for (action, counts, rows) in cases {
            // Chunks of one row and a single chunk must give the same result.
            for chunk in [1, 100] {
                let bench = Bench::new(db, CONTACTS).await;
                bench.execute("INSERT INTO contacts VALUES ('old@x.de', 'old', 9)").await;
                let mut with = contacts(conflict(action));
                with["chunk"] = chunk.into();
                let done = bench.import(&spec(with), &Memory::new(file)).await.unwrap();
                assert_eq!(done.counts(), counts, "{db:?} {action} {chunk}");
                assert_eq!(bench.rows("contacts", &["email", "name", "age"]).await, rows, "{db:?} {action} {chunk}");
                let conflicts = done.codes().into_iter().map(|(row, _, code)| (row, code)).collect::<Vec<_>>();
                if action == "reject" {
                    assert_eq!(conflicts, [(1, "conflict".to_owned()), (3, "conflict".to_owned())]);
                }
            }
        }
    }
}

#[tokio::test]
async fn rows_refused_by_the_database_are_reported_one_by_one() {
    for db in BOTH {
        for action in [None, Some("update")] {
            let bench = Bench::new(db, CONTACTS).await;
            let rows = (0..500).map(|row| format!("p{row}@x.de,P,{}\n", if row % 100 == 7 { 13 } else { 20 }));
            let file = format!("email,name,age\n{}p1@x.de,again,1\n", rows.collect::<String>());
            let with = contacts(action.map_or(json!({}), conflict));
            let done = bench.import(&spec(with), &Memory::new(file)).await.unwrap();
            let mut expected =
                [8, 108, 208, 308, 408].map(|row| (row, "age".to_owned(), "database_refused".to_owned())).to_vec();
            if action.is_none() {
                expected.push((501, "email".to_owned(), "conflict".to_owned()));
                assert_eq!(done.counts(), [501, 495, 0, 0, 6]);
            } else {
                assert_eq!(done.counts(), [501, 495, 1, 0, 5]);
            }
            assert_eq!(done.codes(), expected, "{db:?} {action:?}");
            assert!(done.errors.to_lowercase().contains("check constraint"), "{}", done.errors);
        }
    }
}

#[tokio::test]
async fn common_encodings_delimiters_and_line_ends_are_read() {
    let text = "email;name;age\na@b.de;Zoë Müller;1\nc@d.de;\"Jürgen;\nKöln\";2\n";
    let utf16 = |big: bool| {
        let units = std::iter::once(0xfeff).chain(text.encode_utf16());
        units.flat_map(|unit: u16| if big { unit.to_be_bytes() } else { unit.to_le_bytes() }).collect::<Vec<_>>()
    };
    let latin = text.chars().map(|c| c as u8).collect::<Vec<_>>();
    let files = [
        ("utf-8", text.as_bytes().to_vec()),
        ("utf-8", [b"\xef\xbb\xbf", text.as_bytes()].concat()),
        ("utf-16le", utf16(false)),
        ("utf-16be", utf16(true)),
        ("utf-16le", utf16(false)[2..].to_vec()),
        ("windows-1252", latin),
        ("utf-8", text.replace(';', "\t").replace("Jürgen\t", "Jürgen;").into_bytes()),
        ("utf-8", text.replace(';', "|").replace("Jürgen|", "Jürgen;").into_bytes()),
        ("utf-8", text.replace('\n', "\r").into_bytes()),
        ("utf-8", text.replace('\n', "\r\n").into_bytes()),
    ];
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        for (encoding, file) in &files {
            bench.execute("DELETE FROM contacts").await;
            if bench.connection.describe_table("afterload_checkpoints").await.is_ok() {
                bench.execute("DELETE FROM afterload_checkpoints").await;
            }
            let source = Memory::new(file.clone()).pieces(3);
            let done = bench.import(&spec(contacts(json!({ "chunk": 1 }))), &source).await.unwrap();
            assert_eq!(done.counts(), [2, 2, 0, 0, 0], "{}", done.errors);
            assert_eq!(&done.outputs.detected.encoding, encoding);
            let rows = bench.rows("contacts", &["email", "name", "age"]).await;
            let rows = rows.iter().map(|row| row.replace("\r\n", "\n").replace('\r', "\n")).collect::<Vec<_>>();
            assert_eq!(rows, ["a@b.de|Zoë Müller|1", "c@d.de|Jürgen;\nKöln|2"]);
        }
    }
}

#[tokio::test]
async fn header_errors_stop_the_import() {
    let good = "a@b.de,A,1\nc@d.de,C,2\n";
    let cases = [
        (format!("{}\n{good}", ",".repeat(16_384)), "csv_too_many_columns"),
        (format!("email,\"name,age\n{good}"), "csv_unclosed_quote"),
        (format!("email,nam,years\n{good}"), "csv_header_missing"),
        (format!("email,name,Email,age\n{good}"), "csv_header_duplicate"),
        ("<html><body>email,name,age</body></html>".into(), "csv_not_text"),
        (String::new(), "csv_empty"),
    ];
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        for (epoch, (file, code)) in (1..).zip(&cases) {
            let source = Memory::new(file.clone());
            let error =
                bench.attempt(&spec(contacts(json!({}))), &source, epoch, Default::default()).await.err().unwrap();
            assert_eq!((error.code().name(), error.is_transient()), (*code, false), "{error}");
        }
        let error = bench.import(&spec(contacts(json!({}))), &Memory::new("mail,name,age\n")).await.err().unwrap();
        assert!(
            error.to_string().contains("`E-mail`, `email`") && error.to_string().contains("has `mail`, `name`, `age`")
        );
        assert_eq!(error.details().unwrap()["near"]["email"], json!(["mail"]), "{error}");
    }
}

#[tokio::test]
async fn hostile_rows_are_rejected_and_the_others_imported() {
    let file = format!(
        "email,name,age\na@b.de,A,1\nx,\"open\nc@d.de,{},2\n{}\n{}\nd@e.de,D,3\n",
        "y".repeat((1 << 20) + 1),
        format!("{},", "y".repeat(1_000_000)).repeat(5),
        ",".repeat(16_384),
    );
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        let done = bench.import(&spec(contacts(json!({}))), &Memory::new(&*file)).await.unwrap();
        let codes = done.outputs.report.faults.keys().map(String::as_str).collect::<Vec<_>>();
        let expected = ["csv_field_too_large", "csv_record_too_large", "csv_too_many_columns", "csv_unclosed_quote"];
        assert_eq!((done.counts(), codes), ([6, 2, 0, 0, 4], expected.to_vec()));
        assert_eq!(bench.rows("contacts", &["email"]).await, ["a@b.de", "d@e.de"]);
    }
}

#[tokio::test]
async fn row_errors_reject_only_that_row() {
    let file = b"email,name,age\n1@x.de,A,1,2\n2@x.de,A\n3@x.de,N\0L,3\n4@x.de,\xff,4\n5@x.de,\"a\"b,5\n6@x.de,F,6";
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        let done = bench.import(&spec(contacts(json!({ "encoding": "utf-8" }))), &Memory::new(*file)).await.unwrap();
        assert_eq!(done.counts(), [6, 1, 0, 0, 5]);
        let codes = done.codes().into_iter().map(|(_, _, code)| code).collect::<Vec<_>>();
        assert_eq!(codes, ["csv_ragged", "csv_ragged", "csv_nul", "csv_invalid_text", "csv_stray_quote"]);
    }
}

#[tokio::test]
async fn unfixed_rows_of_an_error_file_are_rejected_again() {
    let file = b"email,name,age\n1@x.de,A,1,2\n2@x.de,A\n3@x.de,N\0L,3\n4@x.de,\xff,4\n5@x.de,\"a\"b,5\n6@x.de,F,,,\n";
    for db in BOTH {
        let with = contacts(json!({ "encoding": "utf-8", "columns": { "email": {}, "name": {}, "age": {} } }));
        let bench = Bench::new(db, &CONTACTS.replace("INTEGER CHECK (age <> 13)", "TEXT")).await;
        let first = bench.import(&spec(with.clone()), &Memory::new(*file)).await.unwrap();
        // Trailing empty fields are ignored. Other surplus fields stay in front of the added columns.
        assert_eq!(first.counts(), [6, 1, 0, 0, 5]);
        assert!(
            first.errors.lines().nth(1).unwrap().starts_with("1@x.de,A,\"1,2\",run1,1,2,,csv_ragged,"),
            "{}",
            first.errors
        );
        bench.execute("DELETE FROM afterload_checkpoints").await;
        bench.execute("DELETE FROM afterload_rejects").await;
        let again = bench.import(&spec(with.clone()), &Memory::new(first.errors.clone())).await.unwrap();
        assert_eq!(again.counts(), [5, 0, 0, 0, 5], "{}", again.errors);
        let codes =
            |errors: &[(u64, String, String)]| errors.iter().map(|(_, _, code)| code.clone()).collect::<Vec<_>>();
        let told = ["csv_ragged", "csv_ragged", "csv_invalid_text", "csv_invalid_text", "csv_stray_quote"];
        assert_eq!(codes(&again.codes()), told);
        bench.execute("DELETE FROM afterload_checkpoints").await;
        bench.execute("DELETE FROM afterload_rejects").await;
        let corrected = again.errors.replace("\"1,2\"", "1").replace("2@x.de,A,,", "2@x.de,A,2,");
        let corrected = corrected.replace("\\xFF", "x").replace("\\x00", "x").replace("ab,5", "a b,5");
        let third = bench.import(&spec(with), &Memory::new(corrected)).await.unwrap();
        assert_eq!(third.counts(), [5, 5, 0, 0, 0], "{}", third.errors);
    }
}

#[tokio::test]
async fn missing_tables_columns_and_keys_are_reported() {
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        let cases = [
            (contacts(json!({ "into": { "table": "contact" } })), "table_not_found"),
            (contacts(json!({ "into": { "table": "contacts\"; DROP TABLE contacts; --" } })), "table_not_found"),
            (contacts(json!({ "columns": { "mail": { "match": "email" } } })), "column_not_found"),
            (
                contacts(
                    json!({ "into": { "table": "contacts", "on_conflict": { "keys": ["name"], "action": "skip" } } }),
                ),
                "conflict_keys_not_unique",
            ),
        ];
        for (with, code) in cases {
            let error = bench.import(&spec(with), &Memory::new("email,name,age\n")).await.err().unwrap();
            assert_eq!(error.code().name(), code, "{error}");
        }
    }
}

#[tokio::test]
async fn import_limits_are_enforced() {
    let rows =
        (0..3000).map(|row| format!("{row}{},N,1\n", if row % 2 == 0 { "" } else { "@x.de" })).collect::<String>();
    let file = format!("email,name,age\n{rows}");
    for db in BOTH {
        let bench = Bench::new(db, CONTACTS).await;
        let done = bench
            .import(&spec(contacts(json!({ "max_rows": 10, "errors": { "max": 2 } }))), &Memory::new(&*file))
            .await;
        let done = done.unwrap();
        assert_eq!(done.counts(), [10, 5, 0, 0, 5]);
        assert_eq!((done.codes().len(), done.outputs.errors_omitted, done.outputs.cut), (2, 3, true));
        assert!(done.errors.contains("csv_errors_omitted,3 more rejected rows"), "{}", done.errors);
        assert!(done.errors.contains("csv_rows_cut,"), "{}", done.errors);

        let bench = Bench::new(db, CONTACTS).await;
        let with = contacts(json!({ "chunk": 500, "tolerate": "20%" }));
        let error = bench.import(&spec(with), &Memory::new(&*file)).await.err().unwrap();
        assert_eq!((error.code().name(), &error.details().unwrap()["rows"]), ("csv_too_many_rejects", &json!(1000)));
        assert_eq!(bench.rows("contacts", &["email"]).await.len(), 500);

        let bench = Bench::new(db, CONTACTS).await;
        let done = bench.import(&spec(contacts(json!({ "dry_run": true }))), &Memory::new(&*file)).await.unwrap();
        assert_eq!(done.counts(), [3000, 0, 0, 1500, 1500]);
        assert_eq!(done.codes().len(), 1500);
        assert!(bench.rows("contacts", &["email"]).await.is_empty());
        assert!(bench.connection.describe_table("afterload_checkpoints").await.is_err());
    }
}

#[tokio::test]
async fn without_checkpoints_only_repeatable_imports_are_allowed() {
    for db in BOTH {
        let bench = Bench::with(db, CONTACTS, CheckpointMode::None, None).await;
        let file = "email,name,age\na@b.de,A,1\nbad,B,2\n";
        for extra in [json!({}), conflict("reject")] {
            let error = bench.import(&spec(contacts(extra)), &Memory::new(file)).await.err().unwrap();
            assert_eq!(error.code().name(), "connection_needs_checkpoints");
        }
        let first = bench.import(&spec(contacts(conflict("update"))), &Memory::new(file)).await.unwrap();
        let again = bench.import(&spec(contacts(conflict("update"))), &Memory::new(file)).await.unwrap();
        assert_eq!((first.counts(), again.counts()), ([2, 1, 0, 0, 1], [2, 0, 1, 0, 1]));
        assert_eq!(first.errors, again.errors);
        assert!(bench.connection.describe_table("afterload_checkpoints").await.is_err());
    }
}

#[tokio::test]
async fn schema_holds_table_and_checkpoints() {
    let ddl = format!("CREATE SCHEMA \"my crm\";;{}", CONTACTS.replace("contacts", "\"my crm\".contacts"));
    let bench = Bench::with(Db::Postgres, &ddl, CheckpointMode::Table, Some("my crm")).await;
    let done = bench.import(&spec(contacts(json!({}))), &Memory::new("email,name,age\na@b.de,A,1\n")).await.unwrap();
    assert_eq!(done.counts(), [1, 1, 0, 0, 0]);
    assert_eq!(bench.rows("\"my crm\".afterload_checkpoints", &["epoch"]).await, ["1"]);
}

#[tokio::test]
async fn partitioned_table_supports_upserts() {
    let ddl = "CREATE TABLE contacts (email TEXT, name TEXT, age INTEGER, PRIMARY KEY (email)) PARTITION BY HASH (email);;\
               CREATE TABLE contacts_0 PARTITION OF contacts FOR VALUES WITH (MODULUS 2, REMAINDER 0);;\
               CREATE TABLE contacts_1 PARTITION OF contacts FOR VALUES WITH (MODULUS 2, REMAINDER 1)";
    let bench = Bench::new(Db::Postgres, ddl).await;
    let file = "email,name,age\na@b.de,A,1\nc@d.de,C,2\na@b.de,A,3\n";
    let mut with = contacts(conflict("update"));
    with["chunk"] = 2.into();
    let done = bench.import(&spec(with), &Memory::new(file)).await.unwrap();
    assert_eq!(done.counts(), [3, 2, 1, 0, 0], "{}", done.errors);
}

#[tokio::test]
async fn constants_come_from_params_and_the_run() {
    let yaml = r#"name: notes
params: { file: { type: file }, tenant: { type: string, default: t1 } }
steps:
  - id: import
    uses: csv.import
    with:
      source: "${{ params.file }}"
      into: { table: notes, on_conflict: { keys: [id], action: update } }
      number: { decimal: ",", thousands: ".", negative: brackets }
      columns:
        id: {}
        amount: { on_blank: null }
        state: { type: enum, values: [active, closed], map: { A: active } }
        tenant: { value: "${{ params.tenant }}" }
        at: { type: datetime, value: "${{ run.created_at }}" }
"#;
    for db in BOTH {
        let app = TestApp::builder(db).pipeline("notes", yaml).start().await;
        let table =
            "CREATE TABLE notes (id INTEGER PRIMARY KEY, amount NUMERIC(12, 2), state TEXT, tenant TEXT, at TIMESTAMP)";
        app.sql(table).await;
        let file = "id;amount;state;tenant\n1;(1.234,50);Active;other\n2;;a;other\n3;1.23;closed;other\n";
        let run = app.upload("notes", "notes.csv", file.into()).await;
        let run = app.ended(&run).await;
        let outputs = &run["steps"][0]["outputs"];
        assert_eq!((&outputs["inserted"], &outputs["rejected"]), (&json!(2), &json!(1)), "{run}");
        let good = "tenant = 't1' AND at IS NOT NULL AND state = 'active'";
        let sql = format!("SELECT COUNT(*) FROM notes WHERE {good} AND (amount = -1234.5 OR amount IS NULL)");
        assert_eq!(app.numbers(&sql).await, [2], "{run}");
        app.finish().await;
    }
}
