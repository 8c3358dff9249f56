//! Real connections: clients that disconnect or send too much, and requests during a shutdown.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::stage::Stage;
use crate::api::{ApiListener, serve};
use afterload_http_listener::ConnectionLimits;

/// A test that waits longer fails.
const TEST_TIMEOUT: Duration = Duration::from_secs(30);

async fn listening(stage: &Stage) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    listening_with(stage, TEST_TIMEOUT).await
}

async fn listening_with(stage: &Stage, drain: Duration) -> (SocketAddr, CancellationToken, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let timeouts = ConnectionLimits::default().timeouts();
    let options = ApiListener { max_connections: 100, timeouts, drain };
    #[expect(clippy::disallowed_methods, reason = "the test waits for it")]
    let served = tokio::spawn(serve(listener, stage.router.clone(), options, stop.clone()));
    (address, stop, served)
}

fn head(stage: &Stage, more: &str) -> String {
    format!(
        "POST /v1/pipelines/contacts-import/runs HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\n\
         Content-Type: multipart/form-data; boundary=b\r\n{more}\r\n",
        stage.admin
    )
}

fn part(name: &str) -> String {
    format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a.csv\"\r\n\r\n")
}

/// Reads one response: its status and body.
async fn answer(stream: &mut TcpStream) -> (u16, Value) {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.lines().find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                let status = head.split(' ').nth(1).unwrap().parse().unwrap();
                return (status, serde_json::from_str(body).unwrap_or_default());
            }
        }
        let mut buffer = [0; 4096];
        let read =
            tokio::time::timeout(TEST_TIMEOUT, stream.read(&mut buffer)).await.expect("an answer in time").unwrap();
        assert!(read > 0, "the connection ended after {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&buffer[..read]);
    }
}

/// Waits until the store holds this many uploads.
async fn uploads(stage: &Stage, expected: usize) {
    let folder = stage.folder().join("objects/bodies");
    let bodies = || {
        let folders = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        folders.filter_map(|folder| std::fs::read_dir(folder.path()).ok()).map(Iterator::count).sum::<usize>()
    };
    let waiting = async {
        while bodies() != expected {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, waiting)
        .await
        .unwrap_or_else(|_| panic!("{} uploads, not {expected}", bodies()));
}

#[tokio::test]
async fn files_of_a_disconnected_client_are_deleted() {
    let stage = Stage::new().await;
    let (address, _stop, _served) = listening(&stage).await;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let body = format!("{}one\r\n{}the beginning of two", part("file"), part("extras"));
    stream.write_all(format!("{}{body}", head(&stage, "Content-Length: 100000\r\n")).as_bytes()).await.unwrap();
    uploads(&stage, 1).await;
    drop(stream);
    uploads(&stage, 0).await;
    assert!(
        stage.db.runs().list(&afterload_state::RunFilter { limit: 1, ..Default::default() }).await.unwrap().is_empty()
    );
}

#[tokio::test]
async fn a_client_that_sends_too_much_gets_413() {
    let stage = Stage::new().await;
    let (address, _stop, _served) = listening(&stage).await;
    let mut announced = TcpStream::connect(address).await.unwrap();
    announced.write_all(head(&stage, "Content-Length: 1000000000000000\r\n").as_bytes()).await.unwrap();
    // `extras` accepts any number of files, so the total length is no reason to reject. A single file that is too large
    // is.
    announced.write_all(part("file").as_bytes()).await.unwrap();
    announced.write_all(&vec![b'x'; (1 << 20) + 1]).await.unwrap();
    let (status, problem) = answer(&mut announced).await;
    assert_eq!((status, problem["code"].as_str()), (413, Some("upload_too_large")));

    let mut chunked = TcpStream::connect(address).await.unwrap();
    chunked.write_all(head(&stage, "Transfer-Encoding: chunked\r\n").as_bytes()).await.unwrap();
    let body = [part("file").into_bytes(), vec![b'x'; 3 << 20], b"\r\n--b--\r\n".to_vec()].concat();
    chunked.write_all(format!("{:x}\r\n", body.len()).as_bytes()).await.unwrap();
    chunked.write_all(&body).await.unwrap();
    chunked.write_all(b"\r\n0\r\n\r\n").await.unwrap();
    let (status, problem) = answer(&mut chunked).await;
    assert_eq!((status, problem["code"].as_str()), (413, Some("upload_too_large")));
    uploads(&stage, 0).await;
}

#[tokio::test]
async fn requests_in_progress_finish_before_shutdown() {
    let stage = Stage::new().await;
    let (address, stop, served) = listening(&stage).await;
    let mut idle = TcpStream::connect(address).await.unwrap();
    idle.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    assert_eq!(answer(&mut idle).await.0, 200);

    let mut busy = TcpStream::connect(address).await.unwrap();
    let (first, rest) = (format!("{}one\r\n", part("file")), "--b--\r\n");
    let length = format!("Content-Length: {}\r\n", first.len() + rest.len());
    busy.write_all(format!("{}{first}", head(&stage, &length)).as_bytes()).await.unwrap();
    busy.write_all(b"--b").await.unwrap();
    uploads(&stage, 1).await;
    stop.cancel();
    assert_eq!(idle.read(&mut [0; 1]).await.unwrap(), 0, "an idle connection is closed");
    busy.write_all(&rest.as_bytes()[3..]).await.unwrap();
    assert_eq!(answer(&mut busy).await.0, 202);
    tokio::time::timeout(TEST_TIMEOUT, served).await.expect("the service ends").unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn a_request_longer_than_the_drain_timeout_is_aborted() {
    let stage = Stage::new().await;
    let (address, stop, served) = listening_with(&stage, Duration::from_millis(100)).await;
    let mut slow = TcpStream::connect(address).await.unwrap();
    let body = format!("{}one\r\n--b", part("file"));
    slow.write_all(format!("{}{body}", head(&stage, "Content-Length: 100000\r\n")).as_bytes()).await.unwrap();
    uploads(&stage, 1).await;
    stop.cancel();
    tokio::time::timeout(TEST_TIMEOUT / 2, served).await.expect("the service ends").unwrap();
    assert_eq!(slow.read(&mut [0; 1]).await.unwrap_or(0), 0, "the connection is closed");
    uploads(&stage, 0).await;
}
