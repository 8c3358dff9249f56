//! Files as people upload them, after faults that users of import tools report. All of them run in one process for each
//! database.

use super::bench::{BOTH, Bench, Db, Memory, spec};
use serde_json::{Value, json};

/// A file, the import that reads it, and what is right.
struct Case {
    name: &'static str,
    /// The columns of the table.
    table: &'static str,
    with: Value,
    /// The counts of rows, inserted, updated, skipped and rejected rows on SQLite and on PostgreSQL.
    counts: [[u64; 5]; 2],
    /// The columns and rows to compare, sorted by the first column; none of them skips the comparison.
    rows: (&'static [&'static str], &'static [&'static str]),
}

fn case(
    name: &'static str,
    table: &'static str,
    with: Value,
    counts: [u64; 5],
    columns: &'static [&'static str],
    rows: &'static [&'static str],
) -> Case {
    Case { name, table, with, counts: [counts; 2], rows: (columns, rows) }
}

fn contacts(extra: Value) -> Value {
    let mut with = json!({
        "columns": { "email": { "match": ["Email", "E-mail"] }, "name": { "match": ["Name", "Full name"] } },
    });
    for (key, value) in extra.as_object().unwrap() {
        with[key] = value.clone();
    }
    with
}

fn numbered(name: &str, column: Value) -> Value {
    let header = name.to_uppercase();
    json!({ "columns": { "n": { "match": "N", "type": "integer" }, name: merged(column, json!({ "match": header })) } })
}

fn merged(mut one: Value, two: Value) -> Value {
    for (key, value) in two.as_object().unwrap() {
        one[key] = value.clone();
    }
    one
}

fn upsert(keys: &str, columns: Value) -> Value {
    json!({ "on_conflict": { "keys": [keys], "action": "update" }, "columns": columns })
}

const TWO: &str = "email TEXT, name TEXT";
const TWO_NAMES: &[&str] = &["email", "name"];
const ONE_ROW: &[&str] = &["a@example.org|Z"];

/// Cases of encodings, shapes and headers.
fn shape_cases() -> Vec<Case> {
    let plain = || contacts(json!({}));
    let columns = |columns: Value| json!({ "columns": columns });
    let four = columns(
        json!({ "email": { "match": "Email" }, "name": { "match": "Name" }, "phone": { "match": "Phone" }, "fax": { "match": "Fax" } }),
    );
    let amounts = columns(
        json!({ "email": { "match": "Email" }, "name": { "match": "Name" }, "amount": { "match": "Amount", "type": "decimal" } }),
    );
    let bank = columns(json!({ "datum": { "match": "Datum" }, "betrag": { "match": "Betrag, EUR" } }));
    let prenom = columns(json!({ "prenom": { "match": "Prénom" }, "email": { "match": "Email" } }));
    vec![
        case("enc_mixed_one", TWO, plain(), [52, 51, 0, 0, 1], &[], &[]),
        case("enc_utf16_odd", TWO, plain(), [2, 1, 0, 0, 1], TWO_NAMES, &["zoe@x.de|Zoë, \"Z\" Müller"]),
        case("sep_line", TWO, plain(), [1, 1, 0, 0, 0], TWO_NAMES, ONE_ROW),
        case("blank_mid", TWO, plain(), [2, 2, 0, 0, 0], TWO_NAMES, &["a@example.org|Z", "b@example.org|Y"]),
        case("preamble_auto", TWO, plain(), [2, 2, 0, 0, 0], TWO_NAMES, &["a@example.org|Z", "b@example.org|Y"]),
        case(
            "footer",
            "email TEXT, name TEXT, amount NUMERIC",
            merged(amounts, json!({ "skip_footer": 2 })),
            [2, 2, 0, 0, 0],
            TWO_NAMES,
            &["a@example.org|Z", "b@example.org|Y"],
        ),
        case(
            "ragged_short",
            "email TEXT, name TEXT, phone TEXT, fax TEXT",
            merged(four, json!({ "short_rows": "pad" })),
            [3, 3, 0, 0, 0],
            &["email", "name", "phone", "fax"],
            &["a@example.org|Z|1|2", "b@example.org|Y|-|-", "c@example.org|X|3|-"],
        ),
        case("q_unclosed_mid", TWO, plain(), [6, 5, 0, 0, 1], &["name"], &["U", "V", "W", "X", "Y"]),
        case(
            "q_unescaped_inner",
            TWO,
            contacts(json!({ "quotes": "lenient" })),
            [2, 2, 0, 0, 0],
            TWO_NAMES,
            &["a@example.org|He said \"hi\" to me", "b@example.org|Y"],
        ),
        case(
            "q_backslash",
            TWO,
            contacts(json!({ "escape": "\\" })),
            [2, 2, 0, 0, 0],
            TWO_NAMES,
            &["a@example.org|Text in \"Quotes\"", "b@example.org|Y"],
        ),
        case(
            "q_space_before",
            TWO,
            plain(),
            [2, 2, 0, 0, 0],
            TWO_NAMES,
            &["a@example.org|Doe, John", "b@example.org|Y"],
        ),
        case(
            "amb_delim",
            "datum TEXT, betrag TEXT",
            bank,
            [2, 2, 0, 0, 0],
            &["datum", "betrag"],
            &["01.01.2024|1,50", "02.01.2024|-2,75"],
        ),
        case("hdr_nbsp", TWO, plain(), [1, 1, 0, 0, 0], TWO_NAMES, ONE_ROW),
        case("hdr_newline", TWO, plain(), [1, 1, 0, 0, 0], TWO_NAMES, ONE_ROW),
        case(
            "hdr_nfd",
            "prenom TEXT, email TEXT",
            prenom,
            [1, 1, 0, 0, 0],
            &["prenom", "email"],
            &["Zoe|a@example.org"],
        ),
    ]
}

/// Cases of values.
fn value_cases() -> Vec<Case> {
    let dates = |formats: &[&str]| numbered("d", json!({ "type": "date", "formats": formats }));
    let number = json!({ "thousands": ",", "currency": true, "percent": true, "negative": "brackets" });
    let decimals = json!({ "n": { "type": "integer" }, "d": { "type": "decimal" } });
    let words = json!({ "type": "boolean", "true_values": ["yes", "true", "1", "x", "✓", "ja", "oui", "y", "on", "wahr", "t"] });
    vec![
        case(
            "d_Y_2digit",
            "n INTEGER, d DATE",
            dates(&["%d.%m.%Y"]),
            [7, 2, 0, 0, 5],
            &["n", "d"],
            &["2|2024-01-05", "6|2024-01-05"],
        ),
        case(
            "d_with_time",
            "n INTEGER, d DATE",
            dates(&["%m/%d/%Y"]),
            [3, 3, 0, 0, 0],
            &["n", "d"],
            &["0|2024-01-05", "1|2024-01-05", "2|2024-01-05"],
        ),
        case(
            "t_zname",
            "n INTEGER, d TIMESTAMP",
            numbered("d", json!({ "type": "datetime", "formats": ["%Y-%m-%d %H:%M:%S %Z"] })),
            [4, 2, 0, 0, 2],
            &["n", "d"],
            &["0|2024-01-05 10:00:00", "3|2024-01-05 05:00:00"],
        ),
        Case {
            counts: [[21, 11, 0, 0, 10], [21, 12, 0, 0, 9]],
            ..case(
                "decs",
                "n INTEGER, d DECIMAL(20,2)",
                json!({ "columns": decimals, "number": number }),
                [0; 5],
                &[],
                &[],
            )
        },
        Case {
            counts: [[4, 1, 0, 0, 3], [4, 4, 0, 0, 0]],
            ..case("dec_sqlite_prec", "n INTEGER, d NUMERIC(40,20)", json!({ "columns": decimals }), [0; 5], &[], &[])
        },
        case(
            "bools",
            "n INTEGER, b BOOLEAN",
            json!({ "columns": { "n": {}, "b": words } }),
            [17, 15, 0, 0, 2],
            &[],
            &[],
        ),
        Case {
            counts: [[13, 6, 0, 0, 7], [13, 5, 0, 0, 8]],
            ..case("ints", "n INTEGER, i INTEGER", json!({ "columns": { "n": {}, "i": {} } }), [0; 5], &[], &[])
        },
        case(
            "enum_case",
            "s TEXT",
            json!({ "columns": { "s": { "type": "enum", "values": ["active", "inactive"] } } }),
            [4, 3, 0, 0, 1],
            &["s"],
            &["active", "active", "active"],
        ),
    ]
}

/// Cases of limits, of rows that are there already, and of what a file may not change.
fn update_cases() -> Vec<Case> {
    vec![
        case(
            "maxrows",
            "n INTEGER",
            json!({ "columns": { "n": {} }, "max_rows": 2 }),
            [2, 2, 0, 0, 0],
            &["n"],
            &["1", "2"],
        ),
        case(
            "maxerr",
            "e TEXT",
            json!({ "columns": { "e": { "type": "email" } }, "errors": { "file": "x.csv", "max": 2 } }),
            [5, 0, 0, 0, 5],
            &[],
            &[],
        ),
        case(
            "miss_upsert",
            "email VARCHAR(90) PRIMARY KEY, name TEXT, phone TEXT, tags TEXT",
            upsert(
                "email",
                json!({ "email": {}, "name": {}, "phone": { "default": null }, "tags": { "default": "none" } }),
            ),
            [2, 1, 1, 0, 0],
            &["email", "name", "phone", "tags"],
            &["a@example.org|New Name|+49 123|vip", "b@example.org|B|-|none"],
        ),
        case(
            "blank_upsert",
            "email VARCHAR(90) PRIMARY KEY, name TEXT, phone TEXT",
            upsert("email", json!({ "email": {}, "name": {}, "phone": { "on_blank": "keep" } })),
            [1, 0, 1, 0, 0],
            &["email", "name", "phone"],
            &["a@example.org|New Name|+49 123"],
        ),
        case(
            "const_inject",
            "email TEXT, name TEXT, tenant TEXT",
            json!({ "columns": { "email": {}, "name": {}, "tenant": { "value": "t1" } } }),
            [1, 1, 0, 0, 0],
            &["email", "tenant"],
            &["a@example.org|t1"],
        ),
        case(
            "two_faults",
            "e TEXT, n INTEGER",
            json!({ "columns": { "e": { "type": "email" }, "n": { "type": "integer" } } }),
            [1, 0, 0, 0, 1],
            &[],
            &[],
        ),
        case(
            "rt_phone",
            "id INTEGER PRIMARY KEY, phone TEXT, handle TEXT, note TEXT",
            upsert("id", json!({ "id": {}, "phone": {}, "handle": {}, "note": {} })),
            [1, 1, 0, 0, 0],
            &["id", "phone", "handle", "note"],
            &["1|+49 30 123|@bob|- todo"],
        ),
    ]
}

fn read_file(name: &str) -> Vec<u8> {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/csv_import/files");
    std::fs::read(folder.join(format!("{name}.csv"))).unwrap()
}

/// The `with:` block for a table of the same name.
fn import_of(name: &str, with: &Value) -> Value {
    let mut with = with.clone();
    let conflict = with.as_object_mut().unwrap().remove("on_conflict");
    // PostgreSQL folds names that are not quoted.
    with["into"] = json!({ "table": name.to_lowercase() });
    if let Some(conflict) = conflict {
        with["into"]["on_conflict"] = conflict;
    }
    with
}

/// Forgets earlier imports, so that the next one starts over.
async fn forget_imports(bench: &Bench) {
    for table in ["afterload_checkpoints", "afterload_rejects"] {
        if bench.connection.describe_table(table).await.is_ok() {
            bench.execute(&format!("DELETE FROM {table}")).await;
        }
    }
}

#[tokio::test]
async fn real_files_give_the_right_rows() {
    let cases = shape_cases().into_iter().chain(value_cases()).chain(update_cases()).collect::<Vec<_>>();
    let tables = cases.iter().map(|case| format!("CREATE TABLE {} ({})", case.name, case.table)).collect::<Vec<_>>();
    for (db, which) in BOTH.into_iter().zip(0..) {
        let bench = Bench::new(db, &tables.join(";;")).await;
        bench.execute("INSERT INTO miss_upsert VALUES ('a@example.org', 'Old', '+49 123', 'vip')").await;
        bench.execute("INSERT INTO blank_upsert VALUES ('a@example.org', 'Old', '+49 123')").await;
        for Case { name, with, counts, rows: (columns, rows), .. } in &cases {
            forget_imports(&bench).await;
            let done = bench.import(&spec(import_of(name, with)), &Memory::new(read_file(name))).await;
            let done = done.unwrap_or_else(|error| panic!("{db:?} {name}: {error}"));
            let expected: &[u64; 5] = &counts[which];
            assert_eq!(&done.counts(), expected, "{db:?} {name}: {}", done.errors);
            if !columns.is_empty() {
                assert_eq!(bench.rows(name, columns).await, *rows, "{db:?} {name}");
            }
            check_outputs(name, &done.outputs, &done.errors);
        }
        check_round_trip(&bench).await;
        check_blank_updates(&bench, db).await;
        for (name, kind) in [("html_xls", "HTML"), ("json_any", "JSON")] {
            let with = import_of("sep_line", &contacts(json!({})));
            let error = bench.import(&spec(with), &Memory::new(read_file(name))).await.err().unwrap();
            assert!(error.code().name() == "csv_not_text" && error.message().contains(kind), "{error}");
        }
    }
}

/// Checks the outputs of single cases.
fn check_outputs(name: &str, outputs: &afterload_table_import::CsvImportOutputs, errors: &str) {
    match name {
        "enc_mixed_one" => {
            assert_eq!((outputs.detected.encoding.as_str(), outputs.detected.header_line), ("utf-8", Some(1)));
            assert!(errors.contains("\\x"), "the bytes are kept: {errors}");
        }
        "blank_mid" => assert_eq!(outputs.blank, 6),
        "preamble_auto" => assert_eq!(outputs.detected.header_line, Some(6)),
        "maxrows" => assert!(outputs.cut),
        "maxerr" => {
            assert_eq!((outputs.errors_omitted, outputs.cut), (3, false));
            assert!(errors.contains("csv_errors_omitted,3 more rejected rows"), "{errors}");
        }
        "two_faults" => assert!(errors.contains("e; n,value_invalid; value_invalid,"), "{errors}"),
        _ => assert!(!errors.contains('\u{fffd}'), "{errors}"),
    }
}

/// A file that a report has guarded gives the same values.
async fn check_round_trip(bench: &Bench) {
    forget_imports(bench).await;
    let with = import_of("rt_phone", &upsert("id", json!({ "id": {}, "phone": {}, "handle": {}, "note": {} })));
    let report = "id,phone,handle,note\n1,'+49 30 123,'@bob,'- todo\n";
    let done = bench.import(&spec(with), &Memory::new(report)).await.unwrap();
    assert_eq!(done.counts(), [1, 0, 1, 0, 0]);
    assert_eq!(bench.rows("rt_phone", &["phone", "handle", "note"]).await, ["+49 30 123|@bob|- todo"]);
}

/// Without `on_blank: keep`, an empty cell empties the column. `update` names what may be overwritten.
async fn check_blank_updates(bench: &Bench, db: Db) {
    for (columns, update, expected) in [
        (json!({ "email": {}, "name": {}, "phone": {} }), json!(["phone"]), "a@example.org|New Name|-"),
        (
            json!({ "email": {}, "name": { "insert_only": true }, "phone": { "default": "new" } }),
            Value::Null,
            "a@example.org|New Name|new",
        ),
        (
            json!({ "email": {}, "name": { "value": "Const" }, "phone": { "default": "none" } }),
            Value::Null,
            "a@example.org|Const|none",
        ),
    ] {
        forget_imports(bench).await;
        let mut with = import_of("blank_upsert", &upsert("email", columns));
        with["into"]["on_conflict"]["update"] = update;
        let file = "email,name,phone\na@example.org,Other,\n";
        let done = bench.import(&spec(with), &Memory::new(file)).await.unwrap();
        assert_eq!(done.counts(), [1, 0, 1, 0, 0], "{db:?}");
        assert_eq!(bench.rows("blank_upsert", &["email", "name", "phone"]).await, [expected], "{db:?}");
    }
}
