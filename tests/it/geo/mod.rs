//! `geo.lookup` with database files that another program wrote.

mod http;
mod rows;

use std::path::{Path, PathBuf};
use std::process::Command;

use afterload_pipeline::{ValidationContext, compile_definition};
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually};

both!(
    files_are_asked_in_order_and_local_addresses_not_at_all,
    invalid_items_of_a_list_fail_nothing,
    addresses_without_a_public_location_are_not_looked_up,
    changed_file_is_reloaded,
    missing_or_broken_file_is_skipped
);

/// Writes the files with another program into a temporary folder.
fn files() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let python = std::env::var("AFTERLOAD_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/geo.py");
    let made = Command::new(&python).arg(script).arg(folder.path()).status().expect("python");
    assert!(made.success(), "run: {python} -m pip install -r scripts/test-requirements.txt");
    folder
}

/// Copies a file into a folder under another name atomically.
fn place(files: &Path, file: &str, folder: &Path, name: &str) -> PathBuf {
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(format!("{name}.mmdb"));
    std::fs::copy(files.join(format!("{file}.mmdb")), path.with_extension("tmp")).unwrap();
    std::fs::rename(path.with_extension("tmp"), &path).unwrap();
    path
}

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

fn yaml(with: &str) -> String {
    format!(
        "name: p\nparams: {{ ips: {{ type: list, default: [] }}, ip: {{ type: string, required: false }} }}\n\
         steps: [{{ id: geo, uses: geo.lookup, with: {{ {with} }} }}]\n"
    )
}

async fn app(database: Database, with: &str, files: &[&str]) -> TestApp {
    let builder = TestApp::builder(database).pipeline("p", &yaml(with));
    let folder = builder.folder().join("data/geo");
    let made = self::files();
    for file in files {
        place(made.path(), file, &folder, file);
    }
    builder.start().await
}

const LIST: &str = "ips: \"${{ params.ips }}\"";

async fn files_are_asked_in_order_and_local_addresses_not_at_all(database: Database) {
    let with = format!(
        "{LIST}, providers: ['mmdb:four', 'mmdb:nested', 'mmdb:flat', 'mmdb:asn'], local: {{ country: nowhere, latitude: 1.5 }}"
    );
    let app = app(database, &with, &["nested", "flat", "asn", "four"]).await;
    let ips = [
        "89.160.20.112",
        "2a02:d3ff::1",
        "::ffff:8.8.8.8",
        "1.1.1.1:443",
        "10.1.2.3",
        "::1",
        "9.9.9.9",
        "2.125.160.217",
        "5.5.5.5",
    ];
    let run = app.run_to_end("p", json!({ "ips": ips })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let outputs = &run["steps"][0]["outputs"];
    assert_eq!((&outputs["found"], &outputs["missing"]), (&json!(7), &json!(2)), "{run}");
    let answers = outputs["answers"].as_array().expect("answers");
    assert_eq!(
        answers[0],
        json!({
            "ip": "89.160.20.112", "country": "Sweden", "country_code": "SE", "region": "Östergötland County",
            "city": "Linköping", "postal_code": "582 10", "latitude": 58.4167, "longitude": 15.6167,
            "timezone": "Europe/Stockholm", "asn": 29518, "isp": "Bredband2", "provider": "mmdb:nested", "error": null
        })
    );
    assert_eq!((&answers[1]["city"], &answers[1]["ip"]), (&json!("Lund"), &json!("2a02:d3ff::1")));
    let told = |place: usize| {
        let answer = &answers[place];
        ["ip", "country_code", "country", "isp", "provider"]
            .map(|name| answer[name].as_str().unwrap_or("-").to_owned())
            .join(" ")
    };
    let told: Vec<_> = (2..9).map(told).collect();
    assert_eq!(
        told,
        [
            "8.8.8.8 US - - mmdb:four",
            "1.1.1.1 - - Cloudflare mmdb:asn",
            "10.1.2.3 - nowhere - local",
            "::1 - nowhere - local",
            "9.9.9.9 - - - -",
            "2.125.160.217 GB United Kingdom - mmdb:nested",
            // A record without any requested field counts as unknown.
            "5.5.5.5 - - - -",
        ]
    );
    app.publish("p", &yaml("ip: \"${{ params.ip }}\", providers: ['mmdb:flat']")).await;
    let run = app.run_to_end("p", json!({ "ip": " 8.8.8.8 " })).await;
    let outputs = &run["steps"][0]["outputs"];
    let city =
        ["city", "region", "postal_code", "timezone", "country_code"].map(|name| outputs[name].as_str().unwrap_or("-"));
    assert_eq!(city, ["Mountain View", "California", "94043", "America/Los_Angeles", "US"], "{run}");
    assert_eq!((outputs["latitude"].as_f64(), outputs["longitude"].as_f64()), (Some(37.4056), Some(-122.0775)));
    let run = app.run_to_end("p", json!({ "ip": "not an address" })).await;
    assert_eq!(run["steps"][0]["error"]["code"], "geo_ip_invalid", "{run}");
    app.finish().await;
}

async fn invalid_items_of_a_list_fail_nothing(database: Database) {
    let app = app(database, &format!("{LIST}, providers: ['mmdb:flat']"), &["flat"]).await;
    let ips = json!(["8.8.8.8", "nonsense", null, "9.9.9.9", 7, "", "8.8.8.8"]);
    let run = app.run_to_end("p", json!({ "ips": ips })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let outputs = &run["steps"][0]["outputs"];
    let counts = ["found", "missing", "invalid"].map(|name| outputs[name].as_u64().unwrap());
    assert_eq!(counts, [2, 1, 4], "{run}");
    let answers = outputs["answers"].as_array().expect("answers");
    let shown: Vec<_> =
        answers.iter().map(|answer| ["ip", "city", "error"].map(|name| answer[name].as_str())).collect();
    assert_eq!(
        shown,
        [
            [Some("8.8.8.8"), Some("Mountain View"), None],
            [None, None, Some("`nonsense` is not an IP address")],
            [None, None, Some("the address is missing")],
            [Some("9.9.9.9"), None, None],
            [None, None, Some("`7` is not an IP address")],
            [None, None, Some("`` is not an IP address")],
            [Some("8.8.8.8"), Some("Mountain View"), None],
        ]
    );
    app.finish().await;
}

async fn addresses_without_a_public_location_are_not_looked_up(database: Database) {
    // The file does not exist, so a look-up fails.
    let app = app(database, &format!("{LIST}, providers: ['mmdb:none'], local: {{ country: nowhere }}"), &[]).await;
    let ips = [
        "203.0.113.7",
        "100.64.0.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "2001:db8::1",
        "ff02::1",
        "::ffff:192.0.2.1",
        "2002:a00:1::1",
        "2001:0:808:808::3f57:fefe",
    ];
    let run = app.run_to_end("p", json!({ "ips": ips })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let answers = run["steps"][0]["outputs"]["answers"].as_array().expect("answers");
    let shown: Vec<_> =
        answers.iter().map(|answer| ["country", "provider"].map(|name| answer[name].as_str().unwrap_or("-"))).collect();
    assert_eq!(shown, [["nowhere", "local"]; 10], "{run}");
    app.finish().await;
}

async fn changed_file_is_reloaded(database: Database) {
    let app = app(database, "ip: 89.160.20.112, providers: ['mmdb:nested']", &["nested"]).await;
    let city = async || app.run_to_end("p", json!({})).await["steps"][0]["outputs"]["city"].clone();
    assert_eq!(city().await, "Linköping");
    let folder = app.dir.path().join("data/geo");
    let files = files();
    place(files.path(), "other", &folder, "nested");
    eventually("the new city", async || (city().await == "Malmö").then_some(())).await;
    // A truncated file does not replace the loaded one.
    std::fs::write(folder.join("nested.mmdb"), b"half").unwrap();
    assert_eq!(city().await, "Malmö");
    place(files.path(), "nested", &folder, "nested");
    eventually("the first city", async || (city().await == "Linköping").then_some(())).await;
    app.finish().await;
}

async fn missing_or_broken_file_is_skipped(database: Database) {
    let app = app(database, &format!("{LIST}, providers: ['mmdb:none', 'mmdb:broken', 'mmdb:flat']"), &["flat"]).await;
    std::fs::write(app.dir.path().join("data/geo/broken.mmdb"), b"not a database").unwrap();
    let run = app.run_to_end("p", json!({ "ips": ["8.8.8.8", "127.0.0.1"] })).await;
    assert_eq!(run["steps"][0]["outputs"]["found"], 2, "{run}");
    // Another provider might have known the address, so a failure must not become `unknown`.
    let run = app.run_to_end("p", json!({ "ips": ["8.8.8.8", "9.9.9.9"] })).await;
    assert_eq!(run["steps"][0]["error"]["code"], "geo_file_missing", "{run}");
    app.publish("p", &yaml("ip: 9.9.9.9, providers: ['mmdb:broken']")).await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["steps"][0]["error"]["code"], "geo_file_invalid", "{run}");
    app.finish().await;
}

#[test]
fn inconsistent_lookup_is_rejected() {
    let kinds = afterload::registry::step_kinds().catalog();
    let faults =
        |with: &str| match compile_definition(Some("p.yaml"), &yaml(with), &kinds, &ValidationContext::default()) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.into_iter().map(|problem| problem.message).collect::<Vec<_>>(),
        };
    let rows = "rows: { sql: SELECT id FROM t, key: id }";
    for (with, fault) in [
        ("providers: ['mmdb:city']", "expected one of `ip`, `ips` and `rows`"),
        ("ip: 8.8.8.8, ips: [8.8.8.8], providers: ['mmdb:city']", "expected one of `ip`, `ips` and `rows`"),
        ("ip: 8.8.8.8, providers: []", "nobody would be asked"),
        ("ip: 8.8.8.8, providers: ['mmdb:../secret']", "`mmdb:../secret` cannot be asked where an address is"),
        ("ip: 8.8.8.8, providers: ['oracle:x']", "`oracle:x` cannot be asked where an address is"),
        ("ip: 8.8.8.8, providers: ['mmdb:city'], local: { provider: x }", "`provider` is filled by the step"),
        ("ip: 8.8.8.8, providers: ['mmdb:city'], local: { town: x }", "unknown field `town`"),
        ("ip: 8.8.8.8, providers: ['mmdb:city'], into: { table: t, columns: { a: city } }", "`into` is for `rows`"),
        (&format!("{rows}, providers: ['mmdb:city']"), "`rows` needs `into`"),
        (&format!("{rows}, into: {{ table: t, columns: {{}} }}, providers: ['mmdb:city']"), "nothing would be filled"),
        (
            &format!("{rows}, into: {{ table: t, columns: {{ a: town }} }}, providers: ['mmdb:city']"),
            "nobody knows a `town`",
        ),
    ] {
        let told = faults(with);
        assert!(told.iter().any(|told| told == fault), "{with}: {told:?}");
    }
    assert_eq!(
        faults(&format!("{rows}, into: {{ table: t, columns: {{ a: city }} }}, providers: ['mmdb:city']")),
        [""; 0]
    );
}
