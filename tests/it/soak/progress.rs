//! Figure 11: the progress as a client sees it ten times a second, while the service is killed.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use serde_json::Value;
use tokio::task::JoinSet;

use super::{figure, size};
use crate::crash;
use crate::support::{ADMIN_KEY, Database, both, http_client};

both!(figure_11_progress_never_falls);

/// The revision of the run, and `done` and `total` of the step.
type Seen = (u64, u64, Option<u64>);

fn seen(run: &Value) -> Seen {
    let progress = &run["steps"][0]["progress"];
    (run["revision"].as_u64().unwrap_or(0), progress["done"].as_u64().unwrap_or(0), progress["total"].as_u64())
}

/// Follows a run by server-sent events and reconnects, as a browser does. Returns the events and the number of ends.
async fn follow(url: String, id: String) -> (Vec<Seen>, usize) {
    let (client, mut last, mut all, mut ends) = (http_client(), None::<String>, Vec::new(), 0);
    loop {
        let mut request = client.get(format!("{url}/v1/runs/{id}/events")).bearer_auth(ADMIN_KEY);
        if let Some(last) = &last {
            request = request.header("last-event-id", last);
        }
        let Ok(answer) = request.send().await else {
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        if answer.status() == 204 {
            return (all, ends);
        }
        let (mut body, mut text) = (answer.bytes_stream(), String::new());
        while let Some(Ok(bytes)) = body.next().await {
            text.push_str(&String::from_utf8_lossy(&bytes));
            while let Some(end) = text.find("\n\n") {
                let block: String = text.drain(..end + 2).collect();
                let field = |name: &str| {
                    block
                        .lines()
                        .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                        .map(|it| it.trim().to_owned())
                };
                last = field("id").or(last);
                if field("event").as_deref() == Some("end") {
                    ends += 1;
                } else if let Some(run) = field("data").and_then(|data| serde_json::from_str(&data).ok()) {
                    all.push(seen(&run));
                }
            }
        }
    }
}

/// Counts how often revision or progress decreased, and how often progress exceeded its total.
fn faults(all: &[Seen]) -> [usize; 2] {
    let fell = all.windows(2).filter(|pair| pair[1].0 < pair[0].0 || pair[1].1 < pair[0].1).count();
    let above = all.iter().filter(|(_, done, total)| total.is_some_and(|total| *done > total)).count();
    [fell, above]
}

async fn figure_11_progress_never_falls(database: Database) {
    let kills = size(4, 20) as u64;
    let place = crash::place(database).await;
    let file = place.dir.path().join("people.csv");
    crash::people(&file, crash::ROWS);
    let port = std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let listen = port.to_string();
    let mut process = place.start_at(&listen).await;
    let id = process.upload("people", &file).await["id"].as_str().expect("an id").to_owned();
    let mut tasks = JoinSet::new();
    tasks.spawn(follow(process.url.clone(), id.clone()));
    let polled = Arc::<Mutex<Vec<Seen>>>::default();
    let mut killed = 0;
    let ended = loop {
        let answer = process.request(Method::GET, &format!("/v1/runs/{id}")).send().await.expect("an answer");
        let run: Value = answer.json().await.expect("JSON");
        polled.lock().expect("what was seen").push(seen(&run));
        if !run["finished_at"].is_null() {
            break run;
        }
        // All kills happen in the first two thirds. Progress is stored twice a second, so it may jump from there to the
        // end.
        if killed < kills && crash::rows(&run) >= crash::ROWS * 2 * (killed + 1) / (3 * (kills + 1)) {
            killed += 1;
            process.kill().await;
            place.forget_the_dead().await;
            process = place.start_at(&listen).await;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let (followed, ends) = tasks.join_next().await.expect("a follower").expect("it ends");
    let polled = polled.lock().expect("what was seen").clone();
    let (from_polls, from_events) = (faults(&polled), faults(&followed));
    let progress = &ended["steps"][0]["progress"];
    let whole = progress["done"] == progress["total"] && progress["counts"]["rows"].as_u64() == Some(crash::ROWS);
    let what =
        format!("progress through {kills} kills, {} polls: fell, above its total; the same by events", polled.len());
    figure("11", database, &what, &[0; 4], &[from_polls[0], from_polls[1], from_events[0], from_events[1]]);
    let found = (killed, whole, ends, followed.last().map(|seen| seen.0) == ended["revision"].as_u64());
    figure(
        "11",
        database,
        "kills, ends at the truth, terminal events, the last event is the end",
        &(kills, true, 1, true),
        &found,
    );
    assert!(process.terminate().await.success());
}
