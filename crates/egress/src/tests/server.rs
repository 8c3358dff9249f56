//! A server that answers every connection with bytes from the test, and records the requests.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// The reaction of the server to a request.
#[derive(Clone)]
pub(super) enum Behavior {
    /// Responds and closes.
    Responds(String),
    /// Responds byte by byte, too slowly to ever finish.
    Drips(String),
    /// Responds with this, then repeats it as long as the client reads.
    Floods(String),
    /// Never responds.
    Hangs,
    /// Closes without a response.
    Disconnects,
}

pub(super) struct Server {
    pub port: u16,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Starts a server that reacts to each path as `behavior` decides.
    pub(super) async fn start(behavior: impl Fn(&str) -> Behavior + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, requests) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let (mut tasks, seen, behavior) = (JoinSet::new(), requests.clone(), Arc::new(behavior));
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, seen.clone(), behavior.clone()));
            }
        });
        Self { port, requests, _tasks: tasks }
    }

    /// Starts a server that always responds with these bytes.
    pub(super) async fn responding(answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::start(move |_| Behavior::Responds(answer.clone())).await
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The requests so far, each with head and body.
    pub(super) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

/// A response with this status and additional header lines.
pub(super) fn answer(status: &str, head: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{head}\r\n{body}", body.len())
}

async fn serve(mut stream: TcpStream, requests: Arc<Mutex<Vec<String>>>, behavior: Arc<impl Fn(&str) -> Behavior>) {
    let Some(request) = read(&mut stream).await else { return };
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    requests.lock().unwrap().push(request);
    let sent = match behavior(&path) {
        Behavior::Responds(text) => stream.write_all(text.as_bytes()).await,
        Behavior::Drips(text) => {
            for byte in text.bytes().chain(std::iter::repeat(b'.')) {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }
        Behavior::Floods(text) => {
            let mut sent = stream.write_all(text.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(&[b'x'; 8192]).await;
            }
            sent
        }
        Behavior::Hangs => std::future::pending().await,
        Behavior::Disconnects => Ok(()),
    };
    // The client may have closed the connection.
    drop(sent);
    drop(stream.shutdown().await);
}

async fn read(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        if body.len() >= length.unwrap_or(0) {
            return Some(text);
        }
    }
}
