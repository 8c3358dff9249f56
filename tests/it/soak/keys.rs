//! Figure 8: many concurrent requests with one `Idempotency-Key`.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};

use super::figure;
use crate::support::{Database, Place, both};

both!(figure_8_one_key_starts_one_run);

const REQUESTS: usize = 100;

async fn figure_8_one_key_starts_one_run(database: Database) {
    let place = Place::new(database).await;
    place.pipeline(
        "keyed",
        "name: keyed\nparams: { n: { type: integer } }\nsteps:\n  - { id: mail, uses: email.send, with: { to: a@example.com, subject: \"${{ params.n }}\", body: hello } }\n",
    );
    let process = place.start().await;
    let post = |n: u32| {
        let request = process.request(Method::POST, "/v1/pipelines/keyed/runs").header("idempotency-key", "one");
        request.json(&json!({ "params": { "n": n } })).send()
    };
    let answers = futures::future::join_all((0..REQUESTS).map(|_| post(1))).await;
    let (mut ids, mut accepted) = (BTreeSet::new(), 0);
    for answer in answers {
        let answer = answer.expect("an answer");
        accepted += usize::from(answer.status() == 202);
        let run: Value = answer.json().await.expect("JSON");
        ids.insert(run["id"].to_string());
    }
    let other = post(2).await.expect("an answer").status().as_u16();
    let runs = process.get("/v1/runs?pipeline=keyed&limit=100").await["runs"].as_array().expect("runs").len();
    let what = "100 requests with one key: accepted, different answers, runs, answer to another body";
    figure("8", database, what, &[REQUESTS, 1, 1, 422], &[accepted, ids.len(), runs, usize::from(other)]);
    assert!(process.terminate().await.success());
}
