//! Limits, cancellations and crashes: a report is complete or absent.

use serde_json::{Value, json};

use super::{ENDLESS, RUNNING_COPIES, SILENT, app, failure, file, pipeline, read, run, stored};
use crate::support::{ADMIN_KEY, Database, Place, both, eventually, http_client, numbers};

both!(
    too_many_rows_fail_and_leave_no_file,
    skip_if_empty_creates_no_file,
    cancel_stops_the_query,
    kill_during_the_upload_leaves_no_file,
    progress_counts_rows
);

async fn too_many_rows_fail_and_leave_no_file(database: Database) {
    let app = app(database, "").await;
    for format in ["csv", "xlsx", "jsonl"] {
        // More than one part of the upload is in progress by then.
        let with = json!({ "sql": ENDLESS, "format": format, "max_rows": 200_000, "timeout": "10m" });
        assert_eq!(failure(&app, with).await, "report_too_many_rows", "{format}");
    }
    let sql = "SELECT 1 AS a UNION ALL SELECT 2 UNION ALL SELECT 3";
    assert_eq!(failure(&app, json!({ "sql": sql, "format": "csv", "max_rows": 2 })).await, "report_too_many_rows");
    let (outputs, _) = file(&app, json!({ "sql": sql, "format": "csv", "max_rows": 3 })).await;
    assert_eq!(outputs["rows"], 3);
    app.finish().await;
}

async fn skip_if_empty_creates_no_file(database: Database) {
    let app = app(database, "CREATE TABLE t (id BIGINT)").await;
    for format in ["csv", "xlsx", "jsonl"] {
        let with = json!({ "sql": "SELECT id FROM t", "format": format, "skip_if_empty": true });
        let run = run(&app, with).await;
        assert_eq!(
            run["steps"][0]["outputs"],
            json!({ "file": null, "rows": 0, "size": 0, "cut_cells": 0, "groups": [] }),
            "{run}"
        );
        assert_eq!(stored(&app).await, Vec::<String>::new());
    }
    let (outputs, bytes) = file(&app, json!({ "sql": "SELECT id FROM t", "format": "csv" })).await;
    assert_eq!((&outputs["rows"], bytes.as_slice()), (&json!(0), &b"id\n"[..]));
    let (_, bytes) = file(&app, json!({ "sql": "SELECT id FROM t", "format": "xlsx" })).await;
    assert_eq!(read("xlsx", &bytes), json!({ "Sheet1": [["id"]] }));
    let (_, bytes) = file(&app, json!({ "sql": "SELECT id FROM t", "format": "jsonl", "compress": "gzip" })).await;
    assert_eq!(read("gzip", &bytes), json!([]), "an archive of nothing is still one");
    app.finish().await;
}

async fn cancel_stops_the_query(database: Database) {
    let app = app(database, "").await;
    for sql in [ENDLESS, SILENT] {
        app.publish(
            "p",
            &pipeline(&json!({ "sql": sql, "format": "csv", "timeout": "1h", "max_rows": 1_000_000_000 })),
        )
        .await;
        let run = app.run("p", json!({})).await;
        let id = run["id"].as_str().unwrap();
        app.step_is(&run, "report", "running").await;
        if sql == ENDLESS {
            eventually("some rows", async || {
                app.show(id).await["steps"][0]["progress"]["done"].as_u64().filter(|done| *done > 0)
            })
            .await;
        }
        app.post(&format!("/v1/runs/{id}/cancel"), json!({})).await;
        assert_eq!(app.ended(&run).await["status"], "cancelled", "{sql}");
        assert_eq!(stored(&app).await, Vec::<String>::new());
        if database == Database::Postgres {
            eventually("the query to end", async || (app.numbers(RUNNING_COPIES).await == [0]).then_some(())).await;
        }
    }
    app.finish().await;
}

async fn kill_during_the_upload_leaves_no_file(database: Database) {
    let place = Place::new(database).await;
    let with = json!({ "sql": ENDLESS, "format": "csv", "timeout": "1h", "max_rows": 1_000_000_000 });
    place.pipeline("p", &pipeline(&with));
    place.sql("CREATE TABLE t (id BIGINT)").await;
    let process = place.start().await;
    let run = process.start_run("p", json!({})).await;
    let id = run["id"].as_str().unwrap();
    let done = |run: &Value| run["steps"][0]["progress"]["done"].as_u64();
    // Some parts of 8 MiB are uploaded by then.
    process.until("many rows", id, |run| done(run).filter(|done| *done > 400_000)).await;
    process.kill().await;
    place.forget_the_dead().await;
    let process = place.start().await;
    process.until("the next attempt", id, |run| (run["steps"][0]["status"] == "running").then_some(())).await;
    let cancel = http_client().post(format!("{}/v1/runs/{id}/cancel", process.url)).bearer_auth(ADMIN_KEY);
    cancel.send().await.unwrap().error_for_status().unwrap();
    let run = process.until("the end", id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!((&run["status"], &run["artifacts"]), (&json!("cancelled"), &json!([])), "{run}");
    assert!(process.terminate().await.success());
    let index = place.dir.path().join("data/objects/index.db");
    let counts = numbers(&format!("sqlite://{}", index.display()), "SELECT COUNT(*) FROM objects").await;
    assert_eq!(counts, [0], "nothing became visible");
}

async fn progress_counts_rows(database: Database) {
    let app = app(database, "CREATE TABLE t (id BIGINT PRIMARY KEY)").await;
    let fill =
        "INSERT INTO t WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 50000) SELECT x FROM c";
    app.sql(fill).await;
    if database == Database::Postgres {
        app.sql("ANALYZE t").await;
    }
    let run = run(&app, json!({ "sql": "SELECT id FROM t ORDER BY id", "format": "csv" })).await;
    let progress = &run["steps"][0]["progress"];
    let told = ["done", "total", "unit", "percent"].map(|field| progress[field].clone());
    assert_eq!(told, [json!(50_000), json!(50_000), json!("rows"), json!(100.0)], "{progress}");
    app.finish().await;
}
