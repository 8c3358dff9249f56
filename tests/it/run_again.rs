//! Runs that are mended: retried with the live definition, and replayed as new runs.

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, log_of};

both!(
    live_retry_goes_on_with_the_mended_definition,
    live_retry_is_refused_where_finished_steps_do_not_fit,
    live_retry_binds_the_params_anew,
    live_retry_keeps_the_queue_and_the_items_of_the_run,
    replay_starts_a_run_with_the_same_or_changed_params,
    replay_reads_the_files_of_the_earlier_run,
    replay_of_an_expired_file_is_refused,
    replay_needs_the_scopes_of_reading_and_starting,
);

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

fn statuses(run: &Value) -> Vec<String> {
    let steps = run["steps"].as_array().expect("steps").iter();
    steps.map(|step| format!("{}:{}", step["id"].as_str().unwrap(), step["status"].as_str().unwrap())).collect()
}

/// How often a step of the run has begun.
fn starts(run: &Value, step: &str) -> usize {
    log_of(id(run)).iter().filter(|line| line.starts_with(&format!("{step}#"))).count()
}

/// Replaces the definition of `p` and waits until it is live.
async fn publish(app: &TestApp, text: &str) {
    std::fs::write(app.config.pipelines.join("p.yaml"), text).unwrap();
    eventually("the new definition", async || {
        let live: Value = app.get("/v1/pipelines/p").await.json().await.unwrap();
        (live["source"] == text).then_some(())
    })
    .await;
}

async fn retry_live(app: &TestApp, run: &Value) -> (u16, Value) {
    app.post(&format!("/v1/runs/{}/retry?definition=live", id(run)), json!({})).await
}

async fn replay(app: &TestApp, run: &Value, body: Value) -> (u16, Value) {
    app.post(&format!("/v1/runs/{}/replay", id(run)), body).await
}

const BROKEN: &str = "
name: p
params: { who: { type: string } }
steps:
  - { id: first, uses: test.step, with: { give: 7 } }
  - { id: second, uses: test.step, with: { refuse: broken } }
  - { id: third, uses: test.step }
on_failure:
  - { id: alarm, uses: test.step }
finally:
  - { id: clean, uses: test.step }
";

const MENDED: &str = "
name: p
params: { who: { type: string }, greeting: { type: string, default: hello } }
steps:
  - { id: extra, uses: test.step }
  - { id: first, uses: test.step, with: { give: 8 } }
  - { id: second, uses: test.step, with: { give: \"${{ params.greeting }} ${{ params.who }} ${{ steps.first.value }}\" } }
on_success:
  - { id: cheer, uses: test.step }
finally:
  - { id: clean, uses: test.step }
";

async fn live_retry_goes_on_with_the_mended_definition(database: Database) {
    let app = TestApp::builder(database).pipeline("p", BROKEN).start().await;
    let run = app.run_to_end("p", json!({ "who": "Ana" })).await;
    let failed = ["first:succeeded", "second:failed", "third:cancelled", "alarm:succeeded", "clean:succeeded"];
    assert_eq!(statuses(&run), failed);
    publish(&app, MENDED).await;
    // By itself a retry keeps the definition of the run.
    let (status, body) = app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    assert_eq!(status, 202, "{body}");
    assert_eq!(statuses(&app.ended(&run).await), failed);
    let (status, body) = retry_live(&app, &run).await;
    assert_eq!(status, 202, "{body}");
    let run = app.ended(&run).await;
    let ended = ["extra:succeeded", "first:succeeded", "second:succeeded", "cheer:succeeded", "clean:succeeded"];
    assert_eq!((statuses(&run), &run["status"]), (ended.map(str::to_owned).to_vec(), &json!("succeeded")));
    let outputs = |index: usize| run["steps"][index]["outputs"]["value"].clone();
    assert_eq!(outputs(1), 7, "what was finished stays");
    assert_eq!(outputs(2), "hello Ana 7");
    assert_eq!(["extra", "first", "second", "third", "clean"].map(|step| starts(&run, step)), [1, 1, 3, 0, 3]);
    assert_eq!(run["params"], json!({ "who": "Ana", "greeting": "hello" }));
    let (status, problem) = retry_live(&app, &run).await;
    assert_eq!((status, &problem["code"]), (409, &json!("run_succeeded")));
    app.finish().await;
}

async fn live_retry_is_refused_where_finished_steps_do_not_fit(database: Database) {
    let steps = |lines: &str| {
        format!("name: p\nsteps:\n{lines}  - {{ id: last, uses: test.step, with: {{ refuse: broken }} }}\n")
    };
    let before = steps(
        "  - { id: named, uses: test.step }
  - { id: kind, uses: test.step }
  - { id: gone, uses: wait, with: { for: 1ms } }
  - { id: list, uses: test.step }
",
    );
    let app = TestApp::builder(database).pipeline("p", &before).start().await;
    let run = app.run_to_end("p", json!({})).await;
    let failed = ["named:succeeded", "kind:succeeded", "gone:succeeded", "list:succeeded", "last:failed"];
    assert_eq!(statuses(&run), failed);
    publish(
        &app,
        &steps(
            "  - { id: renamed, uses: test.step }
  - { id: kind, uses: wait, with: { for: 1ms } }
  - { id: list, uses: test.step, for_each: { items: [1] } }
",
        ),
    )
    .await;
    let (status, problem) = retry_live(&app, &run).await;
    assert_eq!((status, &problem["code"]), (409, &json!("definition_mismatch")), "{problem}");
    let details = problem["details"].as_array().unwrap().iter();
    let reasons: Vec<_> = details.map(|one| format!("{}: {}", one["step"], one["reason"])).collect();
    let expected = ["named: renamed", "kind: kind_changed", "gone: missing", "list: for_each_changed"];
    assert_eq!(reasons.iter().map(|line| line.replace('"', "")).collect::<Vec<_>>(), expected);
    assert!(problem["details"][0]["message"].as_str().unwrap().contains("`renamed` may be its new name"), "{problem}");
    let same = app.show(id(&run)).await;
    assert_eq!((&same["revision"], statuses(&same)), (&run["revision"], statuses(&run)), "nothing has changed");
    // The step that failed may change in every way.
    publish(&app, &before.replace("uses: test.step, with: { refuse: broken }", "uses: wait, with: { for: 1ms }")).await;
    assert_eq!(retry_live(&app, &run).await.0, 202);
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], &run["steps"][4]["uses"]), (&json!("succeeded"), &json!("wait")));
    app.finish().await;
}

async fn live_retry_binds_the_params_anew(database: Database) {
    let text = |params: &str, with: &str| {
        format!("name: p\nparams: {{ {params} }}\nsteps: [{{ id: one, uses: test.step, with: {{ {with} }} }}]\n")
    };
    let app = TestApp::builder(database).pipeline("p", &text("n: { type: string }", "refuse: broken")).start().await;
    let run = app.run_to_end("p", json!({ "n": "7" })).await;
    assert_eq!(run["status"], "failed", "{run}");
    // A new param without a default has no value.
    publish(&app, &text("n: { type: string }, more: { type: string }", "give: 1")).await;
    let (status, problem) = retry_live(&app, &run).await;
    assert_eq!((status, &problem["code"]), (422, &json!("params_invalid")), "{problem}");
    std::fs::remove_file(app.config.pipelines.join("p.yaml")).unwrap();
    eventually("no live pipeline", async || (app.get("/v1/pipelines/p").await.status() == 404).then_some(())).await;
    let (status, problem) = retry_live(&app, &run).await;
    assert_eq!((status, &problem["code"]), (404, &json!("pipeline_not_found")), "{problem}");
    let (status, problem) = app.post(&format!("/v1/runs/{}/retry?definition=other", id(&run)), json!({})).await;
    assert_eq!((status, &problem["code"]), (400, &json!("query_invalid")), "{problem}");
    // Another type takes the value, if it can.
    publish(&app, &text("n: { type: integer }", "give: \"${{ params.n + 1 }}\"")).await;
    assert_eq!(retry_live(&app, &run).await.0, 202);
    let run = app.ended(&run).await;
    assert_eq!((&run["params"], &run["steps"][0]["outputs"]["value"]), (&json!({ "n": 7 }), &json!(8)), "{run}");
    app.finish().await;
}

async fn live_retry_keeps_the_queue_and_the_items_of_the_run(database: Database) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let text = |more: &str| {
        let needs = format!("for_each: {{ items: [null, \"{}\"] }}", gate.display());
        let with = "with: { needs_file: \"${{ item }}\" }";
        format!("name: p\nsteps:\n  - {{ id: each, uses: test.step, {needs}, {with} }}\n{more}")
    };
    let builder = builder.pipeline("p", &text("")).config(|config| {
        config.queues.insert("special".into(), afterload::config::QueueConfig::default());
    });
    let app = builder.start().await;
    let (status, run) = app.post("/v1/pipelines/p/runs", json!({ "queue": "special", "priority": 3 })).await;
    assert_eq!(status, 202, "{run}");
    let run = app.ended(&run).await;
    assert_eq!(statuses(&run), ["each:failed"], "{run}");
    publish(&app, &text("  - { id: after, uses: test.step }\n")).await;
    std::fs::write(&gate, "").unwrap();
    assert_eq!(retry_live(&app, &run).await.0, 202);
    let run = app.ended(&run).await;
    assert_eq!(statuses(&run), ["each:succeeded", "after:succeeded"], "{run}");
    let steps = app.app.engine.db().steps().list(id(&run)).await.unwrap();
    for step in steps {
        assert_eq!((step.queue.as_str(), step.priority), ("special", 3), "{}", step.step_id);
    }
    // The item that had succeeded did not run again.
    assert_eq!(log_of(id(&run)).iter().filter(|line| line.starts_with("each")).count(), 3);
    app.finish().await;
}

async fn replay_starts_a_run_with_the_same_or_changed_params(database: Database) {
    let yaml = "
name: p
triggers: [{ type: event, name: went, with: { text: \"${{ event.text }}\" } }]
params: { text: { type: string }, n: { type: integer, default: 1 }, note: { type: string, required: false } }
steps: [{ id: one, uses: test.step, with: { give: \"${{ params.text }} ${{ params.n }} ${{ params.note }}\" } }]
";
    let app = TestApp::builder(database).pipeline("p", yaml).start().await;
    let first = app.run_to_end("p", json!({ "text": "a", "note": "x" })).await;
    let (status, second) = replay(&app, &first, json!({})).await;
    assert_eq!((status, &second["origin"]), (202, &json!(format!("replay of {}", id(&first)))), "{second}");
    assert!(second["watch_url"].as_str().unwrap().contains(id(&second)));
    let second = app.ended(&second).await;
    assert_eq!((&second["params"], &second["steps"][0]["outputs"]), (&first["params"], &first["steps"][0]["outputs"]));
    assert_ne!(second["id"], first["id"]);
    let listed: Value = app.get("/v1/runs").await.json().await.unwrap();
    assert_eq!(listed["runs"][0]["origin"], second["origin"]);
    // Changed params replace those of the run, and null leaves one out.
    let (status, third) = replay(&app, &second, json!({ "params": { "n": 5, "note": null } })).await;
    assert_eq!((status, &third["origin"]), (202, &json!(format!("replay of {}", id(&second)))), "{third}");
    let third = app.ended(&third).await;
    assert_eq!(third["params"], json!({ "text": "a", "n": 5, "note": null }));
    for params in [json!({ "n": "x" }), json!({ "text": null }), json!({ "other": 1 })] {
        let (status, problem) = replay(&app, &first, json!({ "params": params })).await;
        assert_eq!((status, &problem["code"]), (422, &json!("params_invalid")), "{problem}");
    }
    let (status, problem) = replay(&app, &first, json!({ "param": {} })).await;
    assert_eq!((status, &problem["code"]), (400, &json!("json_invalid")), "{problem}");
    let (status, problem) = replay(&app, &json!({ "id": "01ARZ3NDEKTSV4RRFFQ69G5FAV" }), json!({})).await;
    assert_eq!((status, &problem["code"]), (404, &json!("run_not_found")), "{problem}");
    // The event of the run counts again.
    let (_, heard) = app.post("/v1/events/went", json!({ "text": "b" })).await;
    let told = app.ended(&json!({ "id": heard["runs"][0] })).await;
    let (_, again) = replay(&app, &told, json!({})).await;
    assert_eq!(app.ended(&again).await["event"], told["event"]);
    // One key starts one run.
    let url = format!("{}/v1/runs/{}/replay", app.url, id(&first));
    let send = async |n: u32| {
        let request = app.client.post(&url).bearer_auth(&app.admin_key).header("idempotency-key", "again");
        request.json(&json!({ "params": { "n": n } })).send().await.unwrap().json::<Value>().await.unwrap()
    };
    let (one, other) = (send(2).await, send(2).await);
    assert_eq!(id(&one), id(&other));
    assert_eq!(send(3).await["code"], "idempotency_key_reused");
    app.ended(&one).await;
    app.finish().await;
}

const CHECKED: &str = "
name: p
params: { file: { type: file } }
steps: [{ id: check, uses: file.check, with: { source: \"${{ params.file }}\" } }]
";

async fn replay_reads_the_files_of_the_earlier_run(database: Database) {
    let app = TestApp::builder(database).pipeline("p", CHECKED).start().await;
    let uploaded = app.upload("p", "a.txt", b"abc".to_vec()).await;
    let uploaded = app.ended(&uploaded).await;
    assert_eq!(uploaded["status"], "succeeded", "{uploaded}");
    // A replay of a replay has seals of its own, too.
    let mut last = uploaded.clone();
    for _ in 0..2 {
        let (status, run) = replay(&app, &last, json!({})).await;
        assert_eq!(status, 202, "{run}");
        last = app.ended(&run).await;
        assert_eq!((&last["status"], &last["params"]), (&json!("succeeded"), &uploaded["params"]), "{last}");
        assert_eq!(last["steps"][0]["outputs"], uploaded["steps"][0]["outputs"]);
    }
    // An object of a bucket is still the one that the earlier run was given.
    let objects = app.app.engine.objects();
    objects.ensure_bucket("inbox").await.unwrap();
    objects.put_object("inbox", "b.txt", "text/plain", "one".into()).await.unwrap();
    let named = app.run_to_end("p", json!({ "file": "s3://inbox/b.txt" })).await;
    let (status, run) = replay(&app, &named, json!({})).await;
    assert_eq!(status, 202, "{run}");
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    objects.put_object("inbox", "b.txt", "text/plain", "two".into()).await.unwrap();
    let (status, problem) = replay(&app, &named, json!({})).await;
    assert_eq!((status, &problem["code"]), (422, &json!("object_changed")), "{problem}");
    let (status, run) = replay(&app, &named, json!({ "params": { "file": "s3://inbox/b.txt" } })).await;
    assert_eq!(status, 202, "{run}");
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    app.finish().await;
}

async fn replay_of_an_expired_file_is_refused(database: Database) {
    let app = TestApp::builder(database).pipeline("p", CHECKED).start().await;
    let first = app.upload("p", "a.txt", b"abc".to_vec()).await;
    let first = app.ended(&first).await;
    app.app.engine.db().execute("UPDATE runs SET retention_artifacts_ms = 0", &[]).await.unwrap();
    let artifact = format!("/v1/artifacts/{}", first["params"]["file"]["artifact_id"].as_str().unwrap());
    eventually("the file to expire", async || (app.get(&artifact).await.status() == 410).then_some(())).await;
    let (status, problem) = replay(&app, &first, json!({})).await;
    assert_eq!((status, &problem["code"]), (410, &json!("file_expired")), "{problem}");
    assert!(problem["detail"].as_str().unwrap().starts_with("`file`"), "{problem}");
    // Another file mends that.
    let objects = app.app.engine.objects();
    objects.ensure_bucket("inbox").await.unwrap();
    objects.put_object("inbox", "b.txt", "text/plain", "two".into()).await.unwrap();
    let (status, run) = replay(&app, &first, json!({ "params": { "file": "s3://inbox/b.txt" } })).await;
    assert_eq!(status, 202, "{run}");
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    app.finish().await;
}

async fn replay_needs_the_scopes_of_reading_and_starting(database: Database) {
    let app = TestApp::builder(database).pipeline("p", CHECKED).start().await;
    let first = app.upload("p", "a.txt", b"abc".to_vec()).await;
    let first = app.ended(&first).await;
    let key = async |scopes: &[&str]| {
        let scopes: Vec<_> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let (stored, text) = afterload_server::api::create_api_key("test", &scopes, &[], 0).unwrap();
        app.app.engine.db().api_keys().insert(&stored).await.unwrap();
        text
    };
    let replay_with = async |key: String| {
        let request = app.client.post(format!("{}/v1/runs/{}/replay", app.url, id(&first))).bearer_auth(key);
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json::<Value>().await.unwrap())
    };
    for (scopes, refused) in [
        (&["runs:read:p"][..], (403, "scope_missing")),
        (&["runs:write:p"], (403, "scope_missing")),
        (&["runs:read:q", "runs:write:p"], (404, "run_not_found")),
    ] {
        let (status, problem) = replay_with(key(scopes).await).await;
        assert_eq!((status, problem["code"].as_str().unwrap()), refused, "{scopes:?}: {problem}");
    }
    let (status, run) = replay_with(key(&["runs:read:p", "runs:write:p"]).await).await;
    assert_eq!(status, 202, "{run}");
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    app.finish().await;
}
