//! The shipped sales report: called with filters and by cron, mailed as a link to several people.

use chrono::{Datelike, NaiveDate, Weekday};
use serde_json::{Value, json};

use super::read;
use crate::support::{Database, TestApp, both, eventually, execute, numbers};

both!(
    sales_report_is_mailed_as_a_link,
    period_without_sales_is_not_mailed,
    schedule_starts_the_report,
    tick_reports_the_month_to_date
);

const SALES: &str = "INSERT INTO sales VALUES
    (1, '2026-01-31', 'FR', 'Tea', 3, 12.50), (2, '2026-02-01', 'DE', '=Coffee', 1200, 4999.90), (3, '2026-02-02', 'FR', 'Tea', 1, 4.10)";

async fn shipped(database: Database, change: impl Fn(String) -> String) -> TestApp {
    let read =
        |path: &str| std::fs::read_to_string(std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap();
    let yaml = change(read("pipelines/sales-report.yaml"));
    let app = TestApp::builder(database).pipeline("sales-report", &yaml).start().await;
    app.sql(&read("examples/app.sql")).await;
    app.sql(SALES).await;
    app
}

/// Returns the link in a mail.
fn link(mail: &str) -> String {
    let text = mail.replace("=\r\n", "").replace("=\n", "").replace("=3D", "=");
    text.split_whitespace().find(|word| word.contains("/d/")).expect("a link").to_owned()
}

async fn sales_report_is_mailed_as_a_link(database: Database) {
    let app = shipped(database, |yaml| yaml).await;
    let to = ["ann@example.com", "bob@example.com"];
    let params = json!({ "since": "2026-02-01", "recipients": to });
    let run = app.run_to_end("sales-report", params).await;
    assert_eq!((&run["status"], &run["steps"][0]["outputs"]["rows"]), (&json!("succeeded"), &json!(2)), "{run}");
    let mails = app.mails();
    assert_eq!(mails.len(), 2);
    // Each recipient gets one copy with a link.
    for mail in &mails {
        assert!(to.iter().all(|address| mail.contains(address)), "{mail}");
        assert!(mail.contains("Subject: Sales from 2026-02-01 to 9999-12-31: 2 rows"), "{mail}");
        // The recipient has no API key. The link alone opens the file.
        let answer = reqwest::get(link(mail)).await.unwrap().error_for_status().unwrap();
        let disposition = answer.headers()["content-disposition"].to_str().unwrap().to_owned();
        assert!(disposition.contains("sales-2026-02-01-9999-12-31.xlsx"), "{disposition}");
        let sheet = &read("xlsx", &answer.bytes().await.unwrap())["Sheet1"];
        assert_eq!(sheet[0], json!(["Day", "Country", "Product", "Quantity", "Amount"]));
        let row = json!([
            { "date": "2026-02-01T00:00:00", "format": "yyyy-mm-dd" }, "DE", "=Coffee",
            { "value": 1200, "format": "#,##0" }, { "value": 4999.9, "format": "#,##0.00" },
        ]);
        assert_eq!(sheet[1], row);
        assert_eq!(sheet[2][2], "Tea");
    }
    let run = app.run_to_end("sales-report", json!({ "country": "FR" })).await;
    assert_eq!(run["steps"][0]["outputs"]["rows"], 2, "{run}");
    app.finish().await;
}

async fn period_without_sales_is_not_mailed(database: Database) {
    let app = shipped(database, |yaml| yaml).await;
    let run = app.run_to_end("sales-report", json!({ "since": "2027-01-01" })).await;
    let steps = &run["steps"];
    assert_eq!(
        (&run["status"], &steps[0]["outputs"]["file"], &steps[1]["status"]),
        (&json!("succeeded"), &Value::Null, &json!("skipped"))
    );
    assert!(app.mails().is_empty());
    app.finish().await;
}

/// Uses the shipped schedule, after its last tick.
async fn schedule_starts_the_report(database: Database) {
    let app = shipped(database, |yaml| yaml).await;
    let service = app.service();
    eventually("the schedule", async || {
        (numbers(&service, "SELECT COUNT(*) FROM schedules").await == [1]).then_some(())
    })
    .await;
    // Same state as after eight days without a running process.
    execute(&service, "UPDATE schedules SET cursor = cursor - 691200000").await;
    let run = eventually("the run", async || {
        let runs: Value = app.get("/v1/runs").await.json().await.unwrap();
        runs["runs"].get(0).cloned()
    })
    .await;
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], &run["origin"]), (&json!("succeeded"), &json!("cron")), "{run}");
    let day = |name: &str| run["params"][name].as_str().unwrap().parse::<NaiveDate>().unwrap();
    assert_eq!(day("until").weekday(), Weekday::Mon, "{run}");
    assert_eq!(day("since"), day("until").with_day(1).unwrap(), "{run}");
    app.finish().await;
}

/// The params that the schedule fills in, at a fixed time.
async fn tick_reports_the_month_to_date(database: Database) {
    let trigger = "type: cron\n    schedule: \"0 6 * * MON\"\n    timezone: Europe/Paris\n    catch_up: last\n";
    let app = shipped(database, |yaml| {
        assert!(yaml.contains(trigger), "{yaml}");
        yaml.replace(trigger, "type: event\n    name: tick\n")
    })
    .await;
    let (status, heard) =
        app.post("/v1/events/tick", json!({ "time": "2026-02-02T05:00:00Z", "date": "2026-02-02" })).await;
    assert_eq!(status, 202, "{heard}");
    let run = eventually("the run", async || {
        let runs: Value = app.get("/v1/runs").await.json().await.unwrap();
        runs["runs"].get(0).cloned()
    })
    .await;
    let run = app.ended(&run).await;
    assert_eq!(
        (&run["params"]["since"], &run["params"]["until"]),
        (&json!("2026-02-01"), &json!("2026-02-02")),
        "{run}"
    );
    assert_eq!((&run["steps"][0]["outputs"]["rows"], app.mails().len()), (&json!(2), 2), "{run}");
    app.finish().await;
}
