//! The service as a child process with everything that it uses. It is restarted whenever it dies.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use afterload::config::SmtpTls;
use reqwest::Method;
use serde_json::{Value, json};

use super::fixture::{self, Sample};
use super::http::Http;
use super::seen::{self, Done};
use crate::smtp;
use crate::support::{Database, Moto, Place, PollPauses, Process, eventually};

/// Everything that survives a process, and the process.
pub struct Stage {
    pub database: Database,
    pub place: Place,
    process: Process,
    mail: smtp::Server,
    http: Http,
    /// A third-party store.
    pub store: Option<Moto>,
    /// The samples of all kinds.
    pub samples: Vec<Sample>,
    /// How often the process crashed at a failpoint.
    pub deaths: usize,
    /// How often the test killed it.
    pub kills: usize,
    armed: usize,
    published: usize,
}

/// The external effects before a run.
pub struct Mark {
    mails: usize,
    requests: usize,
}

impl Stage {
    /// Creates a stage with the pipelines of the samples whose numbers `takes` accepts. Each start compiles all
    /// pipelines of the folder, so it holds no others.
    pub async fn new(database: Database, takes: impl Fn(usize) -> bool) -> Self {
        Self::beside(database, takes, &[], &[], None).await
    }

    /// The same with these pipelines, with additional environment variables, and with a bucket `foreign` in a store
    /// without notifications.
    pub async fn beside(
        database: Database,
        takes: impl Fn(usize) -> bool,
        pipelines: &[(&str, &str)],
        env: &[(&str, &str)],
        store: Option<Moto>,
    ) -> Self {
        let (mail, http) = (smtp::Server::start(SmtpTls::None), Http::start().await);
        let mut place = Place::new(database).await;
        place.set("MAIL__SMTP__HOST", "localhost");
        place.set("MAIL__SMTP__PORT", mail.config().effective_port().to_string());
        place.set("MAIL__SMTP__TLS", "none");
        place.set("LOG", "info,afterload_server::api=warn,s3s=off");
        place.set("LOG_FORMAT", "text");
        place.set("CRASH_AT", format!("@{}", place.dir.path().join("crash-at").display()));
        place.set("CRASH_LOG", place.dir.path().join("crash-log").display().to_string());
        for (name, value) in env {
            place.set(name, *value);
        }
        if let Some(store) = &store {
            place.set("OBJECTS__STORES__OTHER__ENDPOINT", store.endpoint.clone());
            place.set("OBJECTS__STORES__OTHER__ACCESS_KEY", "key");
            place.set("OBJECTS__STORES__OTHER__SECRET_KEY", "secret");
            place.set("OBJECTS__STORES__OTHER__PATH_STYLE", "true");
            place.set("OBJECTS__BUCKETS__FOREIGN__STORE", "other");
            let made = store.sdk().create_bucket().bucket("foreign").send().await;
            made.expect("a bucket");
        }
        let samples = Sample::all(&http.url);
        let secrets: BTreeMap<_, _> =
            fixture::secrets().into_iter().map(|name| (name, "a-secret-of-the-fixture")).collect();
        // JSON is valid YAML. Environment variables cannot contain the capitals in the names of secrets.
        let config = json!({ "secrets": secrets, "http": { "allow": ["127.0.0.1"] } });
        std::fs::write(place.dir.path().join("afterload.yaml"), config.to_string()).expect("a configuration");
        for (_, sample) in samples.iter().enumerate().filter(|(number, _)| takes(*number)) {
            place.pipeline(&sample.name, &sample.yaml);
        }
        for (name, yaml) in pipelines {
            place.pipeline(name, yaml);
        }
        place.sql(&fixture::tables()).await;
        let process = place.start().await;
        let s3 = place.s3();
        // A trigger may have created it already.
        drop(s3.create_bucket().bucket(fixture::BUCKET).send().await);
        for (key, of_type, bytes) in fixture::files() {
            let put = s3.put_object().bucket(fixture::BUCKET).key(key).content_type(of_type).body(bytes.into());
            put.send().await.expect("the object is written");
        }
        Self { database, store, place, process, mail, http, samples, deaths: 0, kills: 0, armed: 0, published: 0 }
    }

    /// Returns the end of the logs.
    pub fn log(&self) -> String {
        let log = self.place.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }

    /// Makes the process crash once at the failpoint.
    pub fn arm(&mut self, point: &str) {
        self.armed += 1;
        // Write atomically, because a process may read at any time. The second line makes two settings of the same
        // failpoint differ.
        let temp = self.place.dir.path().join("crash-at.tmp");
        std::fs::write(&temp, format!("{point}\n{}", self.armed)).expect("a file");
        std::fs::rename(&temp, self.place.dir.path().join("crash-at")).expect("a file");
    }

    /// Removes the failpoint. Returns true if it had not crashed a process yet.
    pub fn disarm(&self) -> bool {
        std::fs::remove_file(self.place.dir.path().join("crash-at")).is_ok()
    }

    /// True if the failpoint has not been passed yet.
    pub fn is_armed(&self) -> bool {
        self.place.dir.path().join("crash-at").exists()
    }

    /// Counts the failpoints that were passed so far.
    pub fn passed(&self) -> usize {
        self.points(0).len()
    }

    /// Returns the failpoints that were passed after the first `from`.
    pub fn points(&self, from: usize) -> Vec<String> {
        let log: PathBuf = self.place.dir.path().join("crash-log");
        let log = std::fs::read_to_string(log).unwrap_or_default();
        log.lines().skip(from).map(str::to_owned).collect()
    }

    /// Waits for the crash of a process that passed the failpoint, if it was not noticed yet, and restarts it.
    pub async fn revive_after_death(&mut self) {
        if self.deaths == 0 {
            eventually("the end of a process", async || self.process.is_dead().then_some(())).await;
            self.revive().await;
        }
    }

    /// Restarts the process if it is dead.
    pub async fn revive(&mut self) {
        if self.process.is_dead() {
            self.deaths += 1;
            self.place.forget_the_dead().await;
            self.process = self.place.start().await;
        }
    }

    /// Kills the process and starts another one, which waits for the leases of the first to expire.
    pub async fn kill_and_wait_for_leases(&mut self) {
        self.process.signal("KILL");
        eventually("the end of a killed process", async || self.process.is_dead().then_some(())).await;
        self.kills += 1;
        self.process = self.place.start().await;
    }

    /// Repeats a request until there is a response, as a careful client does after a broken connection.
    pub async fn ask(&mut self, method: Method, path: &str, key: Option<&str>, body: Option<&Value>) -> (u16, Value) {
        for _ in 0..500 {
            let mut request = self.process.request(method.clone(), path);
            if let Some(key) = key {
                request = request.header("idempotency-key", key);
            }
            if let Some(body) = body {
                request = request.json(body);
            }
            if let Ok(answer) = request.send().await {
                let status = answer.status().as_u16();
                if let Ok(body) = answer.bytes().await {
                    return (status, serde_json::from_slice(&body).unwrap_or(Value::Null));
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.revive().await;
        }
        panic!("no answer from {path}\n{}", self.log());
    }

    /// Sends a file until there is a response.
    pub async fn send_file(&mut self, path: &str, key: &str, text: &str) -> (u16, Value) {
        for _ in 0..500 {
            let part = reqwest::multipart::Part::text(text.to_owned()).file_name("sent.csv").mime_str("text/csv");
            let form = reqwest::multipart::Form::new().part("file", part.expect("a media type"));
            let request = self.process.request(Method::POST, path).header("idempotency-key", key).multipart(form);
            if let Ok(answer) = request.send().await {
                let status = answer.status().as_u16();
                if let Ok(body) = answer.bytes().await {
                    return (status, serde_json::from_slice(&body).unwrap_or(Value::Null));
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.revive().await;
        }
        panic!("no answer from {path}\n{}", self.log());
    }

    /// Reads a path of the API.
    pub async fn get(&mut self, path: &str) -> (u16, Value) {
        self.ask(Method::GET, path, None, None).await
    }

    /// Starts a run with an `Idempotency-Key`.
    pub async fn start(&mut self, pipeline: &str, params: &Value, key: &str) -> String {
        let path = format!("/v1/pipelines/{pipeline}/runs");
        let (status, run) = self.ask(Method::POST, &path, Some(key), Some(&json!({ "params": params }))).await;
        assert_eq!(status, 202, "{run}\n{}", self.log());
        run["id"].as_str().expect("an id").to_owned()
    }

    /// Waits for the end of a run. Publishes the events of the fixture for suspended steps.
    pub async fn ended(&mut self, id: &str) -> Value {
        let ended = self.ended_within(id, Duration::from_secs(90)).await;
        ended.unwrap_or_else(|| panic!("the run {id} is stuck\n{}", self.log()))
    }

    /// The same; `None` if it takes longer.
    pub async fn ended_within(&mut self, id: &str, patience: Duration) -> Option<Value> {
        let (began, mut pauses) = (Instant::now(), PollPauses::default());
        loop {
            let (_, run) = self.get(&format!("/v1/runs/{id}")).await;
            if !run["finished_at"].is_null() {
                return Some(run);
            }
            let mut steps = run["steps"].as_array().into_iter().flatten();
            if steps.any(|step| step["status"] == "suspended") {
                self.publish_events_as(id).await;
            }
            if began.elapsed() > patience {
                return None;
            }
            pauses.pause().await;
        }
    }

    /// Publishes all events of the fixture.
    pub async fn publish_events(&mut self) {
        self.published += 1;
        let name = format!("events-{}", self.published);
        self.publish_events_as(&name).await;
    }

    async fn publish_events_as(&mut self, who: &str) {
        for (name, body) in fixture::events() {
            let (path, key) = (format!("/v1/events/{name}"), format!("{who}/{name}"));
            let (status, told) = self.ask(Method::POST, &path, Some(&key), Some(&body)).await;
            assert!((200..300).contains(&status), "{status}: {told}\n{}", self.log());
        }
    }

    /// Resets the application's database, and remembers the external effects so far.
    pub async fn reset(&self) -> Mark {
        self.place.sql(&fixture::tables()).await;
        self.mark()
    }

    /// The URL for notifications of runs.
    pub fn notification_url(&self) -> String {
        format!("{}{}", self.http.url, super::http::TOLD)
    }

    /// Returns the external effects so far.
    pub fn mark(&self) -> Mark {
        Mark { mails: self.mail.mail_count(), requests: self.http.requests().len() }
    }

    /// Returns everything that is visible of runs, and the external effects since the mark.
    pub async fn seen(&mut self, ids: &[String], mark: &Mark) -> (Value, [Done; 2]) {
        let mut runs = Vec::new();
        for id in ids {
            let (_, run) = self.get(&format!("/v1/runs/{id}")).await;
            let mut seen = seen::run(&run);
            let mut artifacts = Vec::new();
            for file in run["artifacts"].as_array().into_iter().flatten() {
                let bytes = self.download(file["id"].as_str().expect("an id")).await;
                let facts = [&file["name"], &file["content_type"], &file["size"]].map(Value::to_string);
                artifacts.push(format!("{} {}", facts.join(" "), seen::digest(&bytes)));
            }
            artifacts.sort();
            seen["artifacts"] = json!(artifacts);
            runs.push(seen);
        }
        runs.sort_by_key(Value::to_string);
        eventually("an empty queue", async || (self.place.jobs().await == 0).then_some(())).await;
        let rows = seen::rows(&self.place.app_url()).await;
        let taken = self.mail.mails_after(mark.mails);
        let requests = self.http.requests().split_off(mark.requests);
        let requests = Done::new(requests.into_iter().map(|request| (request.id, request.what)));
        (json!({ "runs": runs, "database": rows }), [seen::mails(&taken), requests])
    }

    /// Returns the mails since the mark.
    pub fn mails_since(&self, mark: &Mark) -> Done {
        seen::mails(&self.mail.mails_after(mark.mails))
    }

    async fn download(&mut self, id: &str) -> Vec<u8> {
        for _ in 0..100 {
            let request = self.process.request(Method::GET, &format!("/v1/artifacts/{id}"));
            if let Ok(answer) = request.send().await {
                assert!(answer.status().is_success(), "{id}: {}", answer.status());
                if let Ok(bytes) = answer.bytes().await {
                    return bytes.to_vec();
                }
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            self.revive().await;
        }
        panic!("no file {id}\n{}", self.log());
    }

    /// Stops the service, which must succeed.
    pub async fn finish(self) {
        let Self { process, place, .. } = self;
        assert!(process.terminate().await.success(), "{}", place.log());
    }
}
