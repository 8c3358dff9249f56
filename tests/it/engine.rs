//! Runs from their creation to their end, through the real API, queue and workers, on both databases.

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, execute, log_of, numbers};

both!(
    steps_run_in_order_and_pass_outputs,
    branches_run_in_parallel_and_join,
    false_condition_skips_the_step,
    transient_failure_is_retried,
    permanent_failure_ends_the_run_and_runs_on_failure,
    success_runs_on_success_and_finally,
    continue_on_error_records_the_failure_and_continues,
    panic_fails_the_attempt_and_is_retried,
    timeout_stops_the_step,
    shutdown_parks_steps_and_restart_resumes_them,
    files_are_kept_on_success_and_deleted_on_failure,
    every_step_of_many_runs_runs_once,
    progress_never_falls_and_ends_exact,
    failing_expression_fails_the_step,
    step_that_keeps_crashing_is_quarantined,
    progress_resets_the_crash_count,
    other_steps_survive_a_crashing_step,
    removed_pipeline_starts_no_run_but_finishes_its_runs,
);

fn statuses(run: &Value) -> Vec<String> {
    let steps = run["steps"].as_array().expect("steps");
    steps
        .iter()
        .map(|step| format!("{}:{}", step["id"].as_str().unwrap_or(""), step["status"].as_str().unwrap_or("")))
        .collect()
}

/// Lists the files in which the embedded store keeps its objects.
fn bodies(app: &TestApp) -> Vec<std::path::PathBuf> {
    let folders =
        std::fs::read_dir(app.config.data.join("objects").join("bodies")).expect("the store's bodies").flatten();
    folders
        .flat_map(|folder| std::fs::read_dir(folder.path()).into_iter().flatten().flatten())
        .map(|body| body.path())
        .collect()
}

async fn app(database: Database, steps: &str) -> TestApp {
    TestApp::builder(database).pipeline("p", &format!("name: p\n{steps}")).start().await
}

async fn steps_run_in_order_and_pass_outputs(database: Database) {
    let yaml = r#"
params:
  start: { type: integer }
steps:
  - id: one
    uses: test.step
    with: { give: "${{ params.start + 1 }}" }
  - id: two
    uses: test.step
    with: { give: { from: "${{ run.pipeline }}", text: "got ${{ steps.one.value }}", number: "${{ steps.one.value * 2 }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({ "start": 20 })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(run["steps"][1]["outputs"]["value"], json!({ "from": "p", "text": "got 21", "number": 42 }));
    assert_eq!(log_of(run["id"].as_str().expect("an id")), ["one#1", "two#1"]);
    assert_eq!(run["progress"]["percent"], 100.0);
    app.finish().await;
}

async fn branches_run_in_parallel_and_join(database: Database) {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let yaml = format!(
        r#"
steps:
  - {{ id: left, uses: test.step, with: {{ until: "{0}" }} }}
  - {{ id: right, uses: test.step, needs: [], with: {{ until: "{0}" }} }}
  - {{ id: join, uses: test.step, needs: [left, right], with: {{ give: done }} }}
"#,
        gate.display()
    );
    let app = app(database, &yaml).await;
    let run = app.run("p", json!({})).await;
    eventually("both branches running", async || {
        let run = app.show(run["id"].as_str().expect("an id")).await;
        (statuses(&run) == ["left:running", "right:running", "join:waiting"]).then_some(())
    })
    .await;
    std::fs::write(&gate, "").expect("the gate opens");
    let run = app.ended(&run).await;
    assert_eq!(statuses(&run), ["left:succeeded", "right:succeeded", "join:succeeded"]);
    app.finish().await;
}

async fn false_condition_skips_the_step(database: Database) {
    let yaml = r#"
params:
  n: { type: integer }
steps:
  - { id: always, uses: test.step, with: { give: "${{ params.n }}" } }
  - { id: positive, uses: test.step, if: steps.always.value > 0, with: { give: yes } }
  - { id: after, uses: test.step, with: { give: "${{ steps.positive.value is none }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({ "n": 0 })).await;
    assert_eq!(statuses(&run), ["always:succeeded", "positive:skipped", "after:succeeded"]);
    assert_eq!(run["steps"][2]["outputs"]["value"], true);
    let run = app.run_to_end("p", json!({ "n": 1 })).await;
    assert_eq!(statuses(&run), ["always:succeeded", "positive:succeeded", "after:succeeded"]);
    assert_eq!(run["steps"][2]["outputs"]["value"], false);
    app.finish().await;
}

async fn transient_failure_is_retried(database: Database) {
    let yaml = "
defaults: { retry: { attempts: 4, delay: 10ms, max_delay: 50ms } }
steps:
  - { id: flaky, uses: test.step, with: { fail: 2, give: 1 } }
  - { id: hopeless, uses: test.step, needs: [], with: { fail: 9 } }
";
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(statuses(&run), ["flaky:succeeded", "hopeless:failed"], "{run}");
    assert_eq!(run["steps"][0]["attempt"], 3);
    assert_eq!(run["steps"][1]["attempt"], 4);
    assert_eq!(run["error"], json!({ "code": "test_transient", "message": "told to fail", "step": "hopeless" }));
    app.finish().await;
}

async fn permanent_failure_ends_the_run_and_runs_on_failure(database: Database) {
    let yaml = r#"
defaults: { retry: { attempts: 5, delay: 10ms } }
steps:
  - { id: bad, uses: test.step, with: { refuse: never } }
  - { id: after, uses: test.step }
on_success:
  - { id: cheer, uses: test.step }
on_failure:
  - { id: alarm, uses: test.step, with: { give: "${{ run.status }}: ${{ run.error.code }} in ${{ run.error.step }}" } }
finally:
  - { id: clean, uses: test.step, with: { give: "${{ steps.bad.error.message }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "failed");
    assert_eq!(
        statuses(&run),
        ["bad:failed", "after:cancelled", "cheer:skipped", "alarm:succeeded", "clean:succeeded"]
    );
    assert_eq!(run["steps"][0]["attempt"], 1);
    assert_eq!(run["steps"][3]["outputs"]["value"], "failed: test_refused in bad");
    assert_eq!(run["steps"][4]["outputs"]["value"], "never");
    app.finish().await;
}

async fn success_runs_on_success_and_finally(database: Database) {
    let yaml = r#"
steps:
  - { id: good, uses: test.step, with: { give: 7 } }
on_success:
  - { id: cheer, uses: test.step, with: { give: "${{ steps.good.value }}" } }
on_failure:
  - { id: alarm, uses: test.step }
finally:
  - { id: clean, uses: test.step, with: { give: "${{ run.status }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "succeeded");
    assert_eq!(statuses(&run), ["good:succeeded", "cheer:succeeded", "alarm:skipped", "clean:succeeded"]);
    assert_eq!(run["steps"][1]["outputs"]["value"], 7);
    assert_eq!(run["steps"][3]["outputs"]["value"], "succeeded");
    app.finish().await;
}

async fn continue_on_error_records_the_failure_and_continues(database: Database) {
    let yaml = r#"
steps:
  - { id: bad, uses: test.step, continue_on_error: true, with: { refuse: never } }
  - { id: after, uses: test.step, with: { give: { state: "${{ steps.bad.state }}", code: "${{ steps.bad.error.code }}" } } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!((&run["status"], &run["error"]), (&json!("succeeded"), &Value::Null));
    assert_eq!(statuses(&run), ["bad:failed", "after:succeeded"]);
    assert_eq!(run["steps"][1]["outputs"]["value"], json!({ "state": "failed", "code": "test_refused" }));
    app.finish().await;
}

async fn panic_fails_the_attempt_and_is_retried(database: Database) {
    let yaml = "
steps:
  - { id: shaky, uses: test.step, retry: { attempts: 2, delay: 10ms }, with: { panic: true } }
";
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(2)), "{run}");
    app.finish().await;
}

async fn timeout_stops_the_step(database: Database) {
    let yaml = "
defaults: { retry: { attempts: 1 } }
steps:
  - { id: polite, uses: test.step, timeout: 100ms, with: { wait: true } }
  - { id: rude, uses: test.step, needs: [], timeout: 100ms, with: { hang: true } }
";
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(statuses(&run), ["polite:failed", "rude:failed"]);
    for step in [0, 1] {
        assert_eq!(run["steps"][step]["error"]["code"], "step_timeout");
    }
    app.finish().await;
}

async fn shutdown_parks_steps_and_restart_resumes_them(database: Database) {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let yaml = format!(
        "
steps:
  - {{ id: long, uses: test.step, with: {{ units: 3, until: \"{}\", give: 1 }} }}
  - {{ id: next, uses: test.step }}
",
        gate.display()
    );
    let mut app = app(database, &yaml).await;
    let run = app.run("p", json!({})).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    // More shutdowns than the crashes that quarantine a step.
    for _ in 0..4 {
        eventually("the step running", async || (app.show(&id).await["steps"][0]["status"] == "running").then_some(()))
            .await;
        app = app.restart().await;
    }
    std::fs::write(&gate, "").expect("the gate opens");
    let run = app.ended(&run).await;
    assert_eq!(statuses(&run), ["long:succeeded", "next:succeeded"]);
    assert_eq!(run["steps"][0]["attempt"], 1);
    assert_eq!(log_of(&id), ["long#1", "long#1", "long#1", "long#1", "long#1", "next#1"]);
    app.finish().await;
}

async fn files_are_kept_on_success_and_deleted_on_failure(database: Database) {
    let yaml = "
steps:
  - { id: keep, uses: test.step, with: { file: kept.txt } }
  - { id: lose, uses: test.step, with: { file: lost.txt, refuse: never } }
";
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    let artifacts = run["artifacts"].as_array().expect("artifacts");
    assert_eq!(artifacts.len(), 1, "{run}");
    assert_eq!((&artifacts[0]["name"], &artifacts[0]["step"]), (&json!("kept.txt"), &json!("keep")));
    let body = app
        .client
        .get(artifacts[0]["url"].as_str().expect("a URL"))
        .bearer_auth(&app.admin_key)
        .send()
        .await
        .expect("an answer");
    assert_eq!(body.text().await.expect("text"), "made by a test\n");
    eventually("only the kept file's body on the disk", async || (bodies(&app).len() == 1).then_some(())).await;
    app.finish().await;
}

async fn every_step_of_many_runs_runs_once(database: Database) {
    let yaml = "
steps:
  - { id: a, uses: test.step }
  - { id: b, uses: test.step }
  - { id: c, uses: test.step }
";
    let app = app(database, yaml).await;
    let mut runs = Vec::new();
    for _ in 0..25 {
        runs.push(app.run("p", json!({})).await);
    }
    for run in &runs {
        let run = app.ended(run).await;
        assert_eq!(run["status"], "succeeded");
        assert_eq!(log_of(run["id"].as_str().expect("an id")), ["a#1", "b#1", "c#1"]);
    }
    app.finish().await;
}

async fn progress_never_falls_and_ends_exact(database: Database) {
    let app = app(database, "steps:\n  - { id: count, uses: test.step, with: { units: 2000 } }\n").await;
    let run = app.run("p", json!({})).await;
    let (mut last, mut revision) = (0, 0);
    let id = run["id"].as_str().expect("an id").to_owned();
    let ended = eventually("the end", async || {
        let run = app.show(&id).await;
        let done = run["steps"][0]["progress"]["done"].as_u64().unwrap_or(0);
        let seen = run["revision"].as_i64().expect("a revision");
        assert!(done >= last && done <= 2000, "progress fell from {last} to {done}");
        assert!(seen >= revision, "the revision fell from {revision} to {seen}");
        (last, revision) = (done, seen);
        (!run["finished_at"].is_null()).then_some(run)
    })
    .await;
    assert_eq!(ended["steps"][0]["progress"]["done"], 2000);
    assert_eq!(ended["steps"][0]["progress"]["percent"], 100.0);
    app.finish().await;
}

async fn failing_expression_fails_the_step(database: Database) {
    let yaml = r#"
params:
  list: { type: list, items: { type: integer } }
steps:
  - { id: first, uses: test.step, with: { give: "${{ params.list[0] + 1 }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({ "list": [] })).await;
    assert_eq!(run["steps"][0]["error"]["code"], "expression_failed", "{run}");
    app.finish().await;
}

async fn running(app: &TestApp, id: &str) {
    eventually("the step running", async || (app.show(id).await["steps"][0]["status"] == "running").then_some(()))
        .await;
}

async fn step_that_keeps_crashing_is_quarantined(database: Database) {
    let yaml = "
steps:
  - { id: deadly, uses: test.step, with: { hang: true } }
  - { id: after, uses: test.step }
finally:
  - { id: clean, uses: test.step }
";
    let builder = TestApp::builder(database).pipeline("p", &format!("name: p\n{yaml}"));
    let mut app = builder.config(|config| config.limits.crashes = 2).start().await;
    let run = app.run("p", json!({})).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    for crash in 1..=2 {
        eventually("the next attempt", async || (log_of(&id).len() == crash).then_some(())).await;
        running(&app, &id).await;
        app = app.crash().await;
    }
    let run = app.ended(&run).await;
    assert_eq!(statuses(&run), ["deadly:quarantined", "after:cancelled", "clean:succeeded"]);
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("step_quarantined")));
    app.finish().await;
}

async fn progress_resets_the_crash_count(database: Database) {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let yaml = format!(
        "name: p\nsteps:\n  - {{ id: long, uses: test.step, with: {{ climb: true, until: \"{}\" }} }}\n",
        gate.display()
    );
    let builder = TestApp::builder(database).pipeline("p", &yaml);
    let mut app = builder.config(|config| config.limits.crashes = 2).start().await;
    let run = app.run("p", json!({})).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    for crash in 1..=3 {
        eventually("progress beyond the attempt before", async || {
            (app.show(&id).await["steps"][0]["progress"]["done"] == crash).then_some(())
        })
        .await;
        app = app.crash().await;
    }
    std::fs::write(&gate, "").expect("the gate opens");
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    app.finish().await;
}

/// One crash interrupts all steps. After it they run one at a time, so that a further crash has only one possible
/// cause.
async fn other_steps_survive_a_crashing_step(database: Database) {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let innocent = |id: &str| {
        format!("  - {{ id: {id}, uses: test.step, needs: [], with: {{ until: \"{}\" }} }}\n", gate.display())
    };
    let yaml = format!(
        "name: p\nsteps:\n{}  - {{ id: deadly, uses: test.step, needs: [], with: {{ hang: true }} }}\n{}",
        innocent("a"),
        innocent("b")
    );
    let builder = TestApp::builder(database).pipeline("p", &yaml);
    let mut app = builder.config(|config| config.limits.crashes = 2).start().await;
    let run = app.run("p", json!({})).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    eventually("all three running", async || {
        (statuses(&app.show(&id).await) == ["a:running", "deadly:running", "b:running"]).then_some(())
    })
    .await;
    app = app.crash().await;
    // Interrupted steps stay `running` until they are claimed again. Then one of them runs, and the others are put
    // back.
    eventually("one suspect running alone", async || {
        let running = statuses(&app.show(&id).await).into_iter().filter(|step| step.ends_with(":running")).count();
        (running == 1).then_some(())
    })
    .await;
    // The steps that were put back are claimed again, and put back each time. By now each one was claimed at least
    // twice.
    eventually("two more turns of the others", async || {
        let sql = "SELECT CAST(SUM(claims) AS BIGINT) AS claims,
                   COUNT(CASE WHEN status = 'running' THEN 1 END) AS running FROM step_runs";
        let row = app.app.engine.db().fetch_optional(sql, &[]).await.expect("the steps").expect("a row");
        assert_eq!(row.get_int("running").expect("a count"), 1, "suspects run one at a time");
        (row.get_int("claims").expect("a sum") >= 3 + 3 + 4).then_some(())
    })
    .await;
    std::fs::write(&gate, "").expect("the gate opens");
    eventually("the deadly step's second attempt", async || {
        (log_of(&id).iter().filter(|line| *line == "deadly#1").count() == 2).then_some(())
    })
    .await;
    app = app.crash().await;
    let run = app.ended(&run).await;
    assert_eq!(statuses(&run), ["a:succeeded", "deadly:quarantined", "b:succeeded"]);
    app.finish().await;
}

async fn removed_pipeline_starts_no_run_but_finishes_its_runs(database: Database) {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let yaml = format!(
        "steps:\n  - {{ id: a, uses: test.step, with: {{ until: \"{}\" }} }}\n  - {{ id: b, uses: test.step }}\n",
        gate.display()
    );
    let app = app(database, &yaml).await;
    let run = app.run("p", json!({})).await;
    std::fs::remove_file(app.config.pipelines.join("p.yaml")).expect("the file goes");
    let app = app.restart().await;
    let answer = app
        .client
        .post(format!("{}/v1/pipelines/p/runs", app.url))
        .bearer_auth(&app.admin_key)
        .send()
        .await
        .expect("an answer");
    assert_eq!(answer.status(), 404);
    std::fs::write(&gate, "").expect("the gate opens");
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded");
    app.finish().await;
}

/// PostgreSQL plans by its statistics, which show no open step among many ended ones. With many open steps, this plan
/// must still not scan all of them for each step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn step_queries_use_the_primary_key() {
    const RUNS: i64 = 15;
    let mut app =
        app(Database::Postgres, "steps:\n  - { id: a, uses: test.step }\n  - { id: b, uses: test.step }\n").await;
    app.run_to_end("p", json!({})).await;
    let server = app.server.take().expect("a server");
    let url = server.url();
    for sql in [
        "INSERT INTO runs (id, pipeline, digest, status, origin, params, revision, created_at, started_at, finished_at)
         SELECT 'R' || n, 'p', digest, 'succeeded', 'api', '{}', 1, created_at, started_at, finished_at
         FROM runs, generate_series(1, 20000) n",
        "INSERT INTO step_runs (id, run_id, section, position, step_id, uses, queue, priority, status, finished_at)
         SELECT 'S' || n, 'R' || n, 'steps', 0, 'a', 'test.step', 'default', 0, 'succeeded', 1 FROM generate_series(1, 20000) n",
        "VACUUM ANALYZE",
    ] {
        execute(&url, sql).await;
    }
    let scans = "SELECT (SELECT idx_scan FROM pg_stat_user_indexes WHERE indexrelname = 'step_runs_pkey'),
                        (SELECT seq_tup_read FROM pg_stat_user_tables WHERE relname = 'step_runs')";
    let before = numbers(&url, scans).await;
    for _ in 0..RUNS {
        app.run_to_end("p", json!({})).await;
    }
    // A session of PostgreSQL publishes its statistics when it ends.
    app.finish().await;
    // Each step is claimed and ended by its id.
    eventually("looks by the primary key", async || {
        let after = numbers(&url, scans).await;
        assert!(after[1] - before[1] < 20_000, "all of the table was read");
        (after[0] - before[0] >= RUNS * 2 * 2).then_some(())
    })
    .await;
}
