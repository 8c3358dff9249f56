//! `test.step`: succeeds, fails, waits, panics or reports progress as configured, and records that it ran.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use super::hello::{Hello, HelloDeps};
use afterload::registry::{StepRegistry, step_kinds};
use afterload_core::error::{Error, ErrorCode, Result};
use afterload_pipeline::Templated;
use afterload_step_api::{ProgressUpdate, Step, StepContext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

const TEST_REFUSED: ErrorCode = ErrorCode::permanent("test_refused", "The test makes the step fail for good");
const TEST_TRANSIENT: ErrorCode = ErrorCode::transient("test_transient", "The test makes the step fail once more");

/// The steps that ran, per run, as `id#attempt` in order. All tests of a process share the log.
static LOG: LazyLock<Mutex<HashMap<String, Vec<String>>>> = LazyLock::new(Mutex::default);

/// Returns the steps that ran in a run, in order, as `step#attempt`.
pub fn log_of(run: &str) -> Vec<String> {
    LOG.lock().expect("the log").get(run).cloned().unwrap_or_default()
}

/// Returns all shipped kinds `test.step`, and the example of CONTRIBUTING.md.
pub fn kinds() -> StepRegistry {
    step_kinds().with::<TestStep>(|_| ()).with::<Hello>(|_| HelloDeps { greeting: "hello".into() })
}

/// A step that does as it is told.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TestStep {
    /// What to give back.
    #[serde(default)]
    give: Value,
    /// Fail so many attempts with a transient error first.
    #[serde(default)]
    fail: u32,
    /// Fail with a permanent error.
    #[serde(default)]
    refuse: Option<Templated<String>>,
    /// Panic in the first attempt.
    #[serde(default)]
    panic: bool,
    /// Wait for the stop before ending.
    #[serde(default)]
    wait: bool,
    /// Wait for the stop, and then succeed.
    #[serde(default)]
    ends_with_stop: bool,
    /// Never end and never look at the stop.
    #[serde(default)]
    hang: bool,
    /// Report this many units, one by one.
    #[serde(default)]
    units: u64,
    /// Wait until this file exists.
    #[serde(default)]
    until: Option<String>,
    /// Report one unit more than the start before did.
    #[serde(default)]
    climb: bool,
    /// Fail for good while this file does not exist.
    #[serde(default)]
    needs_file: Option<Templated<String>>,
    /// Fail with this error number of the system while this file does not exist.
    #[serde(default)]
    os_error: Option<(i32, String)>,
    /// Make a file of this name with one line.
    #[serde(default)]
    file: Option<String>,
    /// Make a second file of this name.
    #[serde(default)]
    second_file: Option<String>,
}

/// What the step gave.
#[derive(Serialize, JsonSchema)]
pub struct Outputs {
    /// As `with.give` says.
    value: Value,
    /// The file, if one was asked for.
    file: Option<afterload_core::file::File>,
}

impl Step for TestStep {
    const KIND: &'static str = "test.step";
    const EXAMPLE: &'static str = "give: 1\n";
    const MAKES_FILES: bool = true;
    type Outputs = Outputs;
    type Deps = ();

    fn always_makes_files(&self) -> bool {
        self.file.is_some()
    }

    async fn run(self, ctx: StepContext, (): ()) -> Result<Outputs> {
        let line = format!("{}#{}", ctx.step.id, ctx.step.attempt);
        LOG.lock().expect("the log").entry(ctx.run.id.clone()).or_default().push(line);
        if self.climb {
            let done = log_of(&ctx.run.id).len() as u64;
            ctx.progress.report_committed(ProgressUpdate { done, unit: "starts".into(), ..ProgressUpdate::default() });
        }
        for done in 1..=self.units {
            ctx.progress.report_committed(ProgressUpdate {
                done,
                total: Some(self.units),
                unit: "units".into(),
                ..ProgressUpdate::default()
            });
            tokio::task::yield_now().await;
        }
        if let Some(path) = &self.until {
            while !std::path::Path::new(path).exists() {
                ctx.check_stopped()?;
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        }
        let mut files = Vec::new();
        for name in self.file.iter().chain(&self.second_file) {
            let mut file = ctx.files.create(name, "text/plain").await?;
            file.write("made by a test\n".into()).await?;
            files.push(file.finish().await?);
        }
        if self.wait {
            ctx.stop.cancelled().await;
            ctx.check_stopped()?;
        }
        if self.ends_with_stop {
            ctx.stop.cancelled().await;
        }
        if self.hang {
            std::future::pending::<()>().await;
        }
        assert!(!self.panic || ctx.step.attempt > 1, "told to panic");
        if let Some(path) = self.needs_file {
            let path = path.into_value()?;
            if !std::path::Path::new(&path).exists() {
                return Err(Error::new(TEST_REFUSED, format!("there is no {path}")));
            }
        }
        if let Some((number, path)) = self.os_error
            && !std::path::Path::new(&path).exists()
        {
            return Err(Error::from(std::io::Error::from_raw_os_error(number)).context("told to fail"));
        }
        if ctx.step.attempt <= self.fail {
            return Err(Error::new(TEST_TRANSIENT, "told to fail"));
        }
        if let Some(reason) = self.refuse {
            return Err(Error::new(TEST_REFUSED, reason.into_value()?));
        }
        Ok(Outputs { value: self.give, file: files.into_iter().next() })
    }
}
