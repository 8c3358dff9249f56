//! A server that answers every connection with a few bytes that a test wrote, and remembers what it was asked.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

/// What a server does once it has read a request.
#[derive(Clone)]
pub(super) enum Does {
    /// Answers and closes.
    Says(String),
    /// Answers byte by byte, so slowly that it never ends.
    Drips(String),
    /// Says this and then the same piece again and again for as long as somebody reads.
    Floods(String),
    /// Says nothing.
    Hangs,
    /// Closes without a word.
    Leaves,
}

pub(super) struct Server {
    pub port: u16,
    asked: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Does what `does` says of the path.
    pub(super) async fn start(does: impl Fn(&str) -> Does + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(Mutex::new(Vec::new())));
        let (mut tasks, seen, does) = (JoinSet::new(), asked.clone(), Arc::new(does));
        tasks.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                open.spawn(serve(stream, seen.clone(), does.clone()));
            }
        });
        Self { port, asked, _tasks: tasks }
    }

    /// Answers everything with these bytes.
    pub(super) async fn saying(answer: &str) -> Self {
        let answer = answer.to_owned();
        Self::start(move |_| Does::Says(answer.clone())).await
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// The requests so far, each with head and body.
    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

/// An answer with this status and more lines of the head.
pub(super) fn answer(status: &str, head: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n{head}\r\n{body}", body.len())
}

async fn serve(mut stream: TcpStream, asked: Arc<Mutex<Vec<String>>>, does: Arc<impl Fn(&str) -> Does>) {
    let Some(request) = read(&mut stream).await else { return };
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    asked.lock().unwrap().push(request);
    let sent = match does(&path) {
        Does::Says(text) => stream.write_all(text.as_bytes()).await,
        Does::Drips(text) => {
            for byte in text.bytes().chain(std::iter::repeat(b'.')) {
                if stream.write_all(&[byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            Ok(())
        }
        Does::Floods(text) => {
            let mut sent = stream.write_all(text.as_bytes()).await;
            while sent.is_ok() {
                sent = stream.write_all(&[b'x'; 8192]).await;
            }
            sent
        }
        Does::Hangs => std::future::pending().await,
        Does::Leaves => Ok(()),
    };
    // Who was reading may have gone away.
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
