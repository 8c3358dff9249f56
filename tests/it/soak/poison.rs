//! Figure 5: a step that keeps crashing its process is quarantined without effect on other runs. Deployments do not
//! count as crashes.

use serde_json::{Value, json};

use super::{figure, size};
use crate::crash;
use crate::support::{Database, Place, PollPauses, Process, both};

both!(figure_5_poison_step_is_quarantined, figure_5_deployments_do_not_count_as_crashes);

/// Restarts the process until the runs have ended. Returns the runs and the number of crashes.
async fn survive(place: &Place, mut process: Process, ids: &[String]) -> (Vec<Value>, usize, Process) {
    let (mut deaths, mut pauses) = (0, PollPauses::default());
    let deadline = std::time::Instant::now() + std::time::Duration::from_secs(200);
    loop {
        if process.is_dead() {
            deaths += 1;
            place.forget_the_dead().await;
            process = loop {
                // The process may crash before it is up.
                if let Some(process) = place.try_start().await {
                    break process;
                }
                deaths += 1;
                place.forget_the_dead().await;
            };
        }
        let mut runs = Vec::new();
        for id in ids {
            let answer = process.request(reqwest::Method::GET, &format!("/v1/runs/{id}")).send().await;
            let Ok(answer) = answer else { break };
            let Ok(run) = answer.json::<Value>().await else { break };
            if run["finished_at"].is_null() {
                break;
            }
            runs.push(run);
        }
        if runs.len() == ids.len() {
            return (runs, deaths, process);
        }
        assert!(std::time::Instant::now() < deadline, "stuck\n{}", place.log());
        pauses.pause().await;
    }
}

async fn figure_5_poison_step_is_quarantined(database: Database) {
    let innocents = size(30, 100);
    let mut place = Place::new(database).await;
    place.set("LIMITS__CRASHES", "3");
    place.set("CRASH_AT", "step.start deadly");
    let mail = "uses: email.send, with: { to: a@example.com, subject: hello, body: hello }";
    place.pipeline("innocent", &format!("name: innocent\nsteps: [{{ id: mail, {mail} }}]\n"));
    place.pipeline("poison", &format!("name: poison\nsteps: [{{ id: deadly, {mail} }}]\n"));
    let process = place.start().await;
    let mut ids = Vec::new();
    for number in 0..innocents {
        ids.push(process.start_run("innocent", json!({})).await["id"].as_str().expect("an id").to_owned());
        if number == innocents / 2 {
            // The step crashes the process at once, so let the response of its request arrive first.
            let due = chrono::Utc::now() + chrono::Duration::seconds(2);
            let body = json!({ "run_at": due.to_rfc3339_opts(chrono::SecondsFormat::Millis, true) });
            let path = "/v1/pipelines/poison/runs";
            let run = process.request(reqwest::Method::POST, path).json(&body).send().await.expect("an answer");
            let run: Value = run.json().await.expect("JSON");
            ids.push(run["id"].as_str().unwrap_or_else(|| panic!("{run}")).to_owned());
        }
    }
    let (runs, deaths, process) = survive(&place, process, &ids).await;
    let count = |status: &str| runs.iter().filter(|run| run["steps"][0]["status"] == status).count();
    let found = [deaths, count("quarantined"), count("succeeded")];
    figure(
        "5",
        database,
        "crashes of a poisonous step, quarantined, others that succeeded",
        &[3, 1, innocents],
        &found,
    );
    assert!(process.terminate().await.success());
}

async fn figure_5_deployments_do_not_count_as_crashes(database: Database) {
    let mut place = crash::place(database).await;
    place.set("LIMITS__CRASHES", "3");
    let file = place.dir.path().join("people.csv");
    let (sum, bad) = crash::people(&file, crash::ROWS);
    let mut process = place.start().await;
    let id = process.upload("people", &file).await["id"].as_str().expect("an id").to_owned();
    let mut deployments = 0;
    for part in 1..=4 {
        let wanted = crash::ROWS * part / 6;
        let ended = process
            .until("progress", &id, |run| {
                let ended = !run["finished_at"].is_null();
                (ended || crash::rows(run) >= wanted).then_some(ended)
            })
            .await;
        deployments += usize::from(!ended);
        assert!(process.terminate().await.success());
        process = place.start().await;
    }
    let run = process.until("the end", &id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    let found = place.numbers("SELECT COUNT(*), CAST(SUM(amount) AS BIGINT) FROM people").await;
    let status = run["status"].as_str().unwrap_or_default().to_owned();
    let (wanted, found) =
        ((true, "succeeded".to_owned(), vec![(crash::ROWS - bad) as i64, sum]), (deployments >= 3, status, found));
    figure("5", database, "three deployments under a long import: deployed, end, rows and sum", &wanted, &found);
    assert!(process.terminate().await.success());
}
