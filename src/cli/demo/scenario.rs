//! The scenarios of `examples/demo/plays.yaml`: starts their runs and follows them.

use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::Path;
use std::time::{Duration, Instant};

use serde::Deserialize;
use serde_json::Value;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, Connection};

use super::files::app_database;
use crate::cli::client::{ApiClient, ParamArg};
use crate::cli::progress::ProgressRenderer;
use crate::codes;
use crate::config::Config;
use afterload_core::error::{Error, Result};
use afterload_engine::Engine;
use afterload_spanned_yaml as yaml;

const SCENARIOS_YAML: &str = include_str!("../../../examples/demo/plays.yaml");
/// How often the demo checks for an expected change.
const DEMO_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// How long the demo waits for it.
const DEMO_RUN_TIMEOUT: Duration = Duration::from_secs(60);

/// A run of a pipeline.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// The pipeline.
    pub pipeline: String,
    /// What the user does, for the output.
    pub title: String,
    start: ScenarioStart,
    /// A query of the application's database that shows the result.
    #[serde(default)]
    pub look: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ScenarioStart {
    /// Uploads the file with the request.
    Upload(String),
    /// Writes the file to a bucket, under a prefix.
    Put { file: String, to: String },
    /// Sends a request with params.
    Call(BTreeMap<String, String>),
    /// Publishes an application event.
    Event(ScenarioEvent),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ScenarioEvent {
    /// What the application writes to its database before it publishes the event.
    sql: String,
    name: String,
    body: Value,
    /// The next event, published once the run waits for it.
    #[serde(default)]
    then: Option<Box<ScenarioEvent>>,
}

/// Reads all scenarios.
///
/// # Errors
/// Fails if the file cannot be parsed.
pub fn load_scenarios() -> Result<Vec<Scenario>> {
    yaml::parse(SCENARIOS_YAML).and_then(|plays| yaml::read(&plays)).map_err(|problems| {
        let first = problems.first().map_or_else(String::new, |problem| problem.message.clone());
        Error::new(codes::DEMO_INVALID, format!("the plays of the demo cannot be read: {first}"))
    })
}

/// Runs scenarios against a service.
pub struct DemoRunner<'a> {
    /// A client of the API.
    pub client: ApiClient,
    /// The engine; its object store replaces an S3 client.
    pub engine: &'a Engine,
    /// The configuration of the service.
    pub config: &'a Config,
    /// The folder of the demo.
    pub dir: &'a Path,
}

impl DemoRunner<'_> {
    /// Starts a run and follows it until it ends.
    ///
    /// # Errors
    /// Errors of the API. A failed run is not an error.
    pub async fn run_scenario(&self, play: &Scenario) -> Result<Value> {
        let id = match &play.start {
            ScenarioStart::Upload(file) => {
                self.start_run(&play.pipeline, &[("file".into(), ParamArg::File(self.dir.join(file)))]).await?
            }
            ScenarioStart::Call(params) => {
                let given = params.iter().map(|(name, value)| (name.clone(), ParamArg::Text(value.clone())));
                self.start_run(&play.pipeline, &given.collect::<Vec<_>>()).await?
            }
            ScenarioStart::Put { file, to } => self.upload_object(&play.pipeline, file, to).await?,
            ScenarioStart::Event(event) => owned_text(&self.publish_event(event).await?["runs"][0]),
        };
        let mut bars = std::io::stdout().is_terminal().then(ProgressRenderer::new);
        let mut show = |run: &Value| bars.iter_mut().for_each(|bars| bars.render_run(run));
        if let ScenarioStart::Event(ScenarioEvent { then: Some(next), .. }) = &play.start {
            let waits = |run: &Value| {
                let mut steps = run["steps"].as_array().into_iter().flatten();
                steps.any(|step| step["status"] == "suspended") || !run["finished_at"].is_null()
            };
            while !waits(&self.client.get(&format!("/v1/runs/{id}"), &[]).await?) {
                tokio::time::sleep(DEMO_POLL_INTERVAL).await;
            }
            self.publish_event(next).await?;
        }
        let run = self.client.follow_run(&id, &mut show).await?;
        bars.iter().for_each(ProgressRenderer::clear_screen);
        Ok(run)
    }

    async fn start_run(&self, pipeline: &str, params: &[(String, ParamArg)]) -> Result<String> {
        Ok(owned_text(&self.client.start_run(pipeline, params, &[], None).await?["id"]))
    }

    async fn publish_event(&self, event: &ScenarioEvent) -> Result<Value> {
        let options = SqliteConnectOptions::new().filename(app_database(self.config));
        let mut app = SqliteConnection::connect_with(&options).await?;
        sqlx::raw_sql(AssertSqlSafe(event.sql.as_str())).execute(&mut app).await?;
        app.close().await?;
        self.client.publish_event(&event.name, &event.body).await
    }

    /// Writes a file to the store, as `aws s3 cp` does, and finds the run that it starts.
    async fn upload_object(&self, pipeline: &str, file: &str, to: &str) -> Result<String> {
        let (bucket, prefix) = to.split_once('/').unwrap_or((to, ""));
        // A unique name each time: the same bytes under the same key would be a duplicate.
        let key = format!("{prefix}{}/{file}", ulid::Ulid::generate());
        let bytes = tokio::fs::read(self.dir.join(file)).await?;
        let media = if file.ends_with(".csv") { "text/csv" } else { "image/jpeg" };
        self.engine.objects().put_object(bucket, &key, media, bytes.into()).await?;
        let deadline = Instant::now() + DEMO_RUN_TIMEOUT;
        loop {
            let newest = self.client.get("/v1/runs", &[("pipeline", pipeline.into()), ("limit", "1".into())]).await?;
            if let Some(id) = newest["runs"][0]["id"].as_str() {
                let run = self.client.get(&format!("/v1/runs/{id}"), &[]).await?;
                if run["event"]["key"] == key.as_str() {
                    return Ok(id.to_owned());
                }
            }
            if Instant::now() > deadline {
                let why = format!("no run of `{pipeline}` started for `{key}`");
                return Err(Error::new(codes::DEMO_FAILED, why));
            }
            tokio::time::sleep(DEMO_POLL_INTERVAL).await;
        }
    }
}

fn owned_text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
