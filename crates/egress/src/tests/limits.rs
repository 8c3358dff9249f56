//! Servers that hang, or send too slowly or too much.

use std::time::Duration;

use super::server::{Behavior, answer};
use super::*;
use crate::codes;
use afterload_core::units::ByteSize;

const SHORT: Duration = Duration::from_millis(300);

async fn within(http: &EgressClient, url: &str) -> Result<usize> {
    let answer = http.send(EgressRequest::get(url)?.with_timeout(SHORT)).await?;
    Ok(answer.read_bytes().await?.len())
}

#[tokio::test]
async fn a_call_ends_at_its_timeout() {
    let server = Server::start(|path| match path {
        "/hang" => Behavior::Hangs,
        "/drip-head" => Behavior::Drips("HTTP/1.1 200 OK\r\nX: ".into()),
        "/drip-body" => Behavior::Drips("HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n".into()),
        "/drip-redirects" => {
            Behavior::Drips("HTTP/1.1 302 Found\r\nLocation: /drip-redirects\r\nContent-Length: 0\r\n\r\n".into())
        }
        _ => Behavior::Disconnects,
    })
    .await;
    let http = http(&["127.0.0.1"]);
    for path in ["/hang", "/drip-head", "/drip-body", "/drip-redirects"] {
        let error = within(&http, &server.url(path)).await.unwrap_err();
        assert_eq!((error.code().name(), error.is_transient()), ("http_timeout", true), "{path}");
        assert!(error.message().contains("300ms"), "{error}");
    }
    let error = within(&http, &server.url("/leave")).await.unwrap_err();
    assert_eq!((error.code().name(), error.is_transient()), ("http_broken", true), "{error}");
}

#[tokio::test]
async fn a_body_is_not_read_after_the_timeout() {
    let server = Server::responding(&answer("200 OK", "", "here at once")).await;
    let http = http(&["127.0.0.1"]);
    let mut answer = get(&http, &server.url("/")).await.unwrap();
    // The body may be here already, and must not count.
    answer.limits.deadline = Instant::now();
    let error = answer.next_chunk().await.unwrap_err();
    assert_eq!((error.code().name(), error.is_transient()), ("http_timeout", true), "{error}");
}

#[tokio::test]
async fn an_unreachable_server_is_a_transient_error() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let http = http(&["127.0.0.1", "nowhere.invalid"]);
    for url in [format!("http://{closed}/canary?canary"), "http://nowhere.invalid/canary?canary".to_owned()] {
        let error = refused(&http, &url).await;
        assert_eq!((error.code().name(), error.is_transient()), ("http_unreachable", true), "{error}");
        assert!(!error.to_string().contains("canary"), "{error}");
    }
    // A server that does not speak TLS.
    let server = Server::responding(&answer("200 OK", "", "")).await;
    let error = refused(&http, &format!("https://127.0.0.1:{}/", server.port)).await;
    assert_eq!((error.code().name(), error.is_transient()), ("http_unreachable", true), "{error}");
}

#[tokio::test]
async fn a_body_is_read_up_to_its_limit() {
    let most = usize::try_from(HttpLimits::default().body.0).unwrap();
    let server = Server::start(move |path| match path {
        "/declared" => Behavior::Floods(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40)),
        "/endless" => Behavior::Floods("HTTP/1.1 200 OK\r\n\r\n".into()),
        "/full" => Behavior::Responds(answer("200 OK", "", &"x".repeat(most))),
        "/over" => Behavior::Responds(answer("200 OK", "", &"x".repeat(most + 1))),
        _ => Behavior::Responds("HTTP/1.1 200 OK\r\nContent-Length: 10\r\nConnection: close\r\n\r\nshort".into()),
    })
    .await;
    let http = http(&["127.0.0.1"]);
    for path in ["/declared", "/endless", "/over"] {
        let error = get(&http, &server.url(path)).await.unwrap().read_bytes().await.unwrap_err();
        assert_eq!((error.code().name(), error.is_transient()), ("http_body_too_large", false), "{path}");
    }
    assert_eq!(get(&http, &server.url("/full")).await.unwrap().read_bytes().await.unwrap().len(), most);
    let http_limits = HttpLimits { body: ByteSize(1000), ..HttpLimits::default() };
    let tight = limited(&["127.0.0.1"], &http_limits);
    let error = get(&tight, &server.url("/full")).await.unwrap().read_bytes().await.unwrap_err();
    assert!(error.code() == codes::HTTP_BODY_TOO_LARGE && error.message().contains("1000"), "{error}");
    let error = get(&http, &server.url("/short")).await.unwrap().read_bytes().await.unwrap_err();
    assert_eq!((error.code().name(), error.is_transient()), ("http_broken", true), "{error}");
}

#[tokio::test]
async fn a_response_without_a_body_ignores_its_declared_length() {
    let server = Server::start(|path| {
        let status = if path == "/304" { "304 Not Modified" } else { "200 OK" };
        Behavior::Responds(format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n", 1_u64 << 40))
    })
    .await;
    let http = http(&["127.0.0.1"]);
    for (method, path) in [(Method::HEAD, "/"), (Method::GET, "/304")] {
        let answer = http.send(EgressRequest::new(method, &server.url(path)).unwrap()).await.unwrap();
        assert_eq!(
            (answer.content_length(), answer.header_text("content-length")),
            (Some(0), Some("1099511627776")),
            "{path}"
        );
        assert!(answer.read_bytes().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn compression_is_not_requested_and_not_decoded() {
    let server = Server::responding(&answer("200 OK", "Content-Encoding: gzip\r\n", "\u{1f}not unpacked")).await;
    let answer = get(&http(&["127.0.0.1"]), &server.url("/")).await.unwrap();
    assert_eq!(answer.header_text("content-encoding"), Some("gzip"));
    assert_eq!(answer.read_bytes().await.unwrap(), "\u{1f}not unpacked");
    let request = server.requests()[0].to_ascii_lowercase();
    assert!(request.contains("accept-encoding: identity\r\n") && !request.contains("gzip"), "{request}");
}
