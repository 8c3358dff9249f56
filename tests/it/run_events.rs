//! Following a run: responses that wait, inline steps, server-sent events.

use futures::StreamExt;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually};

both!(
    prefer_wait_waits_for_the_end,
    response_waits_only_for_inline_steps,
    events_follow_a_run_to_its_only_end,
    events_continue_after_a_restart,
);

/// One server-sent event.
#[derive(Debug, Default, PartialEq)]
struct Event {
    name: String,
    id: Option<i64>,
    data: Value,
}

/// Reads events until `enough` returns true, or to the end.
async fn events(response: reqwest::Response, mut enough: impl FnMut(&[Event]) -> bool) -> Vec<Event> {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut body, mut text, mut events) = (response.bytes_stream(), String::new(), Vec::new());
    while !enough(&events) {
        let Some(Ok(bytes)) = body.next().await else { break };
        text.push_str(std::str::from_utf8(&bytes).unwrap());
        while let Some(end) = text.find("\n\n") {
            let block: String = text.drain(..end + 2).collect();
            let field = |name: &str| {
                block
                    .lines()
                    .find_map(|line| line.strip_prefix(name)?.strip_prefix(':').map(|value| value.trim().to_owned()))
            };
            let Some(data) = field("data") else { continue };
            events.push(Event {
                name: field("event").unwrap_or_default(),
                id: field("id").map(|id| id.parse().unwrap()),
                data: serde_json::from_str(&data).unwrap(),
            });
        }
    }
    events
}

async fn gated(database: Database, yaml: &str) -> (TestApp, std::path::PathBuf) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = yaml.replace("GATE", &gate.display().to_string());
    (builder.pipeline("p", &yaml).start().await, gate)
}

async fn prefer_wait_waits_for_the_end(database: Database) {
    let yaml = "name: p\nsteps:\n  - { id: one, uses: test.step, with: { until: GATE } }\n";
    let (app, gate) = gated(database, yaml).await;
    let url = format!("{}/v1/pipelines/p/runs", app.url);
    let request = |wait: &str| app.client.post(&url).bearer_auth(&app.admin_key).header("prefer", wait);
    let early = request("wait=0").send().await.unwrap();
    assert_eq!((early.status().as_u16(), &early.headers()["preference-applied"]), (202, &"wait=0".parse().unwrap()));
    let early: Value = early.json().await.unwrap();
    let late = request("respond-async, wait=50").send();
    let open = async {
        eventually("the second run", async || {
            let runs: Value = app.get("/v1/runs?status=running").await.json().await.unwrap();
            (runs["runs"].as_array().unwrap().len() == 2).then_some(())
        })
        .await;
        std::fs::write(&gate, "").unwrap();
    };
    let (late, ()) = tokio::join!(late, open);
    let late = late.unwrap();
    assert_eq!(late.status(), 200);
    let run: Value = late.json().await.unwrap();
    assert_eq!((&run["status"], &run["steps"][0]["status"]), (&json!("succeeded"), &json!("succeeded")));
    app.ended(&early).await;
    app.finish().await;
}

async fn response_waits_only_for_inline_steps(database: Database) {
    let yaml = "name: p\nsteps:\n  - { id: small, uses: test.step, mode: inline, with: { give: 42, file: small.txt } }\n  \
                - { id: smaller, uses: test.step, mode: inline, with: { give: 43 } }\n  \
                - { id: large, uses: test.step, with: { until: GATE } }\n";
    let (app, gate) = gated(database, yaml).await;
    let (status, run) = app.post("/v1/pipelines/p/runs", json!({})).await;
    assert_eq!((status, &run["status"]), (202, &json!("running")), "{run}");
    assert_eq!(run["steps"][0]["outputs"]["value"], 42);
    assert_eq!(run["steps"][1]["outputs"]["value"], 43);
    assert_eq!(run["artifacts"][0]["name"], "small.txt");
    assert_eq!(run["steps"][2]["outputs"], Value::Null);
    std::fs::write(&gate, "").unwrap();
    app.ended(&run).await;
    app.finish().await;
}

async fn events_follow_a_run_to_its_only_end(database: Database) {
    let yaml = "name: p\nsteps:\n  - { id: one, uses: test.step, with: { until: GATE, units: 5 } }\n  - { id: two, uses: test.step }\n";
    let (app, gate) = gated(database, yaml).await;
    let run = app.run("p", json!({})).await;
    let watch = run["watch_url"].as_str().unwrap();
    // As a browser requests it, with only the URL.
    let response = app.client.get(watch).header("accept", "text/event-stream").send().await.unwrap();
    assert_eq!(response.headers()["access-control-allow-origin"], "*");
    assert_eq!(response.headers()["cache-control"], "no-store, no-transform");
    let followed = events(response, |events| {
        if events.iter().any(|event| event.data["status"] == "running") {
            std::fs::write(&gate, "").unwrap();
        }
        false
    })
    .await;
    let ends: Vec<_> = followed.iter().filter(|event| event.name == "end").collect();
    assert_eq!((ends.len(), &ends[0].data), (1, &json!({ "status": "succeeded" })));
    assert_eq!(followed.last(), ends.last().copied(), "nothing comes after the end");
    let ids: Vec<_> = followed.iter().filter_map(|event| event.id).collect();
    assert!(ids.is_sorted_by(|one, next| one < next), "{ids:?}");
    let done: Vec<_> =
        followed.iter().filter_map(|event| event.data["steps"][0]["progress"]["done"].as_u64()).collect();
    assert!(done.is_sorted() && done.last() == Some(&5), "{done:?}");
    let last = &followed[followed.len() - 2];
    assert_eq!((&last.data["status"], last.data["revision"].as_i64()), (&json!("succeeded"), last.id));
    // A client that has seen the end gets no further event; a client that has not, gets the end.
    let path = watch.strip_suffix(&format!("?{}", watch.split_once('?').unwrap().1)).unwrap();
    let again = |last: i64| {
        let token = watch.split_once('?').unwrap().1;
        app.client.get(format!("{path}/events?{token}")).header("last-event-id", last.to_string()).send()
    };
    assert_eq!(again(last.id.unwrap()).await.unwrap().status(), 204);
    assert_eq!(events(again(1).await.unwrap(), |_| false).await.len(), 2);
    let refused = app.client.get(format!("{path}/events?token=wrong")).send().await.unwrap();
    assert_eq!(refused.status(), 401);
    let unknown = app.get("/v1/runs/01ARZ3NDEKTSV4RRFFQ69G5FAV/events").await;
    assert_eq!(unknown.status(), 404);
    app.finish().await;
}

async fn events_continue_after_a_restart(database: Database) {
    let yaml = "name: p\nsteps:\n  - { id: one, uses: test.step, with: { until: GATE } }\n";
    let (app, gate) = gated(database, yaml).await;
    let run = app.run("p", json!({})).await;
    app.step_is(&run, "one", "running").await;
    let (path, token) = {
        let watch = run["watch_url"].as_str().unwrap();
        let (path, token) = watch.split_once('?').unwrap();
        (path.strip_prefix(&app.url).unwrap().to_owned(), token.to_owned())
    };
    let first = app.get(&format!("{path}/events")).await;
    let (before, app) = tokio::join!(events(first, |_| false), app.restart());
    let last = before.last().unwrap().id.unwrap();
    assert!(before.iter().all(|event| event.name != "end"), "a shutdown is not the end of the run");
    let url = format!("{}{path}/events?{token}", app.url);
    let response = app.client.get(url).header("last-event-id", last.to_string()).send().await.unwrap();
    std::fs::write(&gate, "").unwrap();
    let after = events(response, |_| false).await;
    assert!(after.iter().filter_map(|event| event.id).all(|id| id > last), "{after:?}");
    assert_eq!(after.last().unwrap().data, json!({ "status": "succeeded" }));
    app.finish().await;
}
