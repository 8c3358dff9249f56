//! What refused rows cost on PostgreSQL: a fixed number of round trips per chunk, however many rows are refused.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::bench::{Bench, Db, Memory, spec};

const ROWS: u64 = 4000;
const CHUNKS: u64 = 8;
/// The most round trips that a chunk with refused rows may take beyond a clean one. It takes about ten, and
/// the first of them another ten: the first attempt is undone, the rules of the table are read, the rows are sent again,
/// those that break a rule are found, and the others are loaded.
const MAX_EXTRA_TRIPS: u64 = 20;

/// Makes a line of a file from its number.
type Line<'a> = &'a dyn Fn(u64) -> String;

/// A TCP relay that counts how often the client speaks after the server: the round trips.
struct CountingRelay {
    address: String,
    trips: Arc<AtomicU64>,
}

impl CountingRelay {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let trips = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&trips);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (client, server) = (client.into_split(), TcpStream::connect(&server).await.unwrap().into_split());
                let answered = Arc::new(AtomicBool::new(true));
                tokio::spawn(pass(client.0, server.1, Arc::clone(&answered), Some(Arc::clone(&counted))));
                tokio::spawn(pass(server.0, client.1, answered, None));
            }
        });
        Self { address, trips }
    }
}

/// Passes bytes on. `answered` says whether the server spoke last; `trips` is counted for the client's side.
async fn pass(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    answered: Arc<AtomicBool>,
    trips: Option<Arc<AtomicU64>>,
) {
    let mut bytes = [0; 8192];
    while let Ok(read) = from.read(&mut bytes).await {
        let spoke_before = answered.swap(trips.is_none(), Ordering::SeqCst);
        if let (Some(trips), true) = (&trips, spoke_before) {
            trips.fetch_add(1, Ordering::SeqCst);
        }
        if read == 0 || to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_rows_take_no_round_trips_of_their_own() {
    let tables = "CREATE TABLE groups (id int PRIMARY KEY);;INSERT INTO groups SELECT generate_series(0, 9);;\
                  CREATE TABLE members (email text UNIQUE, grp int REFERENCES groups (id), n int CHECK (n < 100))";
    let mut bench = Bench::new(Db::Postgres, tables).await;
    let (head, tail) = bench.url.rsplit_once('@').unwrap();
    let (server, database) = tail.split_once('/').unwrap();
    let relay = CountingRelay::start(server.to_owned()).await;
    let url = format!("{head}@{}/{database}", relay.address);
    bench.reconnect(&url).await;
    let with = json!({
        "into": { "table": "members" }, "chunk": ROWS / CHUNKS, "columns": { "email": {}, "grp": {}, "n": {} },
    });
    let mut clean = 0;
    let line = |email: u64, group: u64, n: u64| format!("u{email}@x.de,{group},{n}\n");
    let cases: [(&str, u64, Line<'_>); 4] = [
        ("clean", 0, &|row| line(row, row % 10, 0)),
        ("5 % duplicates", ROWS / 20 - 1, &|row| line(if row % 20 == 0 { 0 } else { row }, row % 10, 0)),
        ("10 % broken foreign keys", ROWS / 10, &|row| line(row, if row % 10 == 0 { 77 } else { 1 }, 0)),
        ("every row refused", ROWS, &|row| line(row, 1, 100)),
    ];
    for (name, refused, row) in cases {
        bench.execute("TRUNCATE members").await;
        let source = Memory::new(format!("email,grp,n\n{}", (0..ROWS).map(row).collect::<String>()));
        let before = relay.trips.load(Ordering::SeqCst);
        let done = bench.import_anew(&spec(with.clone()), &source).await.unwrap();
        assert_eq!(done.counts(), [ROWS, ROWS - refused, 0, 0, refused], "{name}");
        let trips = relay.trips.load(Ordering::SeqCst) - before;
        if refused == 0 {
            clean = trips;
        }
        // The error file is read in pages of 500 rows.
        let allowed = clean + CHUNKS * MAX_EXTRA_TRIPS + refused / 500 + 2;
        assert!(trips <= allowed, "{name}: {trips} round trips, {clean} without refused rows");
    }
}
