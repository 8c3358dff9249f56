//! The real application on free ports, with its own folder and database.

use std::time::Duration;

use afterload::app::RunningService;
use afterload::config::{Config, ConnectionConfig, Secret};
use serde_json::Value;
use tempfile::TempDir;

use super::{Server, eventually, kinds};

/// The admin key of every test application.
const ADMIN_KEY: &str = "test-admin-key-of-at-least-24-characters";

/// The database of the service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Database {
    Sqlite,
    Postgres,
}

/// The settings of an application to start.
pub struct Builder {
    database: Database,
    dir: TempDir,
    config: Config,
}

/// A running application. [`TestApp::finish`] stops it and checks that no job is left.
pub struct TestApp {
    /// The URL of the API, whatever its public URL is.
    pub url: String,
    /// A client without an API key.
    pub client: reqwest::Client,
    /// A key with all permissions.
    pub admin_key: String,
    /// The folder with all files.
    pub dir: TempDir,
    /// The PostgreSQL server of the service, if it uses one. The connection `app` uses it too.
    pub server: Option<Server>,
    /// The running service.
    pub app: RunningService,
    /// The configuration at the start.
    pub config: Config,
}

impl Builder {
    /// Returns the folder with all files.
    pub fn folder(&self) -> &std::path::Path {
        self.dir.path()
    }

    /// Adds a pipeline file.
    pub fn pipeline(self, name: &str, yaml: &str) -> Self {
        std::fs::write(self.config.pipelines.join(format!("{name}.yaml")), yaml).expect("a pipeline");
        self
    }

    /// Changes the configuration.
    pub fn config(mut self, change: impl FnOnce(&mut Config)) -> Self {
        change(&mut self.config);
        self
    }

    /// Starts the application.
    pub async fn start(self) -> TestApp {
        let Self { database, dir, mut config } = self;
        let server = match database {
            Database::Sqlite => {
                super::template::copy_sqlite(&config.data.join("afterload.db")).await;
                None
            }
            Database::Postgres => Some(Server::start_migrated().await),
        };
        if let Some(server) = &server {
            config.database = Some(Secret::new(server.url()));
            config.secret_key = Some(Secret::new("a-secret-key-for-tests-of-32-characters"));
            let app = ConnectionConfig {
                url: Secret::new(server.url()),
                schema: None,
                read_only: false,
                checkpoints: Default::default(),
                functions: Vec::new(),
            };
            config.connections.insert("app".into(), app);
        }
        config.add_default_connection();
        let app = RunningService::start_with_steps(config.clone(), Some(ADMIN_KEY.into()), kinds())
            .await
            .expect("the application starts");
        TestApp {
            url: format!("http://{}", app.listen),
            client: super::http_client(),
            admin_key: ADMIN_KEY.into(),
            dir,
            server,
            app,
            config,
        }
    }
}

impl TestApp {
    /// Prepares an application with free ports and an empty folder.
    pub fn builder(database: Database) -> Builder {
        // The log is printed when a test fails; `AFTERLOAD_TEST_LOG=debug` adds details.
        let filter = std::env::var("AFTERLOAD_TEST_LOG").unwrap_or_else(|_| "info,s3s=off".into());
        let logs = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer();
        drop(logs.try_init());
        let dir = TempDir::new().expect("a temporary folder");
        let mut config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            data: dir.path().join("data"),
            pipelines: dir.path().join("pipelines"),
            templates: dir.path().join("templates"),
            ..Config::default()
        };
        config.objects.listen = ([127, 0, 0, 1], 0).into();
        std::fs::create_dir_all(&config.pipelines).expect("the folder of the pipelines");
        Builder { database, dir, config }
    }

    /// Starts a run and returns the response body.
    pub async fn run(&self, pipeline: &str, params: Value) -> Value {
        let request =
            self.client.post(format!("{}/v1/pipelines/{pipeline}/runs", self.url)).bearer_auth(&self.admin_key);
        let response = request.json(&serde_json::json!({ "params": params })).send().await.expect("an answer");
        let status = response.status();
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(status, 202, "{body}");
        body
    }

    /// Starts a run with a file.
    pub async fn upload(&self, pipeline: &str, name: &str, bytes: Vec<u8>) -> Value {
        let part = reqwest::multipart::Part::bytes(bytes).file_name(name.to_owned());
        let request =
            self.client.post(format!("{}/v1/pipelines/{pipeline}/runs", self.url)).bearer_auth(&self.admin_key);
        let response =
            request.multipart(reqwest::multipart::Form::new().part("file", part)).send().await.expect("an answer");
        let status = response.status();
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(status, 202, "{body}");
        body
    }

    /// Reads a path of the API with the admin key.
    pub async fn get(&self, path: &str) -> reqwest::Response {
        self.client.get(format!("{}{path}", self.url)).bearer_auth(&self.admin_key).send().await.expect("an answer")
    }

    /// Posts a body to a path of the API with the admin key.
    pub async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let request = self.client.post(format!("{}{path}", self.url)).bearer_auth(&self.admin_key);
        let response = request.json(&body).send().await.expect("an answer");
        (response.status().as_u16(), response.json().await.expect("JSON"))
    }

    /// Waits until a step of a run has this status.
    pub async fn step_is(&self, run: &Value, step: &str, status: &str) {
        let id = run["id"].as_str().expect("an id");
        eventually("the status of a step", async || {
            let run = self.show(id).await;
            let steps = run["steps"].as_array().expect("steps");
            steps.iter().any(|known| known["id"] == step && known["status"] == status).then_some(())
        })
        .await;
    }

    /// Reads a run.
    pub async fn show(&self, id: &str) -> Value {
        self.get(&format!("/v1/runs/{id}")).await.json().await.expect("JSON")
    }

    /// Waits for the end of a run and returns it.
    pub async fn ended(&self, run: &Value) -> Value {
        let id = run["id"].as_str().expect("an id");
        eventually("the end of a run", async || {
            let run = self.show(id).await;
            (!run["finished_at"].is_null()).then_some(run)
        })
        .await
    }

    /// Starts a run and waits for its end.
    pub async fn run_to_end(&self, pipeline: &str, params: Value) -> Value {
        let run = self.run(pipeline, params).await;
        self.ended(&run).await
    }

    /// Starts a second process on the same folder and database.
    pub async fn another(&self) -> RunningService {
        let (config, key) = (self.config.clone(), Some(self.admin_key.clone()));
        RunningService::start_with_steps(config, key, kinds()).await.expect("a second process")
    }

    /// Returns the URL of the service's own database.
    pub fn service(&self) -> String {
        let file = || format!("sqlite://{}", self.config.data.join("afterload.db").display());
        self.server.as_ref().map_or_else(file, Server::url)
    }

    /// Executes SQL in the connection `app`.
    pub async fn sql(&self, sql: &str) {
        super::sql::execute(self.config.connections["app"].url.expose_secret(), sql).await;
    }

    /// Reads one row of integers from the connection `app`.
    pub async fn numbers(&self, sql: &str) -> Vec<i64> {
        super::sql::numbers(self.config.connections["app"].url.expose_secret(), sql).await
    }

    /// Returns the mails of the outbox, oldest first.
    pub fn mails(&self) -> Vec<String> {
        let mut paths: Vec<_> = std::fs::read_dir(self.config.outbox_dir())
            .into_iter()
            .flatten()
            .flatten()
            .map(|file| file.path())
            .collect();
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "eml"));
        paths.sort();
        paths.iter().map(|path| std::fs::read_to_string(path).expect("a mail")).collect()
    }

    /// Stops the application and checks that no job is left.
    pub async fn finish(self) {
        let jobs = self.app.engine.count_jobs().await.expect("the queue");
        assert_eq!(jobs, 0, "jobs are left in the queue");
        tokio::time::timeout(Duration::from_secs(60), self.app.stop()).await.expect("the application stops");
    }

    /// Stops the application as SIGTERM does, and starts it again on the same folder and database.
    pub async fn restart(self) -> Self {
        let Self { dir, server, config, app, .. } = self;
        app.stop().await;
        Self::again(dir, server, config).await
    }

    /// Aborts all work, as a crash does, ends the leases, and starts the application again.
    pub async fn crash(self) -> Self {
        let Self { dir, server, config, app, .. } = self;
        drop(app);
        // On SQLite the next start releases the leases itself.
        if let Some(server) = &server {
            super::sql::execute(&server.url(), super::END_LEASES).await;
        }
        Self::again(dir, server, config).await
    }

    async fn again(dir: TempDir, server: Option<Server>, config: Config) -> Self {
        let app = RunningService::start_with_steps(config.clone(), Some(ADMIN_KEY.into()), kinds())
            .await
            .expect("the application starts again");
        TestApp {
            url: format!("http://{}", app.listen),
            client: super::http_client(),
            admin_key: ADMIN_KEY.into(),
            dir,
            server,
            app,
            config,
        }
    }
}
