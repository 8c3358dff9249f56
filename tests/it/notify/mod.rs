//! `notify.fanout`: everyone who is mentioned or follows is notified once.

mod mail;
pub mod table;
mod webhook;

use afterload_pipeline::{ValidationContext, compile_definition};
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both};

both!(shipped_pipeline_fills_timelines_and_inboxes);

pub fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

/// Returns the outputs of the first step, in the order of the documentation.
pub fn counts(run: &Value) -> [i64; 5] {
    ["mentioned", "followers", "delivered", "skipped", "failed"]
        .map(|name| run["steps"][0]["outputs"][name].as_i64().unwrap_or_else(|| panic!("no `{name}`: {run}")))
}

fn read(path: &str) -> String {
    std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

/// The shipped pipeline with the shipped tables.
async fn shipped_pipeline_fills_timelines_and_inboxes(database: Database) {
    let app = TestApp::builder(database).pipeline("tweet-notify", &read("pipelines/tweet-notify.yaml")).start().await;
    app.sql(&read("examples/app.sql")).await;
    app.sql(
        "INSERT INTO users (id, handle, email) VALUES (1, 'ann', 'ann@example.com'), (2, 'bob', 'bob@example.com'),
         (3, 'zoë', 'zoe@example.com'), (4, 'eve', 'eve@example.com'), (5, 'dan', 'dan@example.com');
         INSERT INTO follows (author_id, follower_id) VALUES (1, 2), (1, 4), (1, 5), (2, 1);
         INSERT INTO tweets (id, author_id, body) VALUES (7, 1, 'Hi @Bob and @zoë! Not eve@example.com, nor `@dan`.')",
    )
    .await;
    let (status, heard) = app.post("/v1/events/tweet.posted", json!({ "tweet_id": 7 })).await;
    assert_eq!(status, 202, "{heard}");
    let run = crate::support::eventually("the run", async || {
        let runs: Value = app.get("/v1/runs").await.json().await.expect("JSON");
        runs["runs"].get(0).cloned()
    })
    .await;
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    // Bob is mentioned and follows; Zoë is only mentioned.
    assert_eq!(counts(&run), [2, 3, 4, 1, 0], "{run}");
    let timelines = "SELECT COUNT(*), SUM(CASE WHEN reason = 'mention' AND user_id IN (2, 3) THEN 1 ELSE 0 END), \
        SUM(CASE WHEN reason = 'follow' AND user_id IN (4, 5) THEN 1 ELSE 0 END), MIN(tweet_id), MAX(author_id) FROM timelines";
    assert_eq!(app.numbers(timelines).await, [4, 2, 2, 7, 1]);
    let mails = app.mails();
    assert_eq!(mails.len(), 2, "{mails:?}");
    for address in ["bob@example.com", "zoe@example.com"] {
        assert!(mails.iter().any(|mail| mail.contains(&format!("X-Envelope-To: {address}"))), "{address}: {mails:?}");
    }
    app.finish().await;
}

/// Returns the messages of `check` for a fan-out with this block.
fn faults(with: &str) -> Vec<String> {
    let kinds = afterload::registry::step_kinds().catalog();
    let yaml = format!("name: p\nsteps:\n  - id: a\n    uses: notify.fanout\n    with: {{ {with} }}\n");
    match compile_definition(Some("p.yaml"), &yaml, &kinds, &ValidationContext::default()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| problem.message).collect(),
    }
}

#[test]
fn invalid_audience_is_rejected() {
    let follow = "followers: { sql: 'SELECT id FROM f', key: id }";
    let table = "deliver: { table: { into: t, person: p, keys: [p] } }";
    for (with, fault) in [
        // There is no `person` in this place.
        (
            format!("audience: {{ mentions: {{ text: '${{{{ person.id }}}}', sql: 'SELECT :name AS id' }} }}, {table}"),
            "unknown name `person`",
        ),
        (
            format!("audience: {{ followers: {{ sql: DELETE FROM f, key: id }} }}, {table}"),
            "people are found by a `SELECT`",
        ),
        (
            format!("audience: {{ followers: {{ sql: 'SELECT id FROM f WHERE a = :a', key: id }} }}, {table}"),
            "nothing fills `:a`",
        ),
        (
            format!(
                "audience: {{ mentions: {{ text: '@a', pattern: '[', sql: 'SELECT id FROM u WHERE name = :name' }} }}, {table}"
            ),
            "`pattern` is not valid: unclosed character class",
        ),
        (
            format!(
                "audience: {{ mentions: {{ text: '@a', pattern: '(\\w{{100}}){{100}}', sql: 'SELECT id FROM u WHERE name = :name' }} }}, {table}"
            ),
            "`pattern` is not valid: it is too large",
        ),
        (
            format!("audience: {{ followers: {{ sql: 'SELECT user_id, name FROM f', key: id }} }}, {table}"),
            "the query gives no column `id`",
        ),
        (
            format!("audience: {{ mentions: {{ text: '@a', sql: 'SELECT n FROM u WHERE n = :name' }} }}, {table}"),
            "the query gives no column `id`",
        ),
        (
            format!(
                "audience: {{ mentions: {{ text: '@a', key: nr, sql: 'SELECT id FROM u WHERE n = :name' }} }}, {table}"
            ),
            "the query gives no column `nr`",
        ),
        (
            format!("audience: {{ mentions: {{ text: '@a', sql: SELECT id FROM u }} }}, {table}"),
            "nobody can be found by name without `:name`",
        ),
        (
            format!(
                "audience: {{ {follow}, mentions: {{ text: '@a', connection: other, sql: 'SELECT id FROM u WHERE name = :name' }} }}, {table}"
            ),
            "rows are written by the database that the people are in, so there is one for all of them",
        ),
    ] {
        let told = faults(&with);
        assert!(told.iter().any(|told| told == fault), "{with}: {told:?}");
    }
    // Only the database knows these columns.
    let open = "followers: { sql: 'SELECT * FROM f', key: id }";
    assert_eq!(faults(&format!("audience: {{ {open} }}, {table}")), [""; 0]);
}

#[test]
fn invalid_fan_out_is_rejected() {
    let follow = "followers: { sql: 'SELECT id FROM f', key: id }";
    let name = "mentions: { text: '@a', sql: 'SELECT id FROM u WHERE name = :name' }";
    let table = "deliver: { table: { into: t, person: p, keys: [p] } }";
    for (with, fault) in [
        (format!("audience: {{}}, {table}"), "nobody would be told"),
        (format!("audience: {{ {follow} }}, deliver: {{}}"), "nobody would be told anything"),
        (
            format!("audience: {{ {follow} }}, deliver: {{ table: {{ into: t, person: p, keys: [p] }}, email: {{}} }}"),
            "`table` and `email` exclude each other",
        ),
        (format!("audience: {{ {follow} }}, deliver: {{ webhook: {{}} }}"), "missing field `json`"),
        (
            format!(
                "audience: {{ {follow} }}, deliver: {{ email: {{}}, webhook: {{ url: 'https://a.example/', json: 1 }} }}"
            ),
            "`email` and `webhook` exclude each other",
        ),
        (
            format!("audience: {{ {follow} }}, deliver: {{ webhook: {{ url: 'ftp://a.example/', json: 1 }} }}"),
            "the address begins with `ftp:`",
        ),
        (
            format!(
                "audience: {{ {follow} }}, deliver: {{ webhook: {{ url: 'https://a.example/', json: 1, headers: {{ Webhook-Id: x }} }} }}"
            ),
            "`Webhook-Id` is a header that the service sets itself",
        ),
        (
            format!(
                "audience: {{ {follow} }}, deliver: {{ webhook: {{ url: 'https://a.example/', json: '${{{{ persn.id }}}}' }} }}"
            ),
            "unknown name `persn`",
        ),
        (
            format!(
                "audience: {{ {name} }}, deliver: {{ table: {{ into: t, person: p, values: {{ x: 1 }}, keys: [x, y] }} }}"
            ),
            "key `y` is not written",
        ),
        (
            format!(
                "audience: {{ {name} }}, deliver: {{ table: {{ into: t, person: p, values: {{ x: 1 }}, keys: [x] }} }}"
            ),
            "`keys` lacks `p`, so that only one person would get a row",
        ),
        (
            format!("audience: {{ {name} }}, deliver: {{ table: {{ into: t, person: p, reason: p, keys: [p] }} }}"),
            "the column `p` is written twice",
        ),
        (format!("audience: {{ {name} }}, deliver: {{ email: {{}} }}"), "the mail has no text"),
        (
            format!("audience: {{ {name} }}, deliver: {{ email: {{ subject: a, html: '<img src=\"cid:logo\">' }} }}"),
            "the HTML shows `cid:logo`, but no picture travels with these mails",
        ),
        (format!("audience: {{ {name} }}, {table}, chunk: 0"), "`chunk` must be from 1 to 100000"),
        (format!("audience: {{ {name} }}, {table}, parallel: 9"), "`parallel` must be from 1 to 8"),
    ] {
        let told = faults(&with);
        assert!(told.iter().any(|told| told == fault), "{with}: {told:?}");
    }
    assert_eq!(faults(&format!("audience: {{ {follow}, {name} }}, {table}")), [""; 0]);
}
