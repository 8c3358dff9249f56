//! `http.request` in runs.

use serde_json::{Value, json};

use super::receiver::{Receiver, respond_with};
use super::{error, outputs, secret, verify};
use crate::support::{Database, Place, Server, TestApp, both, eventually, execute};

both!(
    request_is_sent_as_configured_and_response_is_an_output,
    failed_request_is_retried_with_same_id_and_valid_signature,
    each_item_has_its_own_idempotency_key,
    recorded_request_is_not_repeated,
    body_is_saved_up_to_max_size,
    status_decides_between_success_retry_and_failure,
    echoed_secret_is_redacted,
    values_stay_in_their_part_of_the_url,
);

const JSON: (&str, &str) = ("content-type", "application/json");

async fn app(database: Database, yaml: &str) -> TestApp {
    let name = yaml.lines().find_map(|line| line.strip_prefix("name: ")).unwrap().to_owned();
    let app = TestApp::builder(database).pipeline(&name, yaml);
    app.config(|config| config.http.allow = vec!["127.0.0.1".into()]).start().await
}

async fn request_is_sent_as_configured_and_response_is_an_output(database: Database) {
    let server = Receiver::start(|call| match call.path.as_str() {
        "/moved" => respond_with(307, &[("location", "/orders?page=2")], ""),
        path if path.starts_with("/form") => respond_with(200, &[], "not JSON"),
        _ => respond_with(
            201,
            &[JSON, ("x-rate", "9"), ("set-cookie", "canary")],
            r#"{"id": 7, "deep": {"list": [1, 2]}}"#,
        ),
    })
    .await;
    let yaml = r#"
name: calls
params: { base: { type: string }, who: { type: string } }
steps:
  - id: order
    uses: http.request
    with:
      url: "${{ params.base | safe_url }}/orders?page=1"
      headers: { X-Who: "${{ params.who }}", accept: application/json }
      query: { q: "${{ params.who }}", tag: [a, b], none: "${{ none }}" }
      json: { who: "${{ params.who }}", count: 2 }
  - id: form
    uses: http.request
    with: { method: PUT, url: "${{ params.base | safe_url }}/form/${{ steps.order.json.id }}", form: { n: "${{ steps.order.json.deep.list }}" } }
  - { id: text, uses: http.request, with: { url: "${{ params.base | safe_url }}/text", body: "${{ steps.order.text }}" } }
  - { id: moved, uses: http.request, with: { url: "${{ params.base | safe_url }}/moved" } }
  - { id: seen, uses: http.request, with: { url: "${{ params.base | safe_url }}/moved", expect: 307 } }
  - { id: end, uses: test.step, with: { give: "${{ steps.order.headers['x-rate'] ~ steps.seen.status }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("calls", json!({ "base": server.url, "who": "Ä & co" })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let order = outputs(&run, "order");
    assert_eq!((&order["status"], &order["json"]["id"], &order["file"]), (&json!(201), &json!(7), &Value::Null));
    assert!(order["text"].as_str().unwrap().starts_with("{\"id\": 7"), "{order}");
    assert_eq!((&order["headers"]["x-rate"], &order["headers"]["set-cookie"]), (&json!("9"), &Value::Null));
    assert_eq!(outputs(&run, "form")["json"], Value::Null);
    assert_eq!(outputs(&run, "end")["value"], "9307");
    let calls = server.calls();
    let (id, heads) = (run["id"].as_str().unwrap(), calls.iter().map(|call| format!("{} {}", call.method, call.path)));
    assert_eq!(
        heads.collect::<Vec<_>>(),
        [
            "POST /orders?page=1&q=%C3%84+%26+co&tag=a&tag=b",
            "PUT /form/7",
            "POST /text",
            "GET /moved",
            "GET /orders?page=2",
            "GET /moved",
        ]
    );
    let header = |call: usize, name: &str| calls[call].headers.get(name).cloned().unwrap_or_default();
    assert_eq!(serde_json::from_str::<Value>(&calls[0].body).unwrap(), json!({ "who": "Ä & co", "count": 2 }));
    assert_eq!(
        (header(0, "content-type"), header(0, "accept")),
        ("application/json".into(), "application/json".into())
    );
    assert_eq!(
        (header(1, "content-type"), &calls[1].body),
        ("application/x-www-form-urlencoded".into(), &"n=1&n=2".into())
    );
    assert_eq!(
        (header(2, "content-type"), &calls[2].body),
        ("text/plain; charset=utf-8".into(), &order["text"].as_str().unwrap().into())
    );
    for (call, step) in [(0, "order"), (1, "form"), (2, "text"), (3, "moved"), (4, "moved"), (5, "seen")] {
        assert_eq!(header(call, "idempotency-key"), format!("{id}/{step}"));
        assert_eq!(header(call, "accept-encoding"), "identity");
        assert!(header(call, "user-agent").starts_with("afterload/"));
    }
    app.finish().await;
}

async fn failed_request_is_retried_with_same_id_and_valid_signature(database: Database) {
    let server = Receiver::start(|call| match call.before {
        0 => respond_with(503, &[("retry-after", "1")], "busy"),
        1 => respond_with(429, &[("retry-after", "1")], "busy"),
        _ => respond_with(200, &[], ""),
    })
    .await;
    let yaml = r#"
name: signed
params: { url: { type: string } }
steps:
  - id: call
    uses: http.request
    retry: { attempts: 5, delay: 1ms, max_delay: 2ms }
    with: { url: "${{ params.url }}", json: { hello: wörld }, sign: standard-webhooks }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("signed", json!({ "url": server.url })).await;
    assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(3)), "{run}");
    let (calls, secret) = (server.calls(), secret(&app));
    assert_eq!(calls.len(), 3);
    for call in &calls {
        verify(&secret, call);
        assert_eq!(call.headers["webhook-id"], calls[0].headers["webhook-id"]);
        assert_eq!(call.headers["idempotency-key"], format!("{}/call", run["id"].as_str().unwrap()));
    }
    let sent = |call: usize| calls[call].headers["webhook-timestamp"].parse::<i64>().unwrap();
    assert!(sent(2) > sent(1) && sent(1) > sent(0), "`Retry-After` is waited for, and each says when it was made");
    app.finish().await;
}

async fn each_item_has_its_own_idempotency_key(database: Database) {
    let server = Receiver::start(|call| respond_with(200, &[], call.path.clone())).await;
    let yaml = r#"
name: items
params: { url: { type: string } }
steps:
  - id: each
    uses: http.request
    for_each: { items: ["a", "b"] }
    with: { url: "${{ params.url | safe_url }}/${{ item }}", sign: standard-webhooks }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("items", json!({ "url": server.url })).await;
    assert_eq!(
        (&run["status"], &outputs(&run, "each")["items"][1]["text"]),
        (&json!("succeeded"), &json!("/b")),
        "{run}"
    );
    let (calls, id) = (server.calls(), run["id"].as_str().unwrap());
    let by_path = |path: &str| calls.iter().find(|call| call.path == path).expect("the call");
    for (path, key) in [("/a", "each[0]"), ("/b", "each[1]")] {
        assert_eq!(by_path(path).headers["idempotency-key"], format!("{id}/{key}"));
    }
    assert_ne!(by_path("/a").headers["webhook-id"], by_path("/b").headers["webhook-id"]);
    app.finish().await;
}

async fn recorded_request_is_not_repeated(database: Database) {
    let server = Receiver::start(|_| respond_with(200, &[JSON], r#"{"from": "the server"}"#)).await;
    let yaml = r#"
name: once
params: { url: { type: string } }
steps:
  - { id: hold, uses: wait, with: { event: go } }
  - { id: call, uses: http.request, with: { url: "${{ params.url }}", body: x } }
"#;
    let app = app(database, yaml).await;
    let service = app.server.as_ref().map_or_else(|| app.config.database_url(), Server::url);
    let recorded = r#"{"status": 202, "headers": {"x": "y"}, "text": "{\"from\": \"the record\"}"}"#;
    for (state, detail, from, calls) in
        [("done", format!("'{recorded}'"), "the record", 0), ("started", "NULL".into(), "the server", 1)]
    {
        let run = app.run("once", json!({ "url": server.url })).await;
        app.step_is(&run, "hold", "suspended").await;
        let id = run["id"].as_str().unwrap();
        // Same state as after a crash: after the response and before the end of the step, or before the response.
        execute(&service, &format!("INSERT INTO effect_log VALUES ('{id}', 'call', 'call', '{state}', {detail}, 0)"))
            .await;
        app.post("/v1/events/go", json!({})).await;
        let run = app.ended(&run).await;
        assert_eq!(
            (&run["status"], &outputs(&run, "call")["json"]["from"]),
            (&json!("succeeded"), &json!(from)),
            "{run}"
        );
        assert_eq!(server.calls().len(), calls);
    }
    assert!(server.calls()[0].headers["idempotency-key"].ends_with("/call"));
    app.finish().await;
}

async fn body_is_saved_up_to_max_size(database: Database) {
    let large: Vec<u8> = (0..3_000_000_u32).map(|number| (number % 251) as u8).collect();
    let body = large.clone();
    let server =
        Receiver::start(move |_| respond_with(200, &[("content-type", "application/pdf")], body.clone())).await;
    let yaml = r#"
name: saves
params: { url: { type: string }, name: { type: string } }
steps:
  - { id: save, uses: http.request, with: { url: "${{ params.url }}", save: "${{ params.name }}" } }
  - { id: tight, uses: http.request, continue_on_error: true, with: { url: "${{ params.url }}", save: small.bin, max_size: 2mb } }
  - { id: memory, uses: http.request, continue_on_error: true, with: { url: "${{ params.url }}" } }
  - { id: type, uses: test.step, with: { give: "${{ steps.save.file.content_type }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("saves", json!({ "url": server.url, "name": "report.pdf" })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let save = outputs(&run, "save");
    assert_eq!((&save["file"]["name"], &save["file"]["size"]), (&json!("report.pdf"), &json!(large.len())));
    assert_eq!(
        (&save["text"], &save["json"], outputs(&run, "type")["value"].as_str()),
        (&Value::Null, &Value::Null, Some("application/pdf"))
    );
    let progress = &run["steps"][0]["progress"];
    assert_eq!(
        (&progress["done"], &progress["total"], &progress["unit"]),
        (&json!(large.len()), &json!(large.len()), &json!("bytes"))
    );
    for step in ["tight", "memory"] {
        assert_eq!(error(&run, step)["code"], "http_body_too_large", "{run}");
    }
    let artifacts = run["artifacts"].as_array().unwrap();
    assert_eq!(artifacts.len(), 1, "{run}");
    let stored = app.get(&format!("/v1/artifacts/{}", artifacts[0]["id"].as_str().unwrap())).await;
    assert!(stored.bytes().await.unwrap() == large, "the file is what was sent");
    app.finish().await;
}

async fn status_decides_between_success_retry_and_failure(database: Database) {
    let server = Receiver::start(|call| {
        let status = call.path[1..4].parse().unwrap();
        respond_with(status, &[], "the\nreason")
    })
    .await;
    let yaml = r#"
name: statuses
params: { url: { type: string } }
defaults: { retry: { attempts: 3, delay: 1ms, max_delay: 2ms } }
steps:
  - { id: missing, uses: http.request, continue_on_error: true, with: { url: "${{ params.url | safe_url }}/404?canary" } }
  - { id: expected, uses: http.request, with: { url: "${{ params.url | safe_url }}/404", expect: [200, 404] } }
  - { id: broken, uses: http.request, continue_on_error: true, with: { url: "${{ params.url | safe_url }}/500" } }
  - { id: other, uses: http.request, continue_on_error: true, with: { url: "${{ params.url | safe_url }}/200", expect: 204 } }
  - { id: nobody, uses: http.request, continue_on_error: true, with: { url: "http://127.0.0.1:1/canary" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("statuses", json!({ "url": server.url })).await;
    assert_eq!((&run["status"], &outputs(&run, "expected")["status"]), (&json!("succeeded"), &json!(404)), "{run}");
    for (step, code, attempts) in [
        ("missing", "http_refused", 1),
        ("broken", "http_server_error", 3),
        ("other", "http_unexpected_status", 1),
        ("nobody", "http_unreachable", 3),
    ] {
        let found = run["steps"].as_array().unwrap().iter().find(|known| known["id"] == step).unwrap();
        assert_eq!((&found["error"]["code"], &found["attempt"]), (&json!(code), &json!(attempts)), "{run}");
        assert!(!found["error"].to_string().contains("canary"), "{run}");
    }
    for (step, shown) in [("missing", "path `/404`"), ("broken", "path `/500`"), ("other", "path `/200`")] {
        let message = error(&run, step)["message"].as_str().unwrap();
        assert!(message.ends_with(&format!("{shown}, body `the\\nreason`")), "{message}");
    }
    let tries = |path: &str| server.calls().iter().filter(|call| call.path.starts_with(path)).count();
    assert_eq!((tries("/404?"), tries("/500")), (1, 3));
    app.finish().await;
}

async fn values_stay_in_their_part_of_the_url(database: Database) {
    let server = Receiver::start(|_| respond_with(200, &[], "")).await;
    let yaml = r#"
name: urls
params: { url: { type: string }, id: { type: string } }
steps:
  - { id: call, uses: http.request, with: { url: "${{ params.url | safe_url }}/u/${{ params.id }}/x?q=${{ params.id }}" } }
  - { id: year, uses: test.step, with: { give: "${{ now() | format_time('%Y', 'Europe/Paris') | length }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("urls", json!({ "url": server.url, "id": "../../admin?a=1&b#c %" })).await;
    assert_eq!((&run["status"], &outputs(&run, "year")["value"]), (&json!("succeeded"), &json!(4)), "{run}");
    let paths: Vec<_> = server.calls().into_iter().map(|call| call.path).collect();
    let encoded = "..%2F..%2Fadmin%3Fa%3D1%26b%23c%20%25";
    assert_eq!(paths, [format!("/u/{encoded}/x?q={encoded}")]);
    let run = app.run_to_end("urls", json!({ "url": server.url, "id": ".." })).await;
    assert_eq!(error(&run, "call")["code"], "expression_failed", "{run}");
    assert_eq!(server.calls().len(), 1);
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn response_is_decoded_by_its_charset() {
    let server = Receiver::start(|call| match call.path.as_str() {
        "/latin1" => respond_with(
            200,
            &[("content-type", "application/json; charset=ISO-8859-1")],
            b"{\"a\": \"caf\xe9\"}".to_vec(),
        ),
        _ => respond_with(200, &[JSON], "\u{feff}{\"a\": \"café\"}"),
    })
    .await;
    let yaml = "name: charset\nparams: { url: { type: string } }\nsteps:\n  - { id: call, uses: http.request, with: { url: \"${{ params.url }}\" } }\n";
    let app = app(Database::Sqlite, yaml).await;
    for path in ["/latin1", "/mark"] {
        let run = app.run_to_end("charset", json!({ "url": format!("{}{path}", server.url) })).await;
        let found = outputs(&run, "call");
        assert_eq!((&found["json"]["a"], &found["text"]), (&json!("café"), &json!("{\"a\": \"café\"}")), "{run}");
    }
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn private_addresses_are_blocked_unless_allowed() {
    let server = Receiver::start(|_| respond_with(200, &[], "the inside")).await;
    let yaml = "name: ssrf\nparams: { url: { type: string } }\nsteps:\n  - { id: call, uses: http.request, with: { url: \"${{ params.url }}\" } }\n";
    let app = TestApp::builder(Database::Sqlite).pipeline("ssrf", yaml).start().await;
    let port = server.port;
    for host in ["127.0.0.1", "localhost", "2130706433", "0x7f.1", "[::1]", "[::ffff:127.0.0.1]", "169.254.169.254"] {
        let run = app.run_to_end("ssrf", json!({ "url": format!("http://{host}:{port}/") })).await;
        let step = &run["steps"][0];
        assert_eq!((&step["error"]["code"], &step["attempt"]), (&json!("egress_blocked"), &json!(1)), "{host}: {run}");
    }
    assert!(server.calls().is_empty());
    app.finish().await;
}

async fn echoed_secret_is_redacted(database: Database) {
    const CANARY: &str = "canary-of-\"quotes\"-and-more";
    // Echoes everything that it receives, and fails the second call.
    let server = Receiver::start(|call| {
        let status = if call.path.starts_with("/fail") { 400 } else { 200 };
        respond_with(status, &[JSON, ("x-echo", &call.headers["authorization"])], serde_json::to_string(call).unwrap())
    })
    .await;
    let yaml = r#"
name: secret
params: { url: { type: string } }
steps:
  - id: echo
    uses: http.request
    with:
      url: "${{ params.url | safe_url }}/${{ secrets.token }}"
      headers: { Authorization: "Bearer ${{ secrets.token }}" }
      query: { key: "${{ secrets.token }}" }
      json: { key: "${{ secrets.token }}" }
  - id: fail
    uses: http.request
    with:
      url: "${{ params.url | safe_url }}/fail/${{ secrets.token }}?key=${{ secrets.token }}"
      headers: { Authorization: "Bearer ${{ secrets.token }}" }
      json: { key: "${{ secrets.token }}" }
"#;
    let mut place = Place::new(database).await;
    place.env.push(("AFTERLOAD_SECRETS__TOKEN".into(), format!("'{CANARY}'")));
    place.env.push(("AFTERLOAD_HTTP__ALLOW".into(), "[127.0.0.1]".into()));
    place.env.push(("AFTERLOAD_LOG".into(), "debug".into()));
    place.pipeline("secret", yaml);
    let process = place.start().await;
    let run = process.start_run("secret", json!({ "url": server.url })).await;
    let path = format!("/v1/runs/{}", run["id"].as_str().unwrap());
    let text = eventually("the end of the run", async || {
        let text = process.text(&path).await;
        (!serde_json::from_str::<Value>(&text).unwrap()["finished_at"].is_null()).then_some(text)
    })
    .await;
    process.terminate().await;
    let run: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((error(&run, "fail")["code"].as_str(), server.calls().len()), (Some("http_refused"), 2), "{run}");
    assert!(server.calls()[0].headers["authorization"].ends_with(CANARY), "the server got it");
    let echo = outputs(&run, "echo");
    assert_eq!(
        (&echo["headers"]["x-echo"], &echo["json"]["body"]),
        (&json!("Bearer ***"), &json!("{\"key\":\"***\"}")),
        "{run}"
    );
    // JSON and URLs escape the quotes in different ways.
    for part in ["canary-of", "and-more"] {
        assert!(!text.contains(part), "{text}");
        assert!(!place.log().contains(part), "{}", place.log());
        for file in std::fs::read_dir(place.dir.path().join("data")).unwrap().flatten() {
            let bytes = std::fs::read(file.path()).unwrap_or_default();
            let found = bytes.windows(part.len()).any(|window| window == part.as_bytes());
            assert!(!found, "{}", file.path().display());
        }
    }
}
