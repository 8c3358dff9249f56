//! The environment in which the example of every step kind runs: params, files, tables, events and earlier steps, by
//! the names that examples use. Every registered kind takes part. A name that an example uses and this file lacks is
//! reported.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::sync::LazyLock;

use afterload::registry::step_kinds;
use afterload_pipeline::StepKind;
use afterload_target_db::CellType;
use regex::Regex;
use serde_json::{Value, json};

use crate::support::workbook::make_workbook;

pub const BUCKET: &str = "uploads";
/// The chunk size of kinds with chunks. It is small, so that there are several chunks. Nothing runs in parallel, so
/// that a crash repeats at most one effect.
const CHUNK: u64 = 20;
/// The rows of the file. Some are invalid.
const ROWS: usize = 50;

/// The params by name, with type and value. `HTTP` stands for the URL of the fixture's server.
fn params() -> Vec<(&'static str, &'static str, Value)> {
    let file = |key: &str| json!(format!("s3://{BUCKET}/{key}"));
    vec![
        ("file", "file", file("contacts.csv")),
        ("photo", "file", file("photo.jpg")),
        ("workbook", "file", file("contacts.xlsx")),
        ("email", "email", json!("ada@example.com")),
        ("name", "string", json!("Ada")),
        // A loopback address needs no lookup.
        ("ip", "ip", json!("127.0.0.1")),
        ("url", "string", json!("HTTP/hooks/orders")),
        ("since", "date", json!("2024-01-01")),
        ("until", "date", json!("2030-01-01")),
        ("country", "string", json!("DE")),
        ("text", "string", json!("thanks @user3 and @user5")),
        ("author", "integer", json!(1)),
        ("post", "integer", json!(7)),
        ("account_id", "integer", json!(1)),
        ("order_id", "integer", json!(7)),
    ]
}

/// The events that are published for suspended steps.
pub fn events() -> Vec<(&'static str, Value)> {
    vec![("order.accepted", json!({ "order_id": 7, "by": "vendor" }))]
}

/// The earlier steps that examples use, with their kinds. Their own examples run before.
const EARLIER: &[(&str, &str)] = &[
    ("check", "file.check"),
    ("geo", "geo.lookup"),
    ("import", "csv.import"),
    ("report", "report.query"),
    ("resize", "image.resize"),
];

/// The tables of the application before a run, for both databases.
pub fn tables() -> String {
    // One transaction, because each commit waits for the disk.
    let mut sql = String::from(
        "BEGIN; DROP TABLE IF EXISTS contacts; DROP TABLE IF EXISTS users; DROP TABLE IF EXISTS follows;
         DROP TABLE IF EXISTS timeline; DROP TABLE IF EXISTS orders; DROP TABLE IF EXISTS events;
         DROP TABLE IF EXISTS sales;
         CREATE TABLE contacts (email VARCHAR(254) PRIMARY KEY, name VARCHAR(200), joined DATE, country CHAR(2),
             amount NUMERIC(12, 2));
         CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL UNIQUE, country CHAR(2),
             created_at TIMESTAMP NOT NULL);
         CREATE TABLE follows (author_id BIGINT NOT NULL, follower_id BIGINT NOT NULL,
             PRIMARY KEY (author_id, follower_id));
         CREATE TABLE timeline (user_id BIGINT NOT NULL, post_id BIGINT NOT NULL, reason TEXT NOT NULL,
             PRIMARY KEY (user_id, post_id));
         CREATE TABLE orders (id BIGINT PRIMARY KEY, user_id BIGINT NOT NULL, customer_email TEXT NOT NULL,
             country CHAR(2), total NUMERIC(12, 2) NOT NULL, status TEXT NOT NULL, created_at TIMESTAMP NOT NULL);
         CREATE TABLE events (id BIGINT PRIMARY KEY, account_id BIGINT NOT NULL, name TEXT NOT NULL);
         CREATE TABLE sales (id BIGINT PRIMARY KEY, day DATE NOT NULL, product TEXT NOT NULL, amount NUMERIC(12, 2) NOT NULL);
         INSERT INTO contacts (email, name, amount) VALUES ('person3@example.com', 'Known before', 1);",
    );
    let ids = 1..=60;
    let country = |id: usize| ["DE", "FR", "IT"][id % 3];
    let at = |id: usize| format!("'2024-03-01 10:00:{:02}'", id % 60);
    let mut insert = |table: &str, row: &dyn Fn(usize) -> String| {
        let rows: Vec<_> = ids.clone().map(|id| format!("({})", row(id))).collect();
        writeln!(sql, "INSERT INTO {table} VALUES {};", rows.join(", ")).expect("a string");
    };
    insert("users", &|id| format!("{id}, 'user{id}', 'user{id}@example.com', '{}', {}", country(id), at(id)));
    insert("orders", &|id| {
        let status = if id % 2 == 0 { "paid" } else { "open" };
        format!("{id}, {id}, 'user{id}@example.com', '{}', {id}.50, '{status}', {}", country(id), at(id))
    });
    insert("events", &|id| format!("{id}, {}, 'clicked'", id % 2));
    insert("sales", &|id| format!("{id}, '2024-03-{:02}', 'product{}', {id}.25", id % 28 + 1, id % 7));
    sql.push_str("INSERT INTO follows SELECT 1, id FROM users WHERE id > 1;\n");
    sql.push_str("COMMIT;");
    sql
}

/// The files of the bucket, with their media types.
pub fn files() -> [(&'static str, &'static str, Vec<u8>); 3] {
    let titles = ["E-mail", "name", "joined", "country", "amount"];
    let (mut csv, mut rows) = (titles.join(",") + "\n", Vec::new());
    for row in 0..ROWS {
        let country = if row % 17 == 5 { "XX" } else { ["de", "FR", "it"][row % 3] };
        let (email, name) = (format!("Person{row}@example.com"), format!("Person, {row}"));
        let (joined, amount) = (format!("2024-01-{:02}", row % 28 + 1), format!("{row}.25"));
        writeln!(csv, "{email},\"{name}\",{joined},{country},{amount}").expect("a string");
        rows.push(vec![
            (CellType::Text, email),
            (CellType::Text, name),
            (CellType::Date, joined),
            (CellType::Text, country.to_owned()),
            (CellType::Number, amount),
        ]);
    }
    let photo = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/photo.jpg");
    let workbook = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet";
    [
        ("contacts.csv", "text/csv", csv.into_bytes()),
        ("contacts.xlsx", workbook, make_workbook(&titles, &rows)),
        ("photo.jpg", "image/jpeg", std::fs::read(photo).expect("the sample picture")),
    ]
}

/// A pipeline that runs the example of a kind in this fixture.
pub struct Sample {
    /// The name.
    pub name: String,
    /// The definition.
    pub yaml: String,
    /// The params of its runs.
    pub params: Value,
}

impl Sample {
    /// Creates the pipeline for an example of the kind with this number.
    pub fn of(kind: &dyn StepKind, number: usize, example: &str, http: &str) -> Self {
        let (mut steps, mut names) = (Vec::new(), BTreeSet::new());
        step((kind, example), "sample", http, &mut steps, &mut names);
        let (mut declared, mut given) = (serde_json::Map::new(), serde_json::Map::new());
        for name in names {
            let known = params();
            let (_, of_type, value) = known.iter().find(|(known, ..)| *known == name).unwrap_or_else(|| {
                panic!(
                    "the example of `{}` names `params.{name}`, which the fixture of the crash sweep lacks: add it to \
                     `params` in tests/it/sweep/fixture.rs, or use one of {:?}",
                    kind.name(),
                    known.iter().map(|(name, ..)| name).collect::<Vec<_>>()
                )
            });
            declared.insert(name.clone(), json!({ "type": of_type }));
            let value = value.as_str().map_or_else(|| value.clone(), |text| json!(text.replace("HTTP", http)));
            given.insert(name, value);
        }
        let mut name = kind.name().replace(['.', '_'], "-");
        if number > 0 {
            write!(name, "-{}", number + 1).expect("a string");
        }
        // JSON is valid YAML.
        let mut yaml = json!({ "name": name, "steps": steps });
        if !declared.is_empty() {
            yaml["params"] = declared.into();
        }
        Self { name, yaml: yaml.to_string(), params: given.into() }
    }

    /// Creates one sample per example of each kind.
    pub fn all(http: &str) -> Vec<Self> {
        let of = |kind: &dyn StepKind| {
            let examples = examples(kind).enumerate();
            examples.map(|(number, example)| Self::of(kind, number, example, http)).collect::<Vec<_>>()
        };
        step_kinds().catalog().0.iter().flat_map(|kind| of(kind.as_ref())).collect()
    }
}

fn examples(kind: &dyn StepKind) -> impl Iterator<Item = &'static str> + use<> {
    std::iter::once(kind.example_input()).chain(kind.more_example_inputs().iter().copied())
}

static PARAM: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"params\.([a-z0-9_]+)").expect("a pattern"));
static STEP: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"steps\.([a-z0-9_]+)\.").expect("a pattern"));
static SECRET: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"secrets\.([A-Za-z0-9_]+)").expect("a pattern"));

static HOST: LazyLock<Regex> = LazyLock::new(|| Regex::new(r"^https?://[a-z0-9.-]+").expect("a pattern"));

/// The secrets that examples use. Their values do not matter.
pub fn secrets() -> BTreeSet<String> {
    let names = |kind: &str| SECRET.captures_iter(kind).map(|found| found[1].to_owned()).collect::<Vec<_>>();
    step_kinds()
        .catalog()
        .0
        .iter()
        .flat_map(|kind| examples(kind.as_ref()).flat_map(names).collect::<Vec<_>>())
        .collect()
}

/// Adds the step of a kind after the steps that its example uses.
fn step(
    (kind, example): (&dyn StepKind, &str),
    id: &str,
    http: &str,
    steps: &mut Vec<Value>,
    params: &mut BTreeSet<String>,
) {
    let name = kind.name();
    params.extend(PARAM.captures_iter(example).map(|found| found[1].to_owned()));
    for found in STEP.captures_iter(example) {
        let earlier = &found[1];
        if steps.iter().any(|step| step["id"] == earlier) {
            continue;
        }
        let ran = EARLIER.iter().find(|(known, _)| *known == earlier);
        let of_kind =
            ran.and_then(|(_, of_kind)| step_kinds().catalog().0.into_iter().find(|kind| kind.name() == *of_kind));
        let Some(of_kind) = of_kind else {
            panic!(
                "the example of `{name}` names `steps.{earlier}`, which the fixture of the crash sweep lacks: add it to \
                 `EARLIER` in tests/it/sweep/fixture.rs with the kind that it is, or use one of {EARLIER:?}"
            );
        };
        self::step((of_kind.as_ref(), of_kind.example_input()), earlier, http, steps, params);
    }
    let parsed = afterload_spanned_yaml::parse(example).unwrap_or_else(|problems| panic!("{name}: {problems:?}"));
    let mut with = parsed.to_json();
    localise(&mut with, http);
    let schema = kind.input_schema();
    for (field, value) in [("chunk", CHUNK), ("parallel", 1)] {
        let has = schema.get("properties").is_some_and(|fields| fields.get(field).is_some());
        if has && with.get(field).is_none() {
            with[field] = value.into();
        }
    }
    steps.push(json!({ "id": id, "uses": name, "with": with, "retry": { "attempts": 3, "delay": "100ms" } }));
}

/// Replaces every other server of an example by the server of the fixture.
fn localise(with: &mut Value, http: &str) {
    match with {
        Value::String(text) => *text = HOST.replace(text, http).into_owned(),
        Value::Array(items) => items.iter_mut().for_each(|item| localise(item, http)),
        Value::Object(fields) => fields.values_mut().for_each(|field| localise(field, http)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}
