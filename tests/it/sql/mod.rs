//! Statements in the users' databases, and params that refer to their rows.

mod batch;
mod decimals;
mod execute;
mod lists;
mod pipelines;
mod read_only;
mod records;
mod secrets;

use afterload_pipeline::{ValidationContext, compile_definition};
use serde_json::Value;

use crate::support::{Database, TestApp};

/// Starts an application with the pipeline `p` of these steps, and with these tables.
async fn app(database: Database, yaml: &str, ddl: &str) -> TestApp {
    let app = TestApp::builder(database).pipeline("p", &format!("name: p\n{yaml}")).start().await;
    app.sql(ddl).await;
    app
}

fn id(run: &Value) -> &str {
    run["id"].as_str().expect("an id")
}

/// Returns the messages of `check` for the pipeline `p`.
fn faults(yaml: &str) -> Vec<String> {
    let kinds = afterload::registry::step_kinds().catalog();
    match compile_definition(Some("p.yaml"), &format!("name: p\n{yaml}"), &kinds, &ValidationContext::default()) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.into_iter().map(|problem| problem.message).collect(),
    }
}
