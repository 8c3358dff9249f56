//! Clients of the endpoint that send or read slowly, and too many of them.

use std::time::Duration;

use afterload::config::ConnectionLimits;
use afterload_core::clock::Clock;
use afterload_s3_server::EmbeddedStore;
use aws_sdk_s3::presigning::PresigningConfig;
use bytes::Bytes;
use tokio::io::AsyncReadExt;

use super::support::{BUCKET, Store, sdk, serve};
use crate::support::raw_http::{PEER_TIMEOUT, SHORT_LIMIT, patient_limits, read_until_closed, send_bytes};

/// Serves the store a second time, with these limits. Returns the endpoint.
async fn serve_with(store: &Store, max_connections: usize, limits: ConnectionLimits) -> String {
    let other =
        EmbeddedStore::open(&store.dir.path().join("objects"), store.credentials.clone(), Clock::system()).unwrap();
    let other = other.with_public_buckets([BUCKET.to_owned()]);
    serve(&other.with_connection_limits(max_connections, limits.timeouts()), &store.stop).await
}

#[tokio::test(flavor = "multi_thread")]
async fn heads_and_pauses_have_a_time_limit() {
    let store = Store::start().await;
    let endpoint = serve_with(&store, 10, ConnectionLimits { header_timeout: SHORT_LIMIT, ..patient_limits() }).await;
    for beginning in ["", "GET / HTTP/1.1\r\nHost: x\r\n"] {
        assert_eq!(read_until_closed(&mut send_bytes(&endpoint, beginning).await).await, b"", "{beginning:?}");
    }
    let endpoint = serve_with(&store, 10, ConnectionLimits { idle_timeout: SHORT_LIMIT, ..patient_limits() }).await;
    let mut idle = send_bytes(&endpoint, "GET /uploads/none HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert!(read_until_closed(&mut idle).await.starts_with(b"HTTP/1.1 404 "), "it is answered, then closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_minimum_rate() {
    let store = Store::start().await;
    let endpoint = serve_with(&store, 10, ConnectionLimits { body_window: SHORT_LIMIT, ..patient_limits() }).await;
    let client = sdk(&endpoint, &store.credentials.access_key, store.credentials.secret_key.expose_secret());
    let expiry = PresigningConfig::expires_in(Duration::from_secs(3600)).unwrap();
    let signed = client.put_object().bucket(BUCKET).key("k").presigned(expiry).await.unwrap();
    let (path, host) = (signed.uri().strip_prefix(&endpoint).unwrap(), endpoint.strip_prefix("http://").unwrap());
    let head = format!("PUT {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 5000\r\n\r\none");
    let answer = read_until_closed(&mut send_bytes(&endpoint, &head).await).await;
    let answer = String::from_utf8_lossy(&answer);
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("<Code>RequestTimeout</Code>"), "{answer}");
    store.until_bodies(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_stop_are_dropped_and_the_surplus_is_refused() {
    let store = Store::start().await;
    let size = 64 << 20;
    store.objects.put_object(BUCKET, "large", "", Bytes::from(vec![7; size])).await.unwrap();
    let endpoint = serve_with(&store, 1, ConnectionLimits { write_timeout: SHORT_LIMIT, ..patient_limits() }).await;
    let request = "GET /uploads/large HTTP/1.1\r\nHost: x\r\n\r\n";
    let mut reader = send_bytes(&endpoint, request).await;
    let mut status = [0; 12];
    tokio::time::timeout(PEER_TIMEOUT, reader.read_exact(&mut status)).await.expect("an answer").unwrap();
    assert_eq!(&status, b"HTTP/1.1 200");
    // While the reader has the only connection, others are refused; afterwards they are served.
    let small = "GET /uploads/none HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n";
    let served = async {
        loop {
            let answer = read_until_closed(&mut send_bytes(&endpoint, small).await).await;
            match String::from_utf8_lossy(&answer).into_owned() {
                answer if answer.starts_with("HTTP/1.1 404 ") => return,
                // The refusal may be lost, because the request was not read.
                answer => assert!(answer.is_empty() || answer.contains("<Code>SlowDown</Code>"), "{answer}"),
            }
        }
    };
    tokio::time::timeout(PEER_TIMEOUT, served).await.expect("the reader is dropped");
    assert!(read_until_closed(&mut reader).await.len() < size, "the rest was not sent");
}
