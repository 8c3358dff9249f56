//! The real binary as a child process, for tests that kill it.

use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;

use afterload::cli::key::S3KeyArgs;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use super::{Database, Server, eventually};

/// The admin key of every process.
pub const ADMIN_KEY: &str = "test-admin-key-of-at-least-24-characters";

/// The line with which the service reports that it is up begins with this.
const SERVES: &str = "afterload is up: ";

/// A running `afterload serve` in its own folder.
pub struct Process {
    child: Child,
    /// The URL of its API.
    pub url: String,
    client: reqwest::Client,
}

/// A running `afterload worker`.
pub struct Worker {
    child: Child,
    /// The queues that it works, as it prints them.
    pub queues: String,
}

/// The folder and the databases, which survive their processes.
pub struct Place {
    pub dir: tempfile::TempDir,
    /// Additional environment variables of its processes.
    pub env: Vec<(String, String)>,
    server: Option<Arc<Server>>,
    /// The URL of the connection `app`.
    app: String,
    /// The server of this connection, if it is not a file.
    app_server: Option<Arc<Server>>,
}

impl Place {
    /// Creates a folder and databases. That of the service has its tables already.
    pub async fn new(database: Database) -> Self {
        match database {
            Database::Sqlite => {
                let place = Self::on(None, None);
                super::template::copy_sqlite(&place.dir.path().join("data").join("afterload.db")).await;
                place
            }
            Database::Postgres => Self::on(Some(Server::start_migrated().await), Some(Server::start().await)),
        }
    }

    /// Creates an empty folder with these databases for the service and the application.
    pub fn on(server: Option<Server>, app: Option<Server>) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        std::fs::create_dir_all(dir.path().join("pipelines")).expect("the folder of the pipelines");
        let file = || format!("sqlite://{}", dir.path().join("app.db").display());
        let url = app.as_ref().map_or_else(file, Server::url);
        Self { dir, env: Vec::new(), server: server.map(Arc::new), app: url, app_server: app.map(Arc::new) }
    }

    /// Sets an environment variable of its processes.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.env.push((format!("AFTERLOAD_{name}"), value.into()));
    }

    /// The URL of the connection `app`.
    pub fn app_url(&self) -> String {
        self.app.clone()
    }

    /// Returns the URL of the service's own database.
    pub fn service_url(&self) -> String {
        match &self.server {
            Some(server) => server.url(),
            None => format!("sqlite://{}", self.dir.path().join("data").join("afterload.db").display()),
        }
    }

    /// Counts the jobs, both waiting and running.
    pub async fn jobs(&self) -> i64 {
        let table = if self.server.is_some() { "apalis.jobs" } else { "Jobs" };
        super::sql::numbers(&self.service_url(), &format!("SELECT COUNT(*) FROM {table}")).await[0]
    }

    /// Ends at once what killed processes still hold, which a minute would end too: their leases (on SQLite the next
    /// start does this), their poll claims, and their notification claims.
    pub async fn forget_the_dead(&self) {
        let mut sql = String::from(
            "UPDATE poll_claims SET lease_until = 0;
             UPDATE notifications SET next_at = since WHERE status = 'pending';",
        );
        if self.server.is_some() {
            sql.push_str(super::END_LEASES);
        }
        super::sql::execute(&self.service_url(), &sql).await;
    }

    /// True if nobody holds the lock of the service's SQLite now. PostgreSQL has no such lock.
    pub async fn is_unlocked(&self) -> bool {
        use sqlx::Connection;
        if self.server.is_some() {
            return true;
        }
        let mut db = sqlx::SqliteConnection::connect(&self.service_url()).await.expect("the service's database");
        sqlx::raw_sql("PRAGMA busy_timeout = 0; BEGIN IMMEDIATE; ROLLBACK").execute(&mut db).await.is_ok()
    }

    /// Returns a client of the embedded store, with the keys that `afterload key s3` prints.
    pub fn s3(&self) -> aws_sdk_s3::Client {
        let [endpoint, access_key, secret_key] =
            ["AWS_ENDPOINT_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"].map(|name| self.s3_export(name));
        crate::objects::sdk(&endpoint, &access_key, &secret_key)
    }

    /// Returns the address of the embedded store.
    pub fn s3_endpoint(&self) -> String {
        self.s3_export("AWS_ENDPOINT_URL")
    }

    fn s3_export(&self, name: &str) -> String {
        let data = self.dir.path().join("data");
        let mut out = Vec::new();
        let mut config = afterload::config::Config { data, ..Default::default() };
        config.objects.listen = ([127, 0, 0, 1], 0).into();
        afterload::cli::key::print_s3_exports(&config, &S3KeyArgs::default(), &mut out, &mut std::io::sink())
            .expect("credentials");
        let text = String::from_utf8(out).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("export {name}=")));
        line.expect("an export").to_owned()
    }

    /// Writes a pipeline file.
    pub fn pipeline(&self, name: &str, yaml: &str) {
        std::fs::write(self.dir.path().join("pipelines").join(format!("{name}.yaml")), yaml).expect("a pipeline");
    }

    /// Executes SQL in the connection `app`.
    pub async fn sql(&self, sql: &str) {
        super::sql::execute(&self.app_url(), sql).await;
    }

    /// Reads one row of integers from the connection `app`.
    pub async fn numbers(&self, sql: &str) -> Vec<i64> {
        super::sql::numbers(&self.app_url(), sql).await
    }

    /// Starts the service on a free port and waits until it listens.
    pub async fn start(&self) -> Process {
        self.start_at("127.0.0.1:0").await
    }

    /// Starts the service at an address and waits until it listens.
    pub async fn start_at(&self, listen: &str) -> Process {
        let mut command = self.command(&["serve"]);
        command.env("AFTERLOAD_LISTEN", listen);
        self.serving(command).await
    }

    /// Starts the service on a free port; `None` if it exits before it is up.
    pub async fn try_start(&self) -> Option<Process> {
        let (child, url) = Self::launch(self.command(&["serve"]), SERVES).await.ok()?;
        Some(Process::new(child, url))
    }

    /// Starts the service with a limit of open files, given as arguments of `ulimit`.
    pub async fn serve_with_open_files(&self, ulimit: &str) -> Process {
        let binary = self.command(&["serve"]);
        let mut command = Command::new("sh");
        let script = format!("ulimit {ulimit} && exec \"$0\" serve");
        command.args(["-c", &script, env!("CARGO_BIN_EXE_afterload")]).current_dir(self.dir.path());
        command.envs(binary.as_std().get_envs().filter_map(|(name, value)| Some((name, value?))));
        command.stdout(Stdio::piped()).stderr(log(self.dir.path())).kill_on_drop(true);
        self.serving(command).await
    }

    /// Starts the service with these arguments and waits until it listens.
    pub async fn serve(&self, args: &[&str]) -> Process {
        self.serving(self.command(&[&["serve"], args].concat())).await
    }

    async fn serving(&self, command: Command) -> Process {
        let (child, url) = self.up(command, SERVES).await;
        Process::new(child, url)
    }

    /// Starts a worker with these arguments and waits until it works.
    pub async fn worker(&self, args: &[&str]) -> Worker {
        let (child, queues) = self.up(self.command(&[&["worker"], args].concat()), "afterload is working: ").await;
        Worker { child, queues }
    }

    /// Another machine: its own folder, but the same database.
    pub fn elsewhere(&self) -> Self {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let (server, app_server) = (self.server.clone(), self.app_server.clone());
        Self { dir, env: self.env.clone(), server, app: self.app_url(), app_server }
    }

    /// Returns the command for the binary in this place, with these arguments.
    pub fn command(&self, args: &[&str]) -> Command {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_afterload"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("AFTERLOAD_LISTEN", "127.0.0.1:0")
            .env("AFTERLOAD_OBJECTS__LISTEN", "127.0.0.1:0")
            .env("AFTERLOAD_DATA", path("data"))
            .env("AFTERLOAD_PIPELINES", path("pipelines"))
            .env("AFTERLOAD_ADMIN_KEY", ADMIN_KEY)
            .env("AFTERLOAD_LIMITS__CRASHES", "1000")
            .env("AFTERLOAD_CONNECTIONS__APP__URL", self.app_url())
            .env("AFTERLOAD_LOG", "info")
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .stdout(Stdio::piped())
            .stderr(log(self.dir.path()))
            .kill_on_drop(true);
        if let Some(server) = &self.server {
            command
                .env("AFTERLOAD_DATABASE", server.url())
                .env("AFTERLOAD_SECRET_KEY", "a-secret-key-for-tests-of-32-characters");
        }
        command
    }

    /// Starts a process and returns the rest of the line that reports that it is up.
    async fn up(&self, command: Command, says: &str) -> (Child, String) {
        let launched = Self::launch(command, says).await;
        launched.unwrap_or_else(|line| panic!("the process did not start: {line}{}", self.log()))
    }

    /// The error is its output, if it exits before it is up.
    async fn launch(mut command: Command, says: &str) -> Result<(Child, String), String> {
        let mut child = command.spawn().expect("the binary starts");
        let stdout = child.stdout.take().expect("its output");
        let mut lines = BufReader::new(stdout).lines();
        let line = lines.next_line().await.expect("its output").unwrap_or_default();
        let rest = line.strip_prefix(says).ok_or_else(|| line.clone())?.to_owned();
        Ok((child, rest))
    }

    /// Returns the logs of the processes.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }
}

fn log(dir: &Path) -> std::fs::File {
    std::fs::File::options().create(true).append(true).open(dir.join("log")).expect("a log")
}

fn signal(child: &Child, name: &str) {
    let pid = child.id().expect("a process").to_string();
    let sent = std::process::Command::new("kill").args([&format!("-{name}"), &pid]).status().expect("kill");
    assert!(sent.success());
}

async fn terminated(mut child: Child) -> ExitStatus {
    signal(&child, "TERM");
    eventually("the end of a process that was asked to stop", async || child.try_wait().expect("a child")).await
}

impl Worker {
    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a kill");
    }

    /// Sends SIGTERM and returns the exit status.
    pub async fn terminate(self) -> ExitStatus {
        terminated(self.child).await
    }
}

impl Process {
    fn new(child: Child, url: String) -> Self {
        Self { child, url, client: super::http_client() }
    }

    /// `kill -9`.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("a kill");
    }

    /// Sends a signal, such as `STOP`.
    pub fn signal(&self, name: &str) {
        signal(&self.child, name);
    }

    /// True if the process has exited.
    pub fn is_dead(&mut self) -> bool {
        self.child.try_wait().expect("a child").is_some()
    }

    /// Creates a request to a path of the API with the admin key.
    pub fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url)).bearer_auth(ADMIN_KEY)
    }

    /// Sends SIGTERM and returns the exit status.
    pub async fn terminate(self) -> ExitStatus {
        terminated(self.child).await
    }

    /// Uploads a file and starts a run.
    pub async fn upload(&self, pipeline: &str, path: &Path) -> Value {
        let file = tokio::fs::File::open(path).await.expect("the file");
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(file));
        let form = reqwest::multipart::Form::new().part("file", reqwest::multipart::Part::stream(body).file_name(name));
        let request = self.client.post(format!("{}/v1/pipelines/{pipeline}/runs", self.url)).bearer_auth(ADMIN_KEY);
        let response = request.multipart(form).send().await.expect("an answer");
        let status = response.status();
        let body: Value = response.json().await.expect("JSON");
        assert_eq!(status, 202, "{body}");
        body
    }

    /// Reads a path of the API as text, with any status.
    pub async fn text(&self, path: &str) -> String {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(ADMIN_KEY);
        request.send().await.expect("an answer").text().await.expect("text")
    }

    /// Starts a run without files.
    pub async fn start_run(&self, pipeline: &str, params: Value) -> Value {
        let request = self.client.post(format!("{}/v1/pipelines/{pipeline}/runs", self.url)).bearer_auth(ADMIN_KEY);
        let request = request.json(&serde_json::json!({ "params": params }));
        request.send().await.expect("an answer").json().await.expect("JSON")
    }

    /// Reads a path of the API.
    pub async fn get(&self, path: &str) -> Value {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(ADMIN_KEY);
        request.send().await.expect("an answer").json().await.expect("JSON")
    }

    /// Reads a run.
    pub async fn show(&self, id: &str) -> Value {
        let request = self.client.get(format!("{}/v1/runs/{id}", self.url)).bearer_auth(ADMIN_KEY);
        request.send().await.expect("an answer").json().await.expect("JSON")
    }

    /// Downloads a file of the API.
    pub async fn download(&self, path: &str) -> Vec<u8> {
        let request = self.client.get(format!("{}{path}", self.url)).bearer_auth(ADMIN_KEY);
        let response = request.send().await.expect("an answer").error_for_status().expect("a file");
        response.bytes().await.expect("bytes").to_vec()
    }

    /// Waits until `look` returns a value for a run.
    pub async fn until<T>(&self, what: &str, id: &str, look: impl Fn(&Value) -> Option<T>) -> T {
        eventually(what, async || look(&self.show(id).await)).await
    }
}
