//! Everything that is visible of a run after it has settled, without the parts that differ from run to run.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

/// Patterns that differ from run to run, with their replacements: ids, addresses, times, attempts.
static DIFFERENT: LazyLock<Vec<(Regex, &'static str)>> = LazyLock::new(|| {
    [
        (r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b", "ULID"),
        (r"http://(127\.0\.0\.1|localhost):\d+", "http://HOST"),
        (r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|\+00:00)", "TIME"),
        (r"[A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT", "TIME"),
        (r"<[^<>@\s]+@[^<>@\s]+>", "<MESSAGE-ID>"),
        (r"runs/ULID/([a-z0-9_.#-]+)/\d+/", "runs/ULID/$1/CLAIM/"),
    ]
    .map(|(pattern, instead)| (Regex::new(pattern).expect("a pattern"), instead))
    .into()
});

/// Replaces the parts of a text that differ from run to run.
pub fn plain(text: &str) -> String {
    DIFFERENT.iter().fold(text.to_owned(), |text, (pattern, instead)| pattern.replace_all(&text, *instead).into_owned())
}

/// The same for JSON. The ETag of a text with a run id differs too; bytes are compared by themselves. The number of
/// chunks of `sql.batch` depends on the speed of the database.
pub fn plain_json(value: &Value) -> Value {
    match value {
        Value::String(text) => plain(text).into(),
        Value::Array(items) => items.iter().map(plain_json).collect(),
        Value::Object(fields) => {
            let kept = fields.iter().filter(|(name, _)| !matches!(name.as_str(), "etag" | "chunks"));
            kept.map(|(name, value)| (name.clone(), plain_json(value))).collect::<serde_json::Map<_, _>>().into()
        }
        other => other.clone(),
    }
}

/// Returns the digest of bytes. For text it ignores the parts that differ from run to run.
pub fn digest(bytes: &[u8]) -> String {
    let digest = match std::str::from_utf8(bytes) {
        Ok(text) => Sha256::digest(plain(text)),
        Err(_) => Sha256::digest(bytes),
    };
    hex::encode(digest)
}

/// Returns a run as it ended. A caller that can download the `artifacts` adds their bytes.
pub fn run(run: &Value) -> Value {
    let pick = |from: &Value, names: &[&str]| {
        names.iter().map(|name| ((*name).to_owned(), from[*name].clone())).collect::<serde_json::Map<_, _>>()
    };
    let steps = run["steps"].as_array().expect("steps").iter().map(|step| {
        let mut seen = pick(step, &["id", "uses", "status", "attempt", "outputs", "error"]);
        seen.insert("progress".into(), pick(&step["progress"], &["done", "total", "unit", "counts"]).into());
        Value::from(seen)
    });
    let mut seen = pick(run, &["pipeline", "status", "error"]);
    seen.insert("steps".into(), steps.collect());
    plain_json(&seen.into())
}

/// Returns every row of every table of the application, in order, without afterload's own tables.
pub async fn rows(url: &str) -> Value {
    let tables = if url.starts_with("sqlite") { sqlite(url).await } else { postgres(url).await };
    let mut all = BTreeMap::new();
    for (table, mut rows) in tables {
        rows.sort();
        all.insert(table, rows);
    }
    json!(all)
}

/// JSON stands on one line, so all rows of a table are searched at once.
fn plain_rows(rows: &[String]) -> Vec<String> {
    plain(&rows.join("\n")).lines().map(str::to_owned).collect()
}

async fn sqlite(url: &str) -> Vec<(String, Vec<String>)> {
    let mut db = SqliteConnection::connect(url).await.expect("the application's database");
    let names = "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'afterload_%' ORDER BY name";
    let mut tables = Vec::new();
    for table in sqlx::query_scalar::<_, String>(names).fetch_all(&mut db).await.expect("tables") {
        let columns = format!("SELECT name FROM pragma_table_info('{table}')");
        let columns: Vec<String> =
            sqlx::query_scalar(AssertSqlSafe(columns)).fetch_all(&mut db).await.expect("columns");
        let fields = columns.iter().map(|name| format!("'{name}', \"{name}\"")).collect::<Vec<_>>().join(", ");
        let rows = format!("SELECT json_object({fields}) FROM \"{table}\"");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(&mut db).await.expect("rows");
        tables.push((table, plain_rows(&rows)));
    }
    db.close().await.expect("the end");
    tables
}

async fn postgres(url: &str) -> Vec<(String, Vec<String>)> {
    let mut db = PgConnection::connect(url).await.expect("the application's database");
    let names =
        "SELECT tablename::text FROM pg_tables WHERE schemaname = 'public' AND tablename NOT LIKE 'afterload_%'";
    let mut tables = Vec::new();
    for table in sqlx::query_scalar::<_, String>(names).fetch_all(&mut db).await.expect("tables") {
        let rows = format!("SELECT row_to_json(t)::text FROM \"{table}\" t");
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(rows)).fetch_all(&mut db).await.expect("rows");
        tables.push((table, plain_rows(&rows)));
    }
    db.close().await.expect("the end");
    tables
}

/// The external effects: each one once, and the number of repetitions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Each effect.
    pub things: Vec<String>,
    /// The number of repetitions.
    pub again: usize,
}

impl Done {
    /// Creates it from effects and their ids. An effect without an id counts by itself.
    pub fn new(all: impl IntoIterator<Item = (Option<String>, String)>) -> Self {
        let (mut done, mut seen) = (Self::default(), BTreeSet::new());
        for (name, thing) in all {
            if name.is_some_and(|name| !seen.insert(name)) {
                done.again += 1;
            } else {
                done.things.push(plain(&thing));
            }
        }
        done.things.sort();
        done
    }
}

/// Collects the mails that a server received, by their Message-ID.
pub fn mails(taken: &[Value]) -> Done {
    use base64::Engine as _;
    Done::new(taken.iter().map(|mail| {
        let content = mail["content"].as_str().unwrap_or_default();
        let bytes = base64::engine::general_purpose::STANDARD.decode(content).expect("a mail");
        let parsed = mailparse::parse_mail(&bytes).expect("a mail");
        let header = |name: &str| {
            let found = parsed.headers.iter().find(|header| header.get_key_ref().eq_ignore_ascii_case(name));
            found.map(mailparse::MailHeader::get_value)
        };
        let subject = header("Subject").unwrap_or_default();
        (header("Message-ID"), format!("to {}: {subject}", mail["to"]))
    }))
}
