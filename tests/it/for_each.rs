//! `for_each`: one job per item, limited concurrency, and the join.

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, log_of};

both!(
    items_run_in_parallel_and_join_in_order,
    failed_item_stops_neither_the_others_nor_the_join,
    continue_on_error_leaves_none_for_the_failed_item,
    empty_list_ends_at_once,
    invalid_or_too_many_items_fail_the_step,
    max_concurrency_is_respected,
    items_survive_shutdowns_and_crashes,
    cancel_reaches_running_and_waiting_items,
    retry_runs_only_the_failed_items,
    every_item_of_many_runs_once,
);

async fn app(database: Database, steps: &str) -> TestApp {
    TestApp::builder(database).pipeline("p", &format!("name: p\n{steps}")).start().await
}

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

/// Returns the outputs of the items in order.
fn item_values(items: &Value) -> Vec<Value> {
    items.as_array().expect("items").iter().map(|item| item["value"].clone()).collect()
}

async fn items(app: &TestApp, run: &Value, step: &str, query: &str) -> Value {
    let answer = app.get(&format!("/v1/runs/{}/steps/{step}/items{query}", id(run))).await;
    assert_eq!(answer.status(), 200);
    answer.json().await.expect("JSON")
}

async fn items_run_in_parallel_and_join_in_order(database: Database) {
    let yaml = r#"
params: { names: { type: list } }
steps:
  - id: each
    uses: test.step
    for_each: { items: "${{ params.names }}", max_concurrency: 3 }
    with: { give: "${{ index }}: ${{ item.name }}" }
  - { id: after, uses: test.step, with: { give: "${{ steps.each.items }}" } }
"#;
    let app = app(database, yaml).await;
    let names: Vec<_> = ["a", "b", "c", "d", "e"].iter().map(|name| json!({ "name": name })).collect();
    let run = app.run_to_end("p", json!({ "names": names })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let all = ["0: a", "1: b", "2: c", "3: d", "4: e"];
    assert_eq!(item_values(&run["steps"][0]["outputs"]["items"]), all);
    assert_eq!(item_values(&run["steps"][1]["outputs"]["value"]), all);
    assert_eq!(run["steps"].as_array().expect("steps").len(), 2, "items are no steps of the run");
    let progress = &run["steps"][0]["progress"];
    assert_eq!((&progress["done"], &progress["total"], &progress["unit"]), (&json!(5), &json!(5), &json!("items")));
    let page = items(&app, &run, "each", "?limit=2").await;
    assert_eq!((&page["items"][1]["item"], &page["next_cursor"]), (&json!({ "name": "b" }), &json!("1")));
    let page = items(&app, &run, "each", "?limit=200&cursor=1&status=succeeded").await;
    assert_eq!((page["items"].as_array().map(Vec::len), &page["next_cursor"]), (Some(3), &Value::Null));
    let mut log = log_of(id(&run));
    log.sort();
    assert_eq!(log, ["after#1", "each[0]#1", "each[1]#1", "each[2]#1", "each[3]#1", "each[4]#1"]);
    app.finish().await;
}

async fn failed_item_stops_neither_the_others_nor_the_join(database: Database) {
    let yaml = r#"
steps:
  - id: each
    uses: test.step
    for_each: { items: [null, /nowhere, null, null], max_concurrency: 2 }
    with: { needs_file: "${{ item }}", give: "${{ index }}" }
  - { id: after, uses: test.step }
on_failure:
  - { id: alarm, uses: test.step, with: { give: "${{ run.error.code }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("items_failed")), "{run}");
    let step = &run["steps"][0];
    assert_eq!(item_values(&step["outputs"]["items"]), [json!(0), Value::Null, json!(2), json!(3)]);
    assert_eq!(step["outputs"]["items"][1], Value::Null);
    assert_eq!(step["error"]["message"], "1 of 4 items did not succeed; the first is item 1: there is no /nowhere");
    assert_eq!(step["error"]["details"]["items"][0]["code"], "test_refused");
    assert_eq!(run["steps"][1]["status"], "cancelled");
    assert_eq!(run["steps"][2]["outputs"]["value"], "items_failed");
    let failed = items(&app, &run, "each", "?status=failed").await;
    assert_eq!((&failed["items"][0]["index"], &failed["items"][0]["attempt"]), (&json!(1), &json!(1)));
    app.finish().await;
}

async fn continue_on_error_leaves_none_for_the_failed_item(database: Database) {
    let yaml = r#"
steps:
  - id: each
    uses: test.step
    continue_on_error: true
    for_each: { items: [1, 2] }
    with: { refuse: "no", give: 1 }
  - { id: after, uses: test.step, with: { give: ["${{ steps.each.items }}", "${{ steps.each.state }}"] } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(run["steps"][1]["outputs"]["value"], json!([[null, null], "failed"]));
    app.finish().await;
}

async fn empty_list_ends_at_once(database: Database) {
    let yaml = r#"
params: { list: { type: list, default: [] } }
steps:
  - { id: each, uses: test.step, for_each: { items: "${{ params.list }}" } }
  - { id: after, uses: test.step, with: { give: "${{ steps.each.items | length }}" } }
"#;
    let app = app(database, yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!((&run["status"], &run["steps"][1]["outputs"]["value"]), (&json!("succeeded"), &json!(0)), "{run}");
    assert_eq!(items(&app, &run, "each", "").await, json!({ "items": [], "next_cursor": null }));
    app.finish().await;
}

async fn invalid_or_too_many_items_fail_the_step(database: Database) {
    let yaml = r#"
params: { what: { type: object } }
steps:
  - { id: each, uses: test.step, for_each: { items: "${{ params.what.items }}" } }
"#;
    let app = app(database, yaml).await;
    for (what, code) in [(json!(5), "items_invalid"), (json!(vec![0; 10_001]), "too_many_items")] {
        let run = app.run_to_end("p", json!({ "what": { "items": what } })).await;
        assert_eq!(run["steps"][0]["error"]["code"], code, "{run}");
    }
    app.finish().await;
}

async fn max_concurrency_is_respected(database: Database) {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let yaml = format!(
        "name: p\nsteps:\n  - {{ id: each, uses: test.step, for_each: {{ items: [1, 2, 3, 4, 5, 6], max_concurrency: 2 }}, with: {{ until: \"{}\" }} }}\n",
        gate.display()
    );
    let builder = TestApp::builder(database).pipeline("p", &yaml);
    let queue = afterload::config::QueueConfig { concurrency: 8 };
    let app = builder.config(|config| config.queues.extend([("default".into(), queue)])).start().await;
    let run = app.run("p", json!({})).await;
    eventually("two items under way", async || {
        let page = items(&app, &run, "each", "?status=running").await;
        (page["items"].as_array().map(Vec::len) == Some(2)).then_some(())
    })
    .await;
    let waiting = items(&app, &run, "each", "?status=waiting").await;
    assert_eq!(waiting["items"].as_array().map(Vec::len), Some(4));
    assert_eq!(app.app.engine.count_jobs().await.expect("the queue"), 2, "only what may run is in the queue");
    std::fs::write(&gate, "").expect("the gate opens");
    assert_eq!(app.ended(&run).await["status"], "succeeded");
    app.finish().await;
}

async fn items_survive_shutdowns_and_crashes(database: Database) {
    let dir = tempfile::tempdir().expect("a folder");
    let gate = dir.path().join("gate");
    let yaml = format!(
        "name: p\nsteps:\n  - {{ id: each, uses: test.step, for_each: {{ items: [1, 2, 3, 4, 5] }}, with: {{ until: \"{}\", give: \"${{{{ item }}}}\" }} }}\n",
        gate.display()
    );
    let builder = TestApp::builder(database).pipeline("p", &yaml);
    let mut app = builder.config(|config| config.limits.crashes = 10).start().await;
    let run = app.run("p", json!({})).await;
    let some = async |app: &TestApp| {
        eventually("an item under way", async || {
            let page = items(app, &run, "each", "?status=running").await;
            page["items"].as_array().is_some_and(|items| !items.is_empty()).then_some(())
        })
        .await;
    };
    some(&app).await;
    app = app.restart().await;
    some(&app).await;
    app = app.crash().await;
    some(&app).await;
    std::fs::write(&gate, "").expect("the gate opens");
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(item_values(&run["steps"][0]["outputs"]["items"]), [1, 2, 3, 4, 5]);
    app.finish().await;
}

async fn cancel_reaches_running_and_waiting_items(database: Database) {
    let yaml = "
steps:
  - { id: each, uses: test.step, for_each: { items: [1, 2, 3, 4], max_concurrency: 2 }, with: { wait: true } }
finally:
  - { id: clean, uses: test.step, for_each: { items: [1, 2] } }
";
    let app = app(database, yaml).await;
    let run = app.run("p", json!({})).await;
    eventually("two items under way", async || {
        let page = items(&app, &run, "each", "?status=running").await;
        (page["items"].as_array().map(Vec::len) == Some(2)).then_some(())
    })
    .await;
    let (status, _) = app.post(&format!("/v1/runs/{}/cancel", id(&run)), json!({})).await;
    assert!(matches!(status, 200 | 202));
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "cancelled", "{run}");
    assert_eq!((&run["steps"][0]["status"], &run["steps"][1]["status"]), (&json!("cancelled"), &json!("succeeded")));
    let cancelled = items(&app, &run, "each", "?status=cancelled").await;
    assert_eq!(cancelled["items"].as_array().map(Vec::len), Some(4));
    assert_eq!(log_of(id(&run)).iter().filter(|line| line.starts_with("each")).count(), 2);
    app.finish().await;
}

async fn retry_runs_only_the_failed_items(database: Database) {
    let dir = tempfile::tempdir().expect("a folder");
    let mended = dir.path().join("mended");
    let yaml = format!(
        "
steps:
  - id: each
    uses: test.step
    for_each: {{ items: [\"{0}\", null] }}
    with: {{ needs_file: \"${{{{ item }}}}\", give: \"${{{{ index }}}}\" }}
  - {{ id: after, uses: test.step }}
",
        mended.display()
    );
    let app = app(database, &yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["steps"][0]["outputs"]["items"], json!([null, { "value": 1, "file": null }]), "{run}");
    std::fs::write(&mended, "").expect("what failed is mended");
    let (status, _) = app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    assert!(matches!(status, 200 | 202));
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert_eq!(item_values(&run["steps"][0]["outputs"]["items"]), [0, 1]);
    let log = log_of(id(&run));
    let count = |line: &str| log.iter().filter(|known| known.starts_with(line)).count();
    assert_eq!((count("each[0]"), count("each[1]"), count("after")), (2, 1, 1), "{log:?}");
    app.finish().await;
}

async fn every_item_of_many_runs_once(database: Database) {
    let yaml = r#"
params: { list: { type: list } }
steps:
  - { id: each, uses: test.step, for_each: { items: "${{ params.list }}", max_concurrency: 50 }, with: { give: "${{ item }}" } }
"#;
    let app = app(database, yaml).await;
    let list: Vec<u32> = (0..1000).collect();
    let run = app.run_to_end("p", json!({ "list": list })).await;
    assert_eq!(run["status"], "succeeded", "{}", run["error"]);
    assert_eq!(item_values(&run["steps"][0]["outputs"]["items"]), list);
    assert_eq!(log_of(id(&run)).len(), 1000);
    app.finish().await;
}
