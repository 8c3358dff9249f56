//! `group_by`: one query, one file for each value, and a mail for each file.

use serde_json::{Value, json};

use super::{app, pipeline, read, stored};
use crate::support::{Database, Place, TestApp, both, eventually};

both!(
    each_group_gets_its_file_and_its_mail,
    groups_fit_every_format_or_fail_whole,
    crash_between_files_publishes_each_group_once
);

/// Two regions differ in their case alone, one is null, and the rows come in no order.
const SALES: &str = "CREATE TABLE sales (id BIGINT PRIMARY KEY, region TEXT, manager TEXT, amount NUMERIC(12, 2));
    INSERT INTO sales VALUES (1, 'north', 'ann@example.com', 1.25), (2, 'east/west', 'bob@example.com', 2.25),
    (3, NULL, NULL, 3.25), (4, 'North', 'cat@example.com', 4.25), (5, 'north', 'ann@example.com', 5.25),
    (6, 'east/west', 'bob@example.com', 6.25), (7, '', NULL, 7.25)";

async fn download(app: &TestApp, file: &Value) -> Vec<u8> {
    let url = file["url"].as_str().unwrap();
    let answer = app.client.get(url).bearer_auth(&app.admin_key).send().await.unwrap().error_for_status().unwrap();
    answer.bytes().await.unwrap().to_vec()
}

async fn each_group_gets_its_file_and_its_mail(database: Database) {
    let app = app(database, SALES).await;
    let sql = "SELECT manager, id, amount FROM sales WHERE manager IS NOT NULL ORDER BY id DESC -- newest first";
    let with = json!({ "sql": sql, "format": "csv", "group_by": "manager", "name": "sales.csv" });
    let mail = json!({
        "to": "${{ item.key }}", "subject": "${{ item.rows }} sales", "body": "see the link",
        "links": { "the sales": "${{ item.file }}" }
    });
    let yaml = format!(
        "name: p\nsteps:\n  - {{ id: report, uses: report.query, with: {with} }}\n  \
         - {{ id: mails, uses: email.send, for_each: {{ items: \"${{{{ steps.report.groups }}}}\" }}, with: {mail} }}\n"
    );
    app.publish("p", &yaml).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let outputs = &run["steps"][0]["outputs"];
    assert_eq!((&outputs["file"], &outputs["rows"]), (&Value::Null, &json!(5)));
    let progress = &run["steps"][0]["progress"];
    assert_eq!((&progress["done"], &progress["counts"]["groups"]), (&json!(5), &json!(3)), "{progress}");
    let (mut size, mut found) = (0, Vec::new());
    for group in outputs["groups"].as_array().unwrap() {
        let bytes = download(&app, &group["file"]).await;
        size += bytes.len();
        let rows = read("csv", &bytes);
        let ids: Vec<_> = rows.as_array().unwrap()[1..].iter().map(|row| row[1].as_str().unwrap().to_owned()).collect();
        assert_eq!(rows[0], json!(["manager", "id", "amount"]));
        found.push((group["key"].clone(), group["file"]["name"].clone(), group["rows"].clone(), ids.join(" ")));
    }
    let group =
        |key: &str, rows: u64, ids: &str| (json!(key), json!(format!("sales-{key}.csv")), json!(rows), ids.to_owned());
    let expected =
        [group("ann@example.com", 2, "5 1"), group("bob@example.com", 2, "6 2"), group("cat@example.com", 1, "4")];
    assert_eq!(found, expected);
    assert_eq!((&outputs["size"], run["artifacts"].as_array().unwrap().len()), (&json!(size), 3));
    let mails = app.mails();
    assert_eq!(mails.len(), 3);
    for (to, rows) in [("ann@example.com", 2), ("bob@example.com", 2), ("cat@example.com", 1)] {
        let own = mails.iter().filter(|mail| mail.contains(to) && mail.contains(&format!("Subject: {rows} sales")));
        assert_eq!(own.count(), 1, "{to}: {mails:?}");
    }
    app.finish().await;
}

async fn groups_fit_every_format_or_fail_whole(database: Database) {
    let app = app(database, SALES).await;
    let sql = "SELECT id, region FROM sales ORDER BY id";
    for (format, compress, ending) in [
        ("csv", "gzip", ".csv.gz"),
        ("xlsx", "none", ".xlsx"),
        ("jsonl", "zip", ".jsonl.zip"),
        ("json", "none", ".json"),
    ] {
        let with = json!({ "sql": sql, "format": format, "compress": compress, "group_by": "region" });
        let run = super::run(&app, with.clone()).await;
        assert_eq!(run["status"], "succeeded", "{with}: {run}");
        let groups = run["steps"][0]["outputs"]["groups"].as_array().unwrap().clone();
        let found: Vec<_> = groups
            .iter()
            .map(|group| (&group["key"], group["file"]["name"].as_str().unwrap(), &group["rows"]))
            .collect();
        let names = ["none", "empty", "North", "east-west", "north-2"].map(|name| format!("report-{name}{ending}"));
        let keys = [Value::Null, json!(""), json!("North"), json!("east/west"), json!("north")];
        let rows = [1, 1, 1, 2, 2].map(Value::from);
        let expected: Vec<_> = (0..5).map(|at| (&keys[at], names[at].as_str(), &rows[at])).collect();
        assert_eq!(found, expected, "{with}");
        if format == "json" {
            let rows: Value = serde_json::from_slice(&download(&app, &groups[3]["file"]).await).unwrap();
            assert_eq!(rows, json!([{ "id": 2, "region": "east/west" }, { "id": 6, "region": "east/west" }]));
        }
    }
    // Many small files, and numbers as groups: their texts are sorted.
    let many =
        "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 600) SELECT x % 150 AS g, x FROM c";
    let run = super::run(&app, json!({ "sql": many, "format": "csv", "group_by": "g" })).await;
    let groups = run["steps"][0]["outputs"]["groups"].as_array().unwrap();
    let keys: Vec<_> = groups.iter().take(4).map(|group| group["key"].as_str().unwrap()).collect();
    assert_eq!((groups.len(), keys), (150, vec!["0", "1", "10", "100"]), "{run}");
    assert!(groups.iter().all(|group| group["rows"] == 4));
    let empty = json!({ "sql": "SELECT id, region FROM sales WHERE id < 0", "format": "xlsx", "group_by": "region" });
    app.publish("p", &pipeline(&empty)).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(
        run["steps"][0]["outputs"],
        json!({ "file": null, "rows": 0, "size": 0, "cut_cells": 0, "groups": [] }),
        "{run}"
    );
    app.finish().await;

    let app = super::app(database, SALES).await;
    let long = format!("SELECT '{}' AS region", "x".repeat(1001));
    for (mut with, code) in [
        (json!({ "sql": sql, "group_by": "region", "max_groups": 4 }), "report_too_many_groups"),
        (json!({ "sql": sql, "group_by": "Region" }), "report_column_unknown"),
        (json!({ "sql": "SELECT id AS region, region FROM sales", "group_by": "region" }), "report_columns_repeated"),
        (json!({ "sql": sql, "group_by": "region", "max_rows": 6 }), "report_too_many_rows"),
        (json!({ "sql": long, "group_by": "region" }), "report_group_key_too_long"),
    ] {
        with["format"] = json!("csv");
        let run = super::run(&app, with.clone()).await;
        assert_eq!(
            (&run["status"], &run["steps"][0]["error"]["code"]),
            (&json!("failed"), &json!(code)),
            "{with}: {run}"
        );
        assert_eq!(run["artifacts"], json!([]));
        // The files of the first groups were complete.
        eventually("the files to be deleted", async || stored(&app).await.is_empty().then_some(())).await;
    }
    app.finish().await;
}

async fn crash_between_files_publishes_each_group_once(database: Database) {
    let mut place = Place::new(database).await;
    // The process aborts when 30 of the 60 files are in the store.
    let crash = place.dir.path().join("crash");
    std::fs::write(&crash, "file.put#30").unwrap();
    place.set("CRASH_AT", format!("@{}", crash.display()));
    let sql = "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 600) SELECT x % 60 AS g, x FROM c ORDER BY x";
    place.pipeline("p", &pipeline(&json!({ "sql": sql, "format": "csv", "group_by": "g" })));
    place.sql("CREATE TABLE t (id BIGINT)").await;
    let mut process = place.start().await;
    let run = process.start_run("p", json!({})).await;
    let id = run["id"].as_str().unwrap();
    eventually("the crash", async || process.is_dead().then_some(())).await;
    assert!(!crash.exists(), "{}", place.log());
    place.forget_the_dead().await;
    let process = place.start().await;
    let run = process.until("the end", id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!((&run["status"], &run["steps"][0]["outputs"]["rows"]), (&json!("succeeded"), &json!(600)), "{run}");
    let groups = run["steps"][0]["outputs"]["groups"].as_array().unwrap();
    assert!(groups.len() == 60 && groups.iter().all(|group| group["rows"] == 10), "{run}");
    assert_eq!(run["artifacts"].as_array().unwrap().len(), 60);
    let first = groups[0]["file"]["artifact_id"].as_str().unwrap();
    let bytes = process.download(&format!("/v1/artifacts/{first}")).await;
    assert_eq!(bytes, b"g,x\n0,60\n0,120\n0,180\n0,240\n0,300\n0,360\n0,420\n0,480\n0,540\n0,600\n");
    assert!(process.terminate().await.success());
}
