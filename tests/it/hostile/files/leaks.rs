//! Seals are never shown: not in the API, in calls of others, in mails, in the user's database, or in logs.

use afterload_core::clock::Clock;
use std::path::Path;

use afterload_state::Db;
use regex::Regex;
use serde_json::{Value, json};

use crate::http::receiver::{Receiver, respond_with};
use crate::support::{Database, Place, both};

both!(seals_are_shown_to_nobody);

/// A pipeline that shows its files in every way that an expression can.
const SHOWS: &str = r#"
name: shows
params: { file: { type: file }, files: { type: list, items: { type: file }, default: [] }, url: { type: string } }
steps:
  - { id: save, uses: http.request, with: { url: "${{ params.url | safe_url }}/save", save: "saved.txt" } }
  - { id: check, uses: file.check, with: { source: "${{ steps.save.file }}" } }
  - { id: json, uses: http.request, with: { url: "${{ params.url | safe_url }}/json", json: { file: "${{ params.file }}", all: "${{ params }}", saved: "${{ steps.save.file }}" } } }
  - { id: text, uses: http.request, with: { url: "${{ params.url | safe_url }}/text", headers: { X-File: "x${{ params.file }}" }, body: "${{ params.file | tojson }} ${{ params }} ${{ steps.save.file | items | list }}" } }
  - { id: form, uses: http.request, with: { url: "${{ params.url | safe_url }}/form", form: { file: "x${{ params.file }}" }, query: { file: "${{ steps.save.file | tojson }}" } } }
  - { id: each, uses: file.check, for_each: { items: ["${{ params.file }}", "${{ steps.save.file }}"] }, with: { source: "${{ item }}" } }
  - { id: shown, uses: http.request, for_each: { items: ["${{ params.file }}"] }, with: { url: "${{ params.url | safe_url }}/item", json: "${{ item }}" } }
  - { id: sql, uses: sql.execute, with: { sql: "INSERT INTO seen (t) VALUES (:file)", bind: { file: "${{ params.file }}" } } }
  - { id: mail, uses: email.send, with: { to: a@example.com, subject: "S ${{ params.file.name }}", body: "${{ params }} ${{ steps.save.file }}", links: { it: "${{ steps.save.file }}" }, attach: "${{ params.file }}" } }
  - { id: page, uses: email.send, with: { to: b@example.com, template: shows, vars: { file: "${{ params.file }}", saved: "${{ steps.save.file }}" } } }
  - { id: wrong, uses: file.check, continue_on_error: true, with: { source: "${{ [params.file] }}" } }
  - { id: key, uses: file.check, if: "(params.file | tojson | length) > 5", rate_limit: { key: "${{ params.file | tojson }}", per_second: 100 }, with: { source: "${{ params.file }}" } }
"#;

/// The decoded texts of all mails.
fn mail_texts(outbox: &Path) -> Vec<String> {
    let paths = std::fs::read_dir(outbox).unwrap().map(|entry| entry.unwrap().path());
    let mails = paths.filter(|path| path.extension().is_some_and(|extension| extension == "eml"));
    let texts = mails.flat_map(|path| {
        let raw = std::fs::read(path).unwrap();
        let parsed = mailparse::parse_mail(&raw).unwrap();
        let bodies: Vec<_> = parsed.parts().map(|part| part.get_body().unwrap_or_default()).collect();
        bodies.into_iter().chain([String::from_utf8_lossy(&raw).into_owned()])
    });
    texts.collect()
}

/// The seals that the database of the service holds.
async fn stored_seals(url: &str) -> Vec<String> {
    let db = Db::open(url, Clock::system()).await.unwrap();
    let mut stored = String::new();
    for sql in [
        "SELECT params AS t FROM runs",
        "SELECT outputs AS t FROM step_runs WHERE outputs IS NOT NULL",
        "SELECT item AS t FROM step_runs WHERE item IS NOT NULL",
    ] {
        let rows = db.fetch(sql, &[]).await.unwrap();
        assert!(rows.iter().any(|row| row.get_text("t").unwrap().contains("$seal")), "{sql}");
        stored.extend(rows.iter().map(|row| row.get_text("t").unwrap()));
    }
    db.close().await;
    let seal = Regex::new(r#""\$seal":"([^".]+)\.([^"]+)""#).unwrap();
    seal.captures_iter(&stored).flat_map(|found| [found[1].to_owned(), found[2].to_owned()]).collect()
}

async fn seals_are_shown_to_nobody(database: Database) {
    let server = Receiver::start(|_| respond_with(200, &[("content-type", "text/plain")], "saved\n")).await;
    let mut place = Place::new(database).await;
    place.set("HTTP__ALLOW", "[127.0.0.1]");
    place.set("LOG", "debug");
    place.pipeline("shows", SHOWS);
    let template = place.dir.path().join("templates/email/shows");
    std::fs::create_dir_all(&template).unwrap();
    std::fs::write(template.join("subject.txt"), "Files").unwrap();
    std::fs::write(template.join("body.txt"), "{{ file }} {{ saved }} {{ saved.name }} {{ run }}").unwrap();
    place.sql("CREATE TABLE seen (t TEXT)").await;
    let process = place.start().await;

    let form = reqwest::multipart::Form::new()
        .part("file", reqwest::multipart::Part::bytes(b"canary\n".to_vec()).file_name("given.txt"))
        .text("url", server.url.clone());
    let path = format!("/v1/pipelines/shows/runs?notify_url={}/notify", server.url);
    let sent = process.request(reqwest::Method::POST, &path).multipart(form).send().await.unwrap();
    let started = sent.text().await.unwrap();
    let run: Value = serde_json::from_str(&started).unwrap();
    let id = run["id"].as_str().unwrap_or_else(|| panic!("{run}"));
    let run = process
        .until("the notification", id, |run| (run["notification"]["status"] == "sent").then(|| run.clone()))
        .await;
    assert_eq!(run["status"], "succeeded", "{run}");

    let mut shown = vec![started, run.to_string(), server.calls().iter().map(|call| json!(call).to_string()).collect()];
    let artifact = run["artifacts"][0]["id"].as_str().unwrap();
    for path in [
        format!("/v1/runs/{id}/events"),
        format!("/v1/runs/{id}/steps/each/items"),
        format!("/v1/runs/{id}/steps/shown/items"),
        "/v1/runs".to_owned(),
        format!("/v1/artifacts/{artifact}/links"),
        "/metrics".to_owned(),
    ] {
        let text = process.text(&path).await;
        assert!(!text.contains("\"code\":\"not_found\""), "{path}: {text}");
        shown.push(text);
    }
    shown.extend(mail_texts(&place.dir.path().join("data/outbox")));
    assert!(process.terminate().await.success());
    shown.push(place.log());

    let seals = stored_seals(&place.service_url()).await;
    assert!(seals.len() >= 8, "{seals:?}");
    assert!(shown.iter().any(|text| text.contains("given.txt")));
    for text in &shown {
        let found = seals.iter().map(String::as_str).chain(["$seal"]).find(|seal| text.contains(seal));
        assert_eq!(found, None, "{text}");
    }
    assert_eq!(place.numbers("SELECT COUNT(*) FROM seen WHERE t LIKE '%given.txt%'").await, [1]);
    assert_eq!(place.numbers("SELECT COUNT(*) FROM seen WHERE t LIKE '%$seal%'").await, [0]);
}
