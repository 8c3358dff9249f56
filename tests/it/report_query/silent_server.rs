//! A database server that stops answering (a broken network, a hung machine), and the number of connections that
//! reports use.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use afterload::config::Secret;
use afterload_core::clock::Clock;
use afterload_core::error::Result;
use afterload_target_db::{BindValues, CellType, Connection, Connections, QueryOptions, RowVisitor, SelectQuery};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::{RUNNING_COPIES, SILENT, app};
use crate::support::{Database, TestApp, eventually};

/// A TCP relay to the server that can stop passing bytes.
struct Relay {
    address: String,
    accepted: Arc<AtomicUsize>,
    silent: watch::Sender<bool>,
}

impl Relay {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (accepted, (silent, hears)) = (Arc::new(AtomicUsize::new(0)), watch::channel(false));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let (client, server) = (client.into_split(), TcpStream::connect(&server).await.unwrap().into_split());
                tokio::spawn(pass(client.0, server.1, hears.clone()));
                tokio::spawn(pass(server.0, client.1, hears.clone()));
            }
        });
        Self { address, accepted, silent }
    }
}

/// Passes bytes on. In silence, both ends stay open.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin, mut silent: watch::Receiver<bool>) {
    let mut bytes = [0; 8192];
    loop {
        let read = tokio::select! {
            biased;
            _ = silent.wait_for(|silent| *silent) => break,
            read = from.read(&mut bytes) => read.unwrap_or(0),
        };
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
    std::future::pending::<()>().await;
}

/// Signals when it is dropped.
struct Held(Option<oneshot::Sender<()>>);

impl Drop for Held {
    fn drop(&mut self) {
        if let Some(held) = self.0.take() {
            let _ = held.send(());
        }
    }
}

impl RowVisitor for Held {
    fn visit_columns(&mut self, _: &[String], _: Option<u64>) -> Result<()> {
        Ok(())
    }

    fn visit_cell(&mut self, _: Option<(CellType, &[u8])>) {}

    fn end_row(&mut self) -> Result<()> {
        Ok(())
    }
}

/// Connects to the application's database through a relay.
async fn behind_a_relay(app: &mut TestApp) -> (Relay, Connection) {
    let config = app.config.connections.get_mut("app").unwrap();
    let mut url = url::Url::parse(config.url.expose_secret()).unwrap();
    let relay = Relay::start(format!("{}:{}", url.host_str().unwrap(), url.port().unwrap())).await;
    url.set_port(Some(relay.address.rsplit_once(':').unwrap().1.parse().unwrap())).unwrap();
    config.url = Secret::new(url.to_string());
    let connection = Connections::new(&app.config.connections, &Clock::system()).get("app").await.unwrap();
    (relay, connection)
}

/// Stops a report after `somewhere`, and waits until its thread has released everything.
async fn stops(connection: &Connection, relay: &Relay, silent_before: bool, somewhere: impl AsyncFnOnce()) {
    relay.silent.send_replace(silent_before);
    let (held, let_go) = oneshot::channel();
    let stop = CancellationToken::new();
    let reading = QueryOptions { values: BindValues::new(), timeout: Duration::from_secs(3600), stop: stop.clone() };
    let select = SelectQuery::parse(SILENT, connection.dialect()).unwrap();
    let read = connection.select_rows(&select, reading, Held(Some(held)));
    let stopped = async {
        somewhere().await;
        relay.silent.send_replace(true);
        stop.cancel();
    };
    let (read, ()) = tokio::join!(read, stopped);
    assert_eq!(read.map(|_| ()).unwrap_err().code().name(), "step_stopped");
    let_go.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_does_not_wait_for_a_silent_server() {
    let mut app = app(Database::Postgres, "CREATE TABLE t (id BIGINT)").await;
    let (relay, connection) = behind_a_relay(&mut app).await;
    // Stop during the query, and during a connection attempt that never completes.
    stops(&connection, &relay, false, async || {
        eventually("the query", async || (app.numbers(RUNNING_COPIES).await == [1]).then_some(())).await;
    })
    .await;
    let before = relay.accepted.load(Ordering::SeqCst);
    stops(&connection, &relay, true, async || {
        eventually("the connection", async || (relay.accepted.load(Ordering::SeqCst) > before).then_some(())).await;
    })
    .await;
    app.finish().await;
}

/// Records the reports that have started.
struct Noted(usize, Arc<Mutex<Vec<usize>>>);

impl RowVisitor for Noted {
    fn visit_columns(&mut self, _: &[String], _: Option<u64>) -> Result<()> {
        self.1.lock().unwrap().push(self.0);
        Ok(())
    }

    fn visit_cell(&mut self, _: Option<(CellType, &[u8])>) {}

    fn end_row(&mut self) -> Result<()> {
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_eight_reports_read_at_once() {
    let app = app(Database::Postgres, "CREATE TABLE t (id BIGINT)").await;
    let connection = Connections::new(&app.config.connections, &Clock::system()).get("app").await.unwrap();
    let begun = Arc::new(Mutex::new(Vec::new()));
    let stops: Vec<_> = (0..9).map(|_| CancellationToken::new()).collect();
    let reports = stops.iter().enumerate().map(|(place, stop)| {
        let (connection, receiver) = (connection.clone(), Noted(place, Arc::clone(&begun)));
        let reading =
            QueryOptions { values: BindValues::new(), timeout: Duration::from_secs(3600), stop: stop.clone() };
        tokio::spawn(async move {
            let select = SelectQuery::parse(SILENT, connection.dialect()).unwrap();
            connection.select_rows(&select, reading, receiver).await.map(|_| ()).unwrap_err().code().name()
        })
    });
    let reports: Vec<_> = reports.collect();
    eventually("eight queries", async || (app.numbers(RUNNING_COPIES).await == [8]).then_some(())).await;
    assert_eq!(begun.lock().unwrap().len(), 8);
    // The ninth report starts when another one has ended.
    let first = begun.lock().unwrap()[0];
    stops[first].cancel();
    eventually("the ninth", async || (begun.lock().unwrap().len() == 9).then_some(())).await;
    stops.iter().for_each(CancellationToken::cancel);
    for report in reports {
        assert_eq!(report.await.unwrap(), "step_stopped");
    }
    app.finish().await;
}
