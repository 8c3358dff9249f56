//! Connections without an HTTP client, for peers that are slow or break rules.

use std::time::Duration;

use afterload::config::ConnectionLimits;
use afterload_core::units::HumanDuration;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A test that waits longer fails.
pub const PEER_TIMEOUT: Duration = Duration::from_secs(120);
/// A limit that a test waits for.
pub const SHORT_LIMIT: HumanDuration = HumanDuration(Duration::from_millis(200));
/// A limit that no test waits for.
const LONG_LIMIT: HumanDuration = HumanDuration(Duration::from_secs(3600));

/// All limits are so long that the test would time out, except for those that it shortens.
pub fn patient_limits() -> ConnectionLimits {
    ConnectionLimits {
        header_timeout: LONG_LIMIT,
        idle_timeout: LONG_LIMIT,
        body_window: LONG_LIMIT,
        write_timeout: LONG_LIMIT,
        ..ConnectionLimits::default()
    }
}

/// Opens a connection to a URL and sends these bytes.
pub async fn send_bytes(url: &str, bytes: impl AsRef<[u8]>) -> TcpStream {
    let mut stream = TcpStream::connect(url.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(bytes.as_ref()).await.unwrap();
    stream
}

/// Reads until the peer closes the connection.
pub async fn read_until_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = async {
        let mut buffer = vec![0; 64 << 10];
        // A reset ends the connection too.
        while let Ok(count @ 1..) = stream.read(&mut buffer).await {
            bytes.extend_from_slice(&buffer[..count]);
        }
    };
    tokio::time::timeout(PEER_TIMEOUT, read).await.expect("the connection is closed");
    bytes
}

/// Reads one response with a length: its status and body.
pub async fn read_response(stream: &mut TcpStream) -> (u16, Value) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return (head[9..12].parse().unwrap(), serde_json::from_str(body).unwrap_or_default());
            }
        }
        let mut buffer = [0; 4096];
        let read = tokio::time::timeout(PEER_TIMEOUT, stream.read(&mut buffer)).await.expect("an answer").unwrap();
        assert!(read > 0, "the connection ended after {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..read]);
    }
}
