//! `notify.fanout` by webhook.

use std::collections::{BTreeMap, BTreeSet};

use afterload::config::Secret;
use serde_json::{Value, json};

use super::{counts, id};
use crate::http::receiver::{Call, Receiver, respond_with};
use crate::http::{secret, verify};
use crate::support::{Database, Place, TestApp, both, eventually};

both!(
    each_recipient_gets_one_webhook_and_mention_wins,
    failing_recipient_does_not_block_the_others,
    deferred_mention_stays_a_mention,
    status_429_and_503_stop_sending_until_the_next_attempt,
    blocked_addresses_are_not_called,
    values_of_recipients_are_encoded,
    error_common_to_all_recipients_fails_the_step,
    no_recipient_is_knowingly_called_twice_despite_kills,
);

const USERS: &str = "CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT NOT NULL, hook TEXT);
    INSERT INTO users VALUES (1, 'ann', 'a'), (2, 'bob', 'b'), (3, 'eve', 'c'), (4, 'zoë', NULL)";

const SIGNED: &str = r#"url: "${{ params.url | safe_url }}/u/${{ person.id }}", sign: standard-webhooks,
          headers: { X-Token: "${{ secrets.TOKEN }}-${{ person.name | upper }}" },
          json: { id: "${{ person.id }}", text: "${{ reason }} by ${{ run.pipeline }}", all: "${{ person }}", hook: "${{ params.text }}" }"#;

fn yaml(hook: &str, rest: &str) -> String {
    format!(
        r#"name: p
params: {{ text: {{ type: string, default: "" }}, url: {{ type: string }} }}
steps:
  - id: tell
    uses: notify.fanout
    retry: {{ attempts: 3, backoff: constant, delay: 10ms }}
    with:
      audience:
        followers: {{ sql: 'SELECT id, name, hook FROM users WHERE id <> 4', key: id }}
        mentions: {{ text: "${{{{ params.text }}}}", sql: 'SELECT id, name, hook FROM users WHERE name = :name' }}
      deliver:
        webhook: {{ {hook} }}
      {rest}
"#
    )
}

async fn app(database: Database, hook: &str, rest: &str, allow: &[&str]) -> TestApp {
    let app = TestApp::builder(database).pipeline("p", &yaml(hook, rest)).config(|config| {
        config.http.allow = allow.iter().map(|entry| (*entry).to_owned()).collect();
        config.secrets.insert("TOKEN".into(), Secret::new("canary"));
    });
    let app = app.start().await;
    app.sql(USERS).await;
    app
}

/// Returns the paths of the calls, each with its webhook id.
fn received_events(server: &Receiver) -> Vec<(String, String)> {
    let told = |call: &Call| (call.path.clone(), call.headers["webhook-id"].clone());
    let mut told: Vec<_> = server.calls().iter().map(told).collect();
    told.sort();
    told
}

fn paths(server: &Receiver) -> Vec<String> {
    received_events(server).into_iter().map(|(path, _)| path).collect()
}

async fn each_recipient_gets_one_webhook_and_mention_wins(database: Database) {
    let server = Receiver::start(|_| respond_with(204, &[], "")).await;
    let app = app(database, SIGNED, "chunk: 2", &["127.0.0.1"]).await;
    // User text is never evaluated, even if it looks like an expression.
    let text = "@bob, @zoë and @nobody ${{ person.hook }} {{ person.hook }}";
    let run = app.run_to_end("p", json!({ "url": server.url, "text": text })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(counts(&run), [2, 3, 4, 1, 0], "{run}");
    assert!(!run.to_string().contains("canary"), "{run}");
    assert_eq!(paths(&server), ["/u/1", "/u/2", "/u/3", "/u/4"]);
    let secret = secret(&app);
    for call in server.calls() {
        verify(&secret, &call);
        assert_eq!((call.method.as_str(), &call.headers["idempotency-key"]), ("POST", &call.headers["webhook-id"]));
        let body: Value = serde_json::from_str(&call.body).unwrap();
        let (name, reason, hook) = match body["id"].as_i64() {
            Some(1) => ("ann", "follow", json!("a")),
            Some(2) => ("bob", "mention", json!("b")),
            Some(3) => ("eve", "follow", json!("c")),
            _ => ("zoë", "mention", Value::Null),
        };
        assert_eq!(body["all"], json!({ "id": body["id"], "name": name, "hook": hook }), "{body}");
        assert_eq!((&body["text"], &body["hook"]), (&json!(format!("{reason} by p")), &json!(text)), "{body}");
        assert_eq!(call.headers["x-token"], format!("canary-{}", name.to_uppercase()));
    }
    let first: BTreeSet<_> = received_events(&server).into_iter().map(|(_, id)| id).collect();
    // Another run sends new messages.
    app.run_to_end("p", json!({ "url": server.url })).await;
    let all: BTreeSet<_> = received_events(&server).into_iter().map(|(_, id)| id).collect();
    assert_eq!((first.len(), all.len(), server.calls().len()), (4, 7, 7));
    app.finish().await;
}

async fn failing_recipient_does_not_block_the_others(database: Database) {
    let server = Receiver::start(|call| match (call.path.as_str(), call.before) {
        ("/u/1", 0) => respond_with(500, &[], ""),
        ("/u/2", _) => respond_with(410, &[], ""),
        _ => respond_with(200, &[], "thanks"),
    })
    .await;
    let app = app(database, SIGNED, "chunk: 1", &["127.0.0.1"]).await;
    let run = app.run_to_end("p", json!({ "url": server.url })).await;
    assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(2)), "{run}");
    assert_eq!(counts(&run), [0, 3, 2, 0, 1], "{run}");
    let told = received_events(&server);
    assert_eq!(paths(&server), ["/u/1", "/u/1", "/u/2", "/u/3"], "the others were told in the first attempt alone");
    assert_eq!(told[0].1, told[1].1, "the same message");
    app.finish().await;
}

async fn deferred_mention_stays_a_mention(database: Database) {
    let server = Receiver::start(|call| match (call.path.as_str(), call.before) {
        ("/u/2", 0) => respond_with(500, &[], ""),
        _ => respond_with(200, &[], ""),
    })
    .await;
    let app = app(database, SIGNED, "chunk: 1", &["127.0.0.1"]).await;
    let run = app.run_to_end("p", json!({ "url": server.url, "text": "@bob" })).await;
    assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(2)), "{run}");
    assert_eq!(counts(&run), [1, 3, 3, 1, 0], "{run}");
    assert_eq!(paths(&server), ["/u/1", "/u/2", "/u/2", "/u/3"], "nobody is called twice in one attempt");
    for call in server.calls().into_iter().filter(|call| call.path == "/u/2") {
        let body: Value = serde_json::from_str(&call.body).unwrap();
        assert_eq!(body["text"], "mention by p", "{body}");
    }
    app.finish().await;
}

async fn status_429_and_503_stop_sending_until_the_next_attempt(database: Database) {
    let server = Receiver::start(|call| match (call.path.as_str(), call.before) {
        ("/u/1", 0) => respond_with(429, &[("retry-after", "1")], ""),
        ("/u/2", 0) => respond_with(503, &[], ""),
        _ => respond_with(200, &[], ""),
    })
    .await;
    let app = app(database, SIGNED, "parallel: 1", &["127.0.0.1"]).await;
    let run = app.run_to_end("p", json!({ "url": server.url })).await;
    assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(3)), "{run}");
    assert_eq!(counts(&run), [0, 3, 3, 0, 0], "{run}");
    let order: Vec<_> = server.calls().into_iter().map(|call| call.path).collect();
    assert_eq!(order, ["/u/1", "/u/1", "/u/2", "/u/2", "/u/3"], "nobody else was tried");
    app.finish().await;
}

async fn blocked_addresses_are_not_called(database: Database) {
    let server = Receiver::start(|_| respond_with(200, &[], "")).await;
    let own = "url: \"${{ person.hook }}\", json: { hello: \"${{ person.name }}\" }";
    let app = app(database, own, "", &["127.0.0.1"]).await;
    app.sql(&format!(
        "UPDATE users SET hook = '{}/ann' WHERE id = 1; UPDATE users SET hook = 'http://127.0.0.2:{}/bob' WHERE id = 2;
         UPDATE users SET hook = NULL WHERE id = 3",
        server.url, server.port
    ))
    .await;
    // A blocked URL from a recipient's own column fails only that recipient.
    let run = app.run_to_end("p", json!({ "url": "" })).await;
    assert_eq!((&run["status"], counts(&run)), (&json!("succeeded"), [0, 3, 1, 0, 2]), "{run}");
    let calls = server.calls();
    assert_eq!((paths(&server), calls[0].body.as_str()), (vec!["/ann".to_owned()], r#"{"hello":"ann"}"#));
    assert!(!calls[0].headers.contains_key("webhook-signature"), "nobody asked for a signature");
    // A blocked URL that all recipients share is an error of the pipeline.
    app.publish("p", &yaml("url: \"http://127.0.0.2/${{ person.id }}\", json: {}", "")).await;
    let run = app.run_to_end("p", json!({ "url": "" })).await;
    let step = &run["steps"][0];
    assert_eq!((&step["error"]["code"], &step["attempt"]), (&json!("egress_blocked"), &json!(1)), "{run}");
    app.finish().await;
}

async fn values_of_recipients_are_encoded(database: Database) {
    let server = Receiver::start(|_| respond_with(200, &[], "")).await;
    let hook = "url: \"${{ params.url | safe_url }}/u/${{ person.name }}\", json: {}";
    let app = app(database, hook, "", &["127.0.0.1"]).await;
    app.sql("UPDATE users SET name = '../x?' WHERE id = 1; UPDATE users SET name = '..' WHERE id = 2").await;
    let run = app.run_to_end("p", json!({ "url": server.url })).await;
    assert_eq!((&run["status"], counts(&run)), (&json!("succeeded"), [0, 3, 2, 0, 1]), "{run}");
    let mut called = paths(&server);
    called.sort();
    assert_eq!(called, ["/u/..%2Fx%3F", "/u/eve"]);
    app.finish().await;
}

async fn error_common_to_all_recipients_fails_the_step(database: Database) {
    let app = app(database, "url: \"${{ params.url }}\", json: \"${{ person.nme }}\"", "", &["127.0.0.1"]).await;
    for (hook, code, attempts) in [
        ("url: \"http://127.0.0.1:1/\", json: \"${{ person.nme }}\"", "column_not_found", 1),
        ("url: \"${{ params.url }}\", json: \"${{ person.name }}\"", "http_url_invalid", 1),
        ("url: \"http://127.0.0.1:1/\", json: \"${{ 1 / 0 }}\"", "expression_failed", 1),
        ("url: \"http://127.0.0.1:1/${{ person.id }}\", json: {}", "http_unreachable", 3),
    ] {
        app.publish("p", &yaml(hook, "")).await;
        let run = app.run_to_end("p", json!({ "url": "nowhere" })).await;
        let step = &run["steps"][0];
        assert_eq!((&step["error"]["code"], &step["attempt"]), (&json!(code), &json!(attempts)), "{hook}: {run}");
    }
    app.finish().await;
}

async fn no_recipient_is_knowingly_called_twice_despite_kills(database: Database) {
    const PEOPLE: usize = 600;
    const PARALLEL: usize = 3;
    let server = Receiver::start(|_| respond_with(200, &[], "")).await;
    let mut place = Place::new(database).await;
    place.set("HTTP__ALLOW", "[127.0.0.1]");
    place.set("LOG", "debug");
    std::fs::write(place.dir.path().join("afterload.yaml"), "secrets: { TOKEN: canary-of-all }\n").unwrap();
    place
        .sql(&format!(
            "CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT NOT NULL, hook TEXT);
             INSERT INTO users (id, name) WITH RECURSIVE c(x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM c WHERE x < {})
             SELECT x, 'u' || x FROM c",
            99 + PEOPLE
        ))
        .await;
    place.pipeline("p", &yaml(SIGNED, &format!("chunk: 100\n      parallel: {PARALLEL}")));
    let mut process = place.start().await;
    let run = process.start_run("p", json!({ "url": server.url, "text": "@u101" })).await;
    let mut killed_at = Vec::new();
    for third in [1, 2, 3] {
        let some = PEOPLE * third / 5;
        eventually("some calls", async || (server.calls().len() >= some).then_some(())).await;
        process.kill().await;
        killed_at.push(server.calls().len());
        place.forget_the_dead().await;
        process = place.start().await;
    }
    assert!(killed_at[0] < PEOPLE, "the first kill came too late to prove anything: {killed_at:?}");
    let run: Value =
        process.until("the end", id(&run), |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!(run["status"], "succeeded", "{run}\n{}", place.log());
    assert_eq!(counts(&run), [1, PEOPLE as i64, PEOPLE as i64, 1, 0], "{run}");
    let mut ids = BTreeMap::<_, (BTreeSet<String>, usize)>::new();
    for (path, id) in received_events(&server) {
        let (known, count) = ids.entry(path).or_default();
        known.insert(id);
        *count += 1;
    }
    assert_eq!(ids.len(), PEOPLE);
    assert!(ids.values().all(|(known, count)| known.len() == 1 && *count <= 1 + killed_at.len()), "{ids:?}");
    let again = server.calls().len() - PEOPLE;
    assert!(again <= 3 * PARALLEL, "{again} calls were made again after the kills");
    assert!(process.terminate().await.success());
    assert!(!run.to_string().contains("canary") && !place.log().contains("canary"), "{}", place.log());
    for file in std::fs::read_dir(place.dir.path().join("data")).unwrap().flatten() {
        let bytes = std::fs::read(file.path()).unwrap_or_default();
        assert!(!bytes.windows(6).any(|window| window == b"canary"), "{}", file.path().display());
    }
}
