//! Prints the results of a run: the outputs of its steps, its files, its mails, and the rows of the application.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::Duration;

use indicatif::HumanBytes;
use serde_json::Value;
use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use super::scenario::DemoRunner;
use crate::cli::stdout::print_line;
use afterload_core::error::Result;

fn print_labeled(label: &str, text: &str) {
    print_line!("  {label:<10} {text}");
}

/// Prints the outputs of each step. Files that need an API key are downloaded first.
pub async fn print_steps(stage: &DemoRunner<'_>, run: &Value) -> Result<()> {
    for step in run["steps"].as_array().into_iter().flatten() {
        let (mut facts, mut files) = (Vec::new(), Vec::new());
        collect_outputs(&step["outputs"], &mut facts, &mut files);
        let mut lines = Vec::from_iter((!facts.is_empty()).then(|| facts.join(" ")));
        match step["status"].as_str().unwrap_or_default() {
            // An alarm that was not needed.
            "skipped" if step["section"] != "steps" => continue,
            "succeeded" => {}
            status => lines.push(status.to_owned()),
        }
        for (name, file) in files {
            lines.push(format!("{name}: {}", locate_file(stage, file).await?));
        }
        let labels = step["id"].as_str().into_iter().chain(std::iter::repeat(""));
        lines.iter().zip(labels).for_each(|(text, label)| print_labeled(label, text));
    }
    Ok(())
}

/// The location of a file, with its size.
async fn locate_file(stage: &DemoRunner<'_>, file: &Value) -> Result<String> {
    let url = file["url"].as_str().unwrap_or_default();
    let mut place = url.to_owned();
    if let (true, Some(name)) = (url.contains("/v1/artifacts/"), file["name"].as_str()) {
        let path = stage.dir.join(name);
        stage.client.download_file(url, &path).await?;
        place = path.display().to_string();
    }
    let size = HumanBytes(file["size"].as_u64().unwrap_or_default());
    Ok(match (&file["width"], &file["height"]) {
        (Value::Number(width), Value::Number(height)) => format!("{place} ({width}x{height}, {size})"),
        _ => format!("{place} ({size})"),
    })
}

/// Collects plain outputs as text, and outputs that are or contain files by name.
fn collect_outputs<'a>(outputs: &'a Value, facts: &mut Vec<String>, files: &mut Vec<(&'a str, &'a Value)>) {
    for (name, value) in outputs.as_object().into_iter().flatten() {
        match value {
            Value::Object(fields) if fields.contains_key("url") => files.push((name, value)),
            Value::Object(_) => collect_outputs(value, &mut Vec::new(), files),
            Value::String(text) => facts.push(format!("{name}={text}")),
            Value::Number(_) | Value::Bool(_) => facts.push(format!("{name}={value}")),
            Value::Array(items) => items.iter().for_each(|item| collect_outputs(item, &mut Vec::new(), files)),
            Value::Null => {}
        }
    }
}

/// Prints the mails of a run from the outbox folder.
pub fn print_mails(outbox: &Path, run: &Value) -> Result<()> {
    let mut mails = Vec::new();
    for entry in fs::read_dir(outbox).into_iter().flatten() {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "eml") {
            continue;
        }
        let (mut to, mut of) = (String::new(), String::new());
        for header in BufReader::new(File::open(&path)?).lines() {
            let header = header?;
            match header.split_once(": ") {
                Some(("X-Envelope-To", text)) => to = text.to_owned(),
                Some(("X-Afterload-Run", text)) => of = text.to_owned(),
                _ if header.is_empty() => break,
                _ => {}
            }
        }
        if run["id"] == of.as_str() {
            mails.push(format!("to {to}: {}", path.display()));
        }
    }
    mails.sort();
    mails.iter().for_each(|mail| print_labeled("mailed", mail));
    Ok(())
}

/// Prints rows of the application's database.
pub async fn print_rows(database: &Path, look: &str) -> Result<()> {
    let options = SqliteConnectOptions::new().filename(database).read_only(true);
    let mut app = SqliteConnection::connect_with(&options).await?;
    let found: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(look)).fetch_all(&mut app).await?;
    found.iter().for_each(|text| print_labeled("database", text));
    Ok(app.close().await?)
}

/// Prints how the run ended.
pub fn print_end(run: &Value, took: Duration) {
    let status = run["status"].as_str().unwrap_or_default();
    print_line!("  {status} in {:.1} s", took.as_secs_f32());
    if let Some(error) = run["error"]["message"].as_str() {
        print_line!("  because {error}");
    }
}
