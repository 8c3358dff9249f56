//! `geo.lookup` with providers on the web.

use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

use afterload::config::{Config, GeoHttpConfig, QueueConfig, Secret};
use serde_json::{Value, json};

use super::{LIST, yaml};
use crate::http::receiver::{Receiver, respond_with};
use crate::support::{Database, TestApp, both, eventually, execute, numbers};

both!(
    known_and_unknown_addresses_are_cached,
    failing_service_is_skipped_and_its_circuit_opens,
    service_retry_after_is_respected,
    echoed_api_key_is_redacted,
    unknown_address_is_asked_again_after_its_cache_time,
    waiting_for_a_service_holds_no_worker,
);

/// Adds a provider on loopback to the configuration.
fn service(config: &mut Config, name: &str, url: &str) {
    let fields = [("country_code", "/where/c"), ("latitude", "/where/at"), ("longitude", "/where/at"), ("asn", "/as")];
    let fields = fields.map(|(name, pointer)| (name.to_owned(), pointer.to_owned())).into();
    let service = GeoHttpConfig {
        url: Some(format!("{url}/{name}/{{ip}}?full=1")),
        headers: [("X-Key".to_owned(), Secret::new("a-key-that-nobody-shows"))].into(),
        fields,
        unknown: [("/ok".to_owned(), json!(false))].into(),
        ..GeoHttpConfig::default()
    };
    config.geo.http.insert(name.into(), service);
    config.http.allow = vec!["127.0.0.1".into()];
}

async fn app(database: Database, with: &str, change: impl FnOnce(&mut Config)) -> TestApp {
    TestApp::builder(database).pipeline("p", &yaml(with)).config(change).start().await
}

fn good() -> axum::response::Response {
    respond_with(
        200,
        &[("content-type", "application/json")],
        json!({ "where": { "c": "fr", "at": "48.9,2.4" }, "as": "AS3215 Orange" }).to_string(),
    )
}

async fn known_and_unknown_addresses_are_cached(database: Database) {
    let receiver = Receiver::start(|call| match call.path.as_str() {
        path if path.contains("9.9.9.9") => respond_with(200, &[], r#"{"ok": false}"#),
        path if path.contains("7.7.7.7") => respond_with(404, &[], "nobody"),
        _ => good(),
    })
    .await;
    let app =
        app(database, &format!("{LIST}, providers: ['http:one']"), |config| service(config, "one", &receiver.url))
            .await;
    let ips = json!({ "ips": ["8.8.8.8", "9.9.9.9", "7.7.7.7", "192.168.0.1", "2001:4860:4860::8888"] });
    let first = app.run_to_end("p", ips.clone()).await;
    assert_eq!(first["status"], "succeeded", "{first}");
    let outputs = &first["steps"][0]["outputs"];
    let answer = &outputs["answers"][0];
    let facts =
        ["ip", "country_code", "latitude", "longitude", "asn", "provider", "city"].map(|name| answer[name].clone());
    assert_eq!(json!(facts), json!(["8.8.8.8", "FR", 48.9, 2.4, 3215, "http:one", null]), "{first}");
    assert_eq!((&outputs["found"], &outputs["missing"]), (&json!(3), &json!(2)), "{first}");
    let calls = receiver.calls();
    assert_eq!(calls.len(), 4, "{calls:?}");
    assert!(calls.iter().all(|call| call.headers["x-key"] == "a-key-that-nobody-shows"), "{calls:?}");
    assert!(calls.iter().any(|call| call.path == "/one/2001:4860:4860::8888?full=1"), "{calls:?}");
    let again = app.run_to_end("p", ips.clone()).await;
    assert_eq!(&again["steps"][0]["outputs"], outputs);
    assert_eq!(receiver.calls().len(), 4, "everything was remembered");
    // With a tiny cache lifetime the service is asked again.
    app.publish("p", &yaml(&format!("{LIST}, providers: ['http:one'], cache: 1ms"))).await;
    app.run_to_end("p", ips).await;
    assert_eq!(receiver.calls().len(), 8);
    app.finish().await;
}

async fn failing_service_is_skipped_and_its_circuit_opens(database: Database) {
    let receiver =
        Receiver::start(|call| if call.path.starts_with("/bad/") { respond_with(500, &[], "oops") } else { good() })
            .await;
    let with = format!("{LIST}, providers: ['http:bad', 'http:good']");
    let app = app(database, &with, |config| {
        service(config, "bad", &receiver.url);
        service(config, "good", &receiver.url);
    })
    .await;
    let ips = |from: u8| json!({ "ips": (from..from + 20).map(|last| format!("8.8.8.{last}")).collect::<Vec<_>>() });
    let to = |name: &str| receiver.calls().iter().filter(|call| call.path.starts_with(name)).count();
    for from in [0, 100] {
        let run = app.run_to_end("p", ips(from)).await;
        assert_eq!((&run["status"], &run["steps"][0]["outputs"]["found"]), (&json!("succeeded"), &json!(20)), "{run}");
    }
    // Four requests are in flight when the fifth failure opens the circuit breaker.
    assert!((5..=8).contains(&to("/bad/")), "{}", to("/bad/"));
    assert_eq!(to("/good/"), 40);
    app.publish("p", &yaml("ip: 1.2.3.4, providers: ['http:none', 'http:good']")).await;
    assert_eq!(app.run_to_end("p", json!({})).await["steps"][0]["outputs"]["found"], 1);
    app.finish().await;
}

async fn service_retry_after_is_respected(database: Database) {
    let wait = Arc::new(AtomicU16::new(1));
    let wanted = wait.clone();
    let receiver = Receiver::start(move |call| match (call.before, wanted.load(Ordering::SeqCst)) {
        (0, seconds) if seconds > 0 => respond_with(429, &[("retry-after", seconds.to_string().as_str())], "slowly"),
        _ => good(),
    })
    .await;
    let with = "ip: \"${{ params.ip }}\", providers: ['http:one']";
    let yaml = yaml(with).replace("uses: geo.lookup", "uses: geo.lookup, retry: { attempts: 1 }");
    let app = TestApp::builder(database)
        .pipeline("p", &yaml)
        .config(|config| service(config, "one", &receiver.url))
        .start()
        .await;
    let run = app.run_to_end("p", json!({ "ip": "8.8.8.8" })).await;
    assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(1)), "{run}");
    let error = |run: &Value| run["steps"][0]["error"]["code"].clone();
    wait.store(300, Ordering::SeqCst);
    assert_eq!(error(&app.run_to_end("p", json!({ "ip": "8.8.4.4" })).await), "http_rate_limited");
    let calls = receiver.calls().len();
    assert_eq!(error(&app.run_to_end("p", json!({ "ip": "8.8.4.5" })).await), "geo_provider_resting");
    assert_eq!((calls, receiver.calls().len()), (3, 3), "it is not called while it wants to be left alone");
    app.finish().await;
}

async fn echoed_api_key_is_redacted(database: Database) {
    let receiver = Receiver::start(|call| {
        let key = call.headers["x-key"].clone();
        respond_with(
            200,
            &[("content-type", "application/json")],
            json!({ "where": { "c": "fr" }, "city": key }).to_string(),
        )
    })
    .await;
    let app = app(database, "ip: 8.8.8.8, providers: ['http:one']", |config| {
        service(config, "one", &receiver.url);
        let fields = &mut config.geo.http.get_mut("one").unwrap().fields;
        fields.insert("city".into(), "/city".into());
    })
    .await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["steps"][0]["outputs"]["city"], "***", "{run}");
    assert!(!run.to_string().contains("nobody-shows"), "{run}");
    let kept = "SELECT COUNT(*), SUM(CASE WHEN record LIKE '%nobody-shows%' THEN 1 ELSE 0 END) FROM geo_cache";
    assert_eq!(numbers(&app.service(), kept).await, [1, 0]);
    app.finish().await;
}

async fn unknown_address_is_asked_again_after_its_cache_time(database: Database) {
    let receiver = Receiver::start(|_| respond_with(404, &[], "nobody")).await;
    let app = app(database, "ip: 8.8.8.8, providers: ['http:one'], cache: 30d", |config| {
        service(config, "one", &receiver.url);
    })
    .await;
    for _ in 0..2 {
        assert_eq!(app.run_to_end("p", json!({})).await["steps"][0]["outputs"]["found"], 0);
    }
    assert_eq!(receiver.calls().len(), 1, "that nobody knows is remembered");
    let span = "SELECT MAX(expires_at - fetched_at) FROM geo_cache";
    assert_eq!(numbers(&app.service(), span).await, [86_400_000], "for a day, whatever `cache` says");
    execute(&app.service(), "UPDATE geo_cache SET expires_at = fetched_at").await;
    app.run_to_end("p", json!({})).await;
    assert_eq!(receiver.calls().len(), 2);
    app.finish().await;
}

async fn waiting_for_a_service_holds_no_worker(database: Database) {
    let receiver = Receiver::start(|_| good()).await;
    let app = TestApp::builder(database)
        .pipeline("p", &yaml(&format!("{LIST}, providers: ['http:one']")))
        .pipeline("free", "name: free\nsteps: [{ id: one, uses: test.step }]\n")
        .config(|config| {
            service(config, "one", &receiver.url);
            config.geo.http.get_mut("one").unwrap().per_minute = Some(1);
            config.queues.insert("default".into(), QueueConfig { concurrency: 1 });
        })
        .start()
        .await;
    let run = app.run("p", json!({ "ips": ["8.8.8.8", "9.9.9.9"] })).await;
    eventually("the first call", async || (receiver.calls().len() == 1).then_some(())).await;
    assert_eq!(app.run_to_end("free", json!({})).await["status"], "succeeded");
    assert_eq!(
        (app.show(run["id"].as_str().unwrap()).await["status"].clone(), receiver.calls().len()),
        (json!("running"), 1)
    );
    app.post(&format!("/v1/runs/{}/cancel", run["id"].as_str().unwrap()), json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "cancelled");
    app.finish().await;
}
