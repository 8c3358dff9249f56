//! `/openapi.json` and the service agree: schemathesis sends what the document allows and what it forbids, with each of
//! its checks.

use tokio::process::Command;

use crate::soak::size;
use crate::support::{Database, TestApp, both, tool};

both!(requests_with_a_key_are_answered_as_documented);

const PIPELINE: &str = r#"
name: greet
triggers:
  - { type: event, name: user.came, with: { who: "${{ event.who }}" } }
params:
  who: { type: string, default: somebody }
  file: { type: file, required: false }
steps:
  - { id: one, uses: test.step, with: { give: "${{ params.who }}" } }
"#;

/// Sends the same requests each time, more of them in the full soak: at most `examples` of them for each operation, beside those at the edges.
async fn check_contract(database: Database, examples: usize, with_key: bool) {
    let builder = TestApp::builder(database).pipeline("greet", PIPELINE).pipeline("bad", "name: bad\n");
    // Requests with a wrong key are part of the checks.
    let app = builder.config(|config| config.limits.wrong_keys = 1_000_000).start().await;
    let mut command = Command::new(tool("schemathesis"));
    command.args(["--config-file", concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/hostile/contract.toml")]);
    command.args(["--no-color", "run", &format!("{}/openapi.json", app.url), "--checks", "all", "--seed", "1"]);
    command.args(["--max-examples", &examples.to_string(), "--phases", "examples,coverage,fuzzing"]);
    command.args(["--continue-on-failure", "--request-timeout", "30", "--output-truncate", "false"]);
    if with_key {
        command.args(["--header", &format!("Authorization: Bearer {}", app.admin_key)]);
    }
    // It keeps files of its own.
    command.current_dir(app.dir.path()).kill_on_drop(true);
    let output = command.output().await.expect("schemathesis starts");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    // It leaves out the document itself.
    let tested = format!("Tested: {}\n", app.operation_count().await - 1);
    assert!(text.contains(&tested), "each operation is tested: {text}");
    app.app.stop().await;
}

impl TestApp {
    async fn operation_count(&self) -> usize {
        let document: serde_json::Value = self.get("/openapi.json").await.json().await.unwrap();
        let paths = document["paths"].as_object().unwrap().values();
        paths.map(|methods| methods.as_object().unwrap().len()).sum()
    }
}

async fn requests_with_a_key_are_answered_as_documented(database: Database) {
    check_contract(database, size(12, 50), true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_without_a_key_are_answered_as_documented() {
    check_contract(Database::Sqlite, size(5, 20), false).await;
}
