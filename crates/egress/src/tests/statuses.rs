//! How responses map to errors, and how requests look on the wire.

use std::time::Duration;

use super::server::{Behavior, answer};
use super::*;
use crate::codes;
use afterload_core::secret::Secret;

#[tokio::test]
async fn status_codes_decide_retryability_and_retry_after() {
    let server = Server::start(|path| {
        let (status, wait) = path[1..].trim_end_matches("?canary").split_once('/').unwrap();
        let head = if wait.is_empty() { String::new() } else { format!("Retry-After: {wait}\r\n") };
        Behavior::Responds(answer(&format!("{status} Canary"), &head, "canary"))
    })
    .await;
    let http = http(&["127.0.0.1"]);
    let seconds = |seconds| Some(Duration::from_secs(seconds));
    for (path, code, again, wait) in [
        ("/429/7", "http_rate_limited", true, seconds(7)),
        ("/429/", "http_rate_limited", true, None),
        ("/503/99999", "http_server_error", true, seconds(3600)),
        ("/500/soon", "http_server_error", true, None),
        ("/599/", "http_server_error", true, None),
        ("/400/7", "http_refused", false, None),
        ("/401/", "http_refused", false, None),
        ("/404/", "http_refused", false, None),
        ("/408/", "http_refused", true, None),
        ("/410/", "http_refused", false, None),
        ("/425/3", "http_refused", true, seconds(3)),
        ("/302/", "http_unexpected_status", false, None),
        ("/304/", "http_unexpected_status", false, None),
    ] {
        let error = get(&http, &server.url(&format!("{path}?canary"))).await.unwrap().error_for_status().err().unwrap();
        assert_eq!((error.code().name(), error.is_transient()), (code, again), "{path}");
        let found = error.retry_after();
        assert!(found == wait, "{path}: {found:?}");
        assert!(!error.to_string().to_lowercase().contains("canary"), "{error}");
        assert_eq!(error.details().unwrap()["status"], path[1..4].parse::<u16>().unwrap());
    }
    assert_eq!(get(&http, &server.url("/204/")).await.unwrap().error_for_status().unwrap().status_code(), 204);
}

#[tokio::test]
async fn status_error_shows_path_and_beginning_of_the_body() {
    let body = format!("not\u{7}\nready: {}", "é".repeat(300));
    let server = Server::start(move |path| match path {
        "/silent" => Behavior::Responds(answer("404 Not Found", "", "")),
        _ => Behavior::Responds(answer("503 Service Unavailable", "Retry-After: 7\r\n", &body)),
    })
    .await;
    let http = http(&["127.0.0.1"]);
    let error = get(&http, &server.url("/a/%20b?canary")).await.unwrap().into_status_error().await;
    assert_eq!(
        (error.code(), error.retry_after()),
        (codes::HTTP_SERVER_ERROR, Some(Duration::from_secs(7))),
        "{error}"
    );
    let shown = format!("503 Service Unavailable: path `/a/%20b`, body `not\\u{{7}}\\nready: {}…`", "é".repeat(188));
    assert!(error.message().ends_with(&shown), "{error}");
    let error = get(&http, &server.url("/silent")).await.unwrap().into_status_error().await;
    assert!(error.message().ends_with("404 Not Found: path `/silent`"), "{error}");
}

#[tokio::test]
async fn headers_omit_cookies_and_json_errors_quote_nothing() {
    let head = "X-One: a\r\nX-One: b\r\nSet-Cookie: canary\r\n";
    let server = Server::start(move |path| match path {
        "/json" => Behavior::Responds(answer("200 OK", head, "{\"a\": 1}")),
        _ => Behavior::Responds(answer("200 OK", head, "{\"canary\": canary}")),
    })
    .await;
    let http = http(&["127.0.0.1"]);
    let answer = get(&http, &server.url("/json")).await.unwrap();
    let headers = answer.text_headers();
    assert!(headers.contains(&("x-one".to_owned(), "a, b".to_owned())), "{headers:?}");
    assert!(!format!("{headers:?}").contains("canary"), "{headers:?}");
    assert_eq!(answer.read_json::<serde_json::Value>().await.unwrap()["a"], 1);
    let error = get(&http, &server.url("/other")).await.unwrap().read_json::<serde_json::Value>().await.unwrap_err();
    assert_eq!(error.code(), codes::HTTP_ANSWER_INVALID);
    assert!(!error.to_string().contains("canary"), "{error}");
}

#[test]
fn a_url_must_be_absolute_and_without_password() {
    for bad in [
        "",
        "canary",
        "/canary",
        "//canary",
        "ftp://canary",
        "file:///canary",
        "http://",
        "http://user@canary/",
        "http://:pass@canary/",
        "http://[canary]/",
        "javascript:canary",
        "http://1.2.3.4.5canary:99999",
        &format!("http://a.example/{}", "canary".repeat(2000)),
    ] {
        let error = EgressRequest::get(bad).unwrap_err();
        assert_eq!(error.code(), codes::HTTP_URL_INVALID, "{bad}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    let request = EgressRequest::get("HTTPS://A.example/x?y=1#fragment").unwrap().with_query([("q", "a b&c")]);
    assert_eq!(request.url.as_str(), "https://a.example/x?y=1&q=a+b%26c");
    assert_eq!(format!("{request:?}"), "GET https://a.example");
}

#[test]
fn invalid_and_connection_headers_are_rejected() {
    let request = EgressRequest::get("http://a.example").unwrap();
    for (name, value) in
        [("X", "canary\r\nY: 1"), ("X", "canary\0"), ("X\n", "1"), ("", "1"), ("Host", "b"), ("TE", "x")]
    {
        let error = request.clone().with_header(name, value).unwrap_err();
        assert_eq!(error.code(), codes::HTTP_HEADER_INVALID, "{name:?}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
}

/// The example from the documentation of Standard Webhooks.
#[test]
fn a_signature_matches_the_standards_example() {
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let webhooks = WebhooksConfig { secret: Some(Secret::new(secret)), ..WebhooksConfig::default() };
    let webhooks = WebhookSigner::new(&webhooks, &Keyring::new("", []));
    assert_eq!(webhooks.encoded_secret(), secret);
    let signature = webhooks.sign_message("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, b"{\"test\": 2432232314}");
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn the_webhook_secret_is_derived_from_the_secret_key() {
    let signer = |key: &str, previous: Option<&str>| {
        WebhookSigner::new(&WebhooksConfig::default(), &Keyring::new(key, previous))
    };
    let derived = |key: &str| signer(key, None).encoded_secret();
    let secret = derived("a");
    assert_eq!((secret.len(), &secret), ("whsec_".len() + 44, &derived("a")));
    assert_ne!(secret, derived("b"));
    // While a key is replaced, a webhook carries a signature for receivers with either secret.
    let sign = |key: &str, previous: Option<&str>| signer(key, previous).sign_message("m", 1, b"{}");
    assert_eq!(sign("b", Some("a")), format!("{} {}", sign("b", None), sign("a", None)));
    assert_eq!(signer("b", Some("a")).encoded_secret(), derived("b"));
    assert_eq!(WebhookSigner::message_id("run/step"), WebhookSigner::message_id("run/step"));
    assert_ne!(WebhookSigner::message_id("run/step"), WebhookSigner::message_id("run/other"));
}
