//! `table.import`: workbooks, JSON Lines, and archives around texts.

use std::io::Write;

use afterload_table_import::CsvImport;
use afterload_tabular::write::compression::CompressedOutput;
use afterload_target_db::CellType;
use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::bench::{BOTH, Bench, Memory, spec};
use crate::support::workbook::{collect_piped, make_workbook};

/// The rows of a table, and the codes of the rejected rows.
type ImportedFile = (Vec<String>, Vec<(u64, String, String)>);

const PEOPLE: &str = "CREATE TABLE people (id INTEGER, name TEXT, amount NUMERIC(12, 3), joined DATE)";
const COLUMNS: [&str; 4] = ["id", "name", "amount", "joined"];
const ROWS: usize = 1000;

fn people(extra: Value) -> CsvImport {
    let mut with = json!({
        "into": { "table": "people" }, "chunk": 100, "number": "de",
        "columns": {
            "id": { "min": 0 }, "name": {}, "amount": { "type": "decimal" }, "joined": { "formats": ["%d.%m.%Y"] },
        },
    });
    for (key, value) in extra.as_object().unwrap() {
        with[key] = value.clone();
    }
    CsvImport { any_format: true, ..spec(with) }
}

/// The cells of a row. Every fiftieth row has an id that is too small.
fn row(number: usize) -> (i64, String, f64) {
    let id = number as i64;
    (if number % 50 == 7 { -id } else { id }, format!("Zoë \"{number}\""), number as f64 + 0.125)
}

fn csv_file() -> Vec<u8> {
    let line = |number| {
        let (id, name, amount) = row(number);
        let (name, amount) = (name.replace('"', "\"\""), amount.to_string().replace('.', ","));
        format!("{id};\"{name}\";{amount};29.02.2024\n")
    };
    format!("id;name;amount;joined\n{}", (0..ROWS).map(line).collect::<String>()).into_bytes()
}

fn json_file() -> Vec<u8> {
    let line = |number| {
        let (id, name, amount) = row(number);
        format!("{}\n", json!({ "id": id, "name": name, "amount": amount, "joined": "29.02.2024" }))
    };
    (0..ROWS).map(line).collect::<String>().into_bytes()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

fn zip(bytes: Vec<u8>) -> Vec<u8> {
    collect_piped(move |pipe| {
        let mut archive = CompressedOutput::new_zip(pipe, "people.csv").unwrap();
        archive.write_buffer(&mut bytes.clone()).unwrap();
        archive.finish().unwrap();
    })
}

fn xlsx() -> Vec<u8> {
    let cells = |number| {
        let (id, name, amount) = row(number);
        let number = |text: String| (CellType::Number, text);
        vec![
            number(id.to_string()),
            (CellType::Text, name),
            number(amount.to_string()),
            (CellType::Date, "2024-02-29".to_owned()),
        ]
    };
    make_workbook(&COLUMNS, &(0..ROWS).map(cells).collect::<Vec<_>>())
}

/// Each kind of file gives the rows of the CSV, also if each attempt gets only a few chunks further.
#[tokio::test]
async fn every_kind_of_file_gives_the_same_rows_and_resumes() {
    let files = [
        ("csv", None, csv_file()),
        ("csv", Some("gzip"), gzip(&csv_file())),
        ("csv", Some("zip"), zip(csv_file())),
        ("json_lines", None, json_file()),
        ("json_lines", Some("gzip"), gzip(&json_file())),
        ("xlsx", None, xlsx()),
    ];
    for db in BOTH {
        let bench = Bench::new(db, PEOPLE).await;
        let mut expected: Option<ImportedFile> = None;
        for (format, archive, bytes) in &files {
            let source = Memory::new(bytes.clone()).pieces(1000);
            bench.execute("DELETE FROM people").await;
            let whole = bench.import_anew(&people(json!({})), &source).await.unwrap();
            assert_eq!(whole.counts(), [1000, 980, 0, 0, 20], "{db:?} {format} {archive:?}: {}", whole.errors);
            let detected = &whole.outputs.detected;
            assert_eq!((detected.format.as_str(), detected.archive.as_deref()), (*format, *archive));
            let progress = whole.progress();
            assert_eq!((progress.done, progress.total), (source.len(), Some(source.len())));
            let found = (bench.rows("people", &COLUMNS).await, whole.codes());
            let expected = expected.get_or_insert_with(|| found.clone());
            assert_eq!(&found, expected, "{db:?} {format} {archive:?}");
            // A growing `max_rows` simulates a crash after some chunks. Only the `finished` mark must be reset.
            bench.execute("DELETE FROM people").await;
            bench.execute("DELETE FROM afterload_checkpoints").await;
            bench.execute("DELETE FROM afterload_rejects").await;
            for (epoch, rows) in (1..).zip((100..1000).step_by(300)) {
                let cut = people(json!({ "max_rows": rows }));
                bench.attempt(&cut, &source, epoch, CancellationToken::new()).await.unwrap();
                bench.execute("UPDATE afterload_checkpoints SET cursor = replace(cursor, '\"finished\":true', '\"finished\":false')").await;
            }
            let done = bench.attempt(&people(json!({})), &source, 100, CancellationToken::new()).await.unwrap();
            assert_eq!(done.outputs, whole.outputs, "{db:?} {format} {archive:?}");
            assert!(done.errors == whole.errors);
            assert_eq!(&bench.rows("people", &COLUMNS).await, &expected.0);
        }
    }
}

#[tokio::test]
async fn error_file_of_a_workbook_is_a_csv_that_can_be_corrected() {
    for db in BOTH {
        let bench = Bench::new(db, PEOPLE).await;
        let first = bench.import(&people(json!({})), &Memory::new(xlsx())).await.unwrap();
        assert!(first.errors.lines().nth(1).unwrap().starts_with("-7,"), "{}", first.errors);
        assert!(first.errors.contains("2024-02-29") && first.errors.contains("\"7,125\""), "{}", first.errors);
        assert_eq!(first.outputs.detected.sheet.as_deref(), Some("Sheet1"));
        let corrected = first.errors.replace("\n-", "\n");
        let second = bench.import_anew(&people(json!({})), &Memory::new(corrected)).await.unwrap();
        assert_eq!(second.counts(), [20, 20, 0, 0, 0], "{}", second.errors);
        assert_eq!(bench.rows("people", &["id"]).await.len(), ROWS);
    }
}

#[tokio::test]
async fn files_that_cannot_be_unpacked_have_a_code() {
    let bench = Bench::new(super::Db::Sqlite, PEOPLE).await;
    let packed = gzip(&csv_file());
    let cases = [
        (json!({}), packed[..packed.len() - 20].to_vec(), "archive_invalid"),
        (json!({}), b"\x1f\x8b\x08\0".to_vec(), "archive_invalid"),
        (json!({ "unpack": { "max_size": "1kb" } }), packed.clone(), "archive_too_large"),
        (json!({ "unpack": { "max_size": "1kb" } }), xlsx(), "archive_too_large"),
        (json!({ "sheet": "Nowhere" }), xlsx(), "sheet_missing"),
        (json!({ "sheet": 2 }), xlsx(), "sheet_missing"),
        (json!({ "entry": "b.csv" }), zip(csv_file()), "archive_entry_missing"),
        (json!({}), xlsx()[..2000].to_vec(), "archive_invalid"),
        (json!({}), zip(xlsx()), "csv_not_text"),
        (json!({}), b"[{\"id\": 1}]".to_vec(), "csv_not_text"),
        (json!({}), b"{\"nr\": 1, \"name\": \"x\"}\n".to_vec(), "csv_header_missing"),
    ];
    for (number, (with, bytes, code)) in cases.into_iter().enumerate() {
        let error = bench.import_anew(&people(with), &Memory::new(bytes)).await.err();
        let error = error.unwrap_or_else(|| panic!("case {number} passes"));
        assert_eq!((error.code().name(), error.is_transient()), (code, false), "case {number}: {error}");
    }
    // `csv.import` reads gzip, and names the kind for the rest.
    let only_csv = CsvImport { any_format: false, ..people(json!({})) };
    assert_eq!(bench.import_anew(&only_csv, &Memory::new(packed)).await.unwrap().counts()[0], 1000);
    for bytes in [xlsx(), zip(csv_file()), json_file()] {
        let error = bench.import_anew(&only_csv, &Memory::new(bytes)).await.err().unwrap();
        assert_eq!(error.code().name(), "csv_not_text");
        assert!(error.hint_text().unwrap().contains("table.import"), "{error}");
    }
}

#[tokio::test]
async fn late_keys_and_broken_lines_of_json_are_seen() {
    let bench = Bench::new(super::Db::Sqlite, "CREATE TABLE notes (id INTEGER, phone TEXT, more TEXT)").await;
    let lines = "{\"ID\": 1, \"more\": {\"a\": [1, 2]}}\n\nbroken\n{\"id\": 2, \"Phone Number\": \"+1\"}\n{\"id\": null, \"more\": 1}\n";
    let columns =
        json!({ "id": { "required": true }, "phone": { "match": ["phone number"], "default": null }, "more": {} });
    let with = people(json!({ "into": { "table": "notes" }, "columns": columns }));
    let first = "{\"id\": 8, \"more\": \"first\"}\n";
    // The keys of the first objects are looked at; these end before the last lines.
    let filler = format!("{{\"id\": 9, \"more\": \"{}\"}}\n", "x".repeat(300_000));
    let source = Memory::new(format!("{first}{filler}{lines}"));
    let done = bench.import(&with, &source).await.unwrap();
    assert_eq!((done.counts(), done.outputs.blank), ([6, 4, 0, 0, 2], 1), "{}", done.errors);
    let rows = bench.rows("notes", &["id", "phone", "substr(more, 1, 20)"]).await;
    assert_eq!(rows[..2], ["1|-|{\"a\": [1, 2]}", "2|+1|-"]);
    let codes =
        done.codes().into_iter().map(|(row, column, code)| format!("{row} {column} {code}")).collect::<Vec<_>>();
    assert_eq!(codes, ["4  json_line_invalid", "6 id value_required"]);
}

#[tokio::test]
async fn workbook_of_the_examples_is_imported() {
    let pipeline = afterload_spanned_yaml::parse(include_str!("../../../examples/workbook/import.yaml"));
    let with = pipeline.unwrap_or_else(|problems| panic!("{problems:?}")).to_json()["steps"][0]["with"].clone();
    let example = CsvImport { any_format: true, ..spec(with) };
    let table = "CREATE TABLE contacts (email VARCHAR(100) PRIMARY KEY, name TEXT, joined DATE, amount NUMERIC)";
    for db in BOTH {
        let bench = Bench::new(db, table).await;
        let source = Memory::new(*include_bytes!("../../../examples/workbook/contacts.xlsx"));
        let done = bench.import(&example, &source).await.unwrap();
        assert_eq!(done.counts(), [4, 3, 0, 0, 1], "{}", done.errors);
        assert_eq!(
            bench.rows("contacts", &["email", "name", "joined", "amount"]).await,
            [
                "ada@example.com|Ada & Bob|2000-01-01|2469",
                "lukasz@example.com|Łukasz|2023-12-24|0.3",
                "zoe@example.com|Zoë Müller|2024-02-29|1234.5",
            ]
        );
        assert!(done.errors.contains("\nCy,cy@example.com,2024-03-01,#N/A,run1,4,7,,cell_error,"), "{}", done.errors);
        assert_eq!(done.outputs.detected.header_line, Some(3));
    }
}
