//! The router over a real database and a real object store. A closure that stores runs replaces the engine.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use futures::future::BoxFuture;
use http_body_util::BodyExt;
use serde_json::{Map, Value, json};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

use crate::api::openapi::tests::is_documented;
use crate::api::{
    ApiState, ServerConfig, StartRun, TrustedProxies, WatcherLimits, api_routes, create_api_key, with_common_layers,
};
use crate::codes;
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};
use afterload_core::file_seals::FileSeals;
use afterload_core::keyring::Keyring;
use afterload_core::redactor::Redactor;
use afterload_core::units::ByteSize;
use afterload_egress::{EgressClient, HttpConfig, HttpLimits, WebhookSigner, WebhooksConfig};
use afterload_engine::registry::{
    DiagnosticView, PipelineList, PipelineRegistry, PipelineSummary, RefusedFile, StepSummary,
};
use afterload_engine::{Engine, EngineConfig, EngineDeps, NewRun, RecordSource, RetentionConfig, StartOutcome};
use afterload_metrics::Metrics;
use afterload_object_store::{ObjectStore, ObjectsConfig};
use afterload_pipeline::Param;
use afterload_pipeline::params::{RecordRule, bind_params};
use afterload_s3_server::{self as embedded, EmbeddedStore};
use afterload_state::{Db, DefinitionRecord, RunDeadlines, RunRecord, RunStatus};

/// The API under test, with its stores and an admin key.
pub(super) struct Stage {
    pub router: Router,
    pub app: ApiState,
    pub db: Db,
    pub objects: ObjectStore,
    pub admin: String,
    _store: DropGuard,
    folder: tempfile::TempDir,
}

/// A response, read to its end.
pub(super) struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub bytes: bytes::Bytes,
}

impl Stage {
    pub(super) async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let db =
            Db::open(&format!("sqlite://{}", folder.path().join("a.db").display()), Clock::system()).await.unwrap();
        let definition =
            |name: &str| DefinitionRecord { name: name.into(), digest: name.into(), source: String::new() };
        db.definitions().replace_live(&[definition("contacts-import"), definition("quiet")], &[]).await.unwrap();
        let (objects, store) = objects(folder.path()).await;
        let (webhooks, redactor) = (WebhookSigner::new(&WebhooksConfig::default(), &keyring()), Redactor::new([]));
        let parts = EngineDeps {
            db: db.clone(),
            config: engine_config(),
            objects: objects.clone(),
            records: Arc::new(NoRecords),
            http: EgressClient::new(
                &HttpConfig::default(),
                &HttpLimits::default(),
                webhooks,
                redactor.clone(),
                Clock::system(),
            ),
            redactor,
            metrics: Metrics::default(),
            steps: Vec::new(),
        };
        let engine = Engine::open(parts).await.unwrap();
        let live = PipelineRegistry::default();
        live.replace_list(catalogue());
        let app =
            ApiState::with_start(engine, server_config(), player(db.clone()), live, || json!({ "type": "object" }))
                .unwrap();
        let routes = api_routes().route("/panic", axum::routing::get(panicking));
        let router = with_common_layers(routes, &app).with_state(app.clone());
        let (key, admin) = create_api_key("admin", &["admin".into()], &[], db.now()).unwrap();
        db.api_keys().insert(&key).await.unwrap();
        Self { router, app, db, objects, admin, _store: store, folder }
    }

    /// The folder of the database and the object store.
    pub(super) fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// A new API key with these scopes and the bucket `uploads`.
    pub(super) async fn key(&self, scopes: &[&str]) -> String {
        let scopes: Vec<_> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
        let (key, text) = create_api_key("test", &scopes, &["uploads".into()], self.db.now()).unwrap();
        self.db.api_keys().insert(&key).await.unwrap();
        text
    }

    pub(super) async fn send(&self, request: Request<Body>) -> Answer {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let response = self.router.clone().oneshot(request).await.unwrap();
        let (parts, body) = response.into_parts();
        let bytes = body.collect().await.unwrap().to_bytes();
        let answer = Answer { status: parts.status, headers: parts.headers, bytes };
        let is_problem = answer.headers.get("content-type").is_some_and(|media| media == "application/problem+json");
        let code = if is_problem && !answer.bytes.is_empty() { answer.code() } else { String::new() };
        let documented = is_documented(&method, &path, answer.status, &code).unwrap_or(true);
        assert!(documented, "{method} {path}: {} `{code}` is not in the OpenAPI document", answer.status);
        answer
    }

    pub(super) async fn get(&self, key: &str, path: &str) -> Answer {
        let request = Request::get(path).header("authorization", format!("Bearer {key}"));
        self.send(request.body(Body::empty()).unwrap()).await
    }

    pub(super) async fn post(&self, key: &str, path: &str, media: &str, body: impl Into<Body>) -> Answer {
        let request = Request::post(path).header("authorization", format!("Bearer {key}"));
        let request = request.header("content-type", media);
        self.send(request.body(body.into()).unwrap()).await
    }

    /// Starts a run of `contacts-import` with these JSON parameters.
    pub(super) async fn run(&self, key: &str, params: Value) -> Answer {
        let body = json!({ "params": params }).to_string();
        self.post(key, "/v1/pipelines/contacts-import/runs", "application/json", body).await
    }

    pub(super) async fn exists(&self, bucket: &str, key: &str) -> bool {
        self.objects.head_object(bucket, key).await.is_ok()
    }
}

impl Answer {
    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.bytes).unwrap_or_else(|error| panic!("{error}: {:?}", self.bytes))
    }

    pub(super) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Renders the response for a snapshot: status, headers that clients rely on, body.
    pub(super) fn shown(&self) -> String {
        let shown = ["content-type", "allow", "www-authenticate", "retry-after", "location", "content-range"];
        let mut text = format!("{}\n", self.status);
        for name in shown {
            if let Some(value) = self.headers.get(name) {
                text.push_str(&format!("{name}: {}\n", value.to_str().unwrap()));
            }
        }
        text.push_str(&serde_json::to_string_pretty(&self.json()).unwrap());
        text
    }
}

/// Replaces values that differ between test runs.
pub(super) fn filters() -> insta::Settings {
    let mut settings = insta::Settings::clone_current();
    settings.add_filter(r"token=[A-Za-z0-9_-]{43}", "token=[token]");
    settings.add_filter(r"\b[0-7][0-9A-HJKMNP-TV-Z]{25}\b", "[ulid]");
    settings.add_filter(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", "[time]");
    settings.set_prepend_module_to_snapshot(false);
    settings.set_snapshot_path("../snapshots");
    settings
}

fn catalogue() -> PipelineList {
    let pipeline = |name: &str, params: Value| PipelineSummary {
        name: name.into(),
        description: Some("For tests".into()),
        digest: name.into(),
        triggers: Vec::new(),
        params: params.as_object().cloned().unwrap_or_default(),
        declared: if name == "quiet" { BTreeMap::new() } else { declared() },
        steps: vec![StepSummary { id: "import".into(), uses: "csv.import".into(), mode: "background" }],
        paused_at: None,
        source: Some(format!("name: {name}\n")),
        ..PipelineSummary::default()
    };
    let params = json!({
        "file": { "type": "file", "accept": ["text/csv"], "max_size": "1mb" },
        "extras": { "type": "list", "items": { "type": "file" }, "required": false },
        "email": { "type": "email", "default": "ops@example.com" },
    });
    let fault = DiagnosticView {
        line: 3,
        col: 5,
        code: "definition_invalid",
        message: "unknown field `step`".into(),
        hint: Some("did you mean `steps`".into()),
    };
    PipelineList {
        pipelines: vec![pipeline("quiet", json!({})), pipeline("contacts-import", params)],
        refused: vec![RefusedFile { file: "pipelines/broken.yaml".into(), problems: vec![fault] }],
    }
}

/// The params of `contacts-import`, none of them required.
fn declared() -> BTreeMap<String, Param> {
    let params = json!({
        "file": { "type": "file", "accept": [], "required": false },
        "extras": { "type": "list", "items": { "type": "file", "accept": [] }, "required": false },
        "email": { "type": "email", "required": false },
        "active": { "type": "boolean", "required": false },
    });
    serde_json::from_value(params).unwrap()
}

/// Stores runs as the engine does, without steps. The parameter `email: unavailable` simulates a failing database.
fn player(db: Db) -> StartRun {
    Arc::new(move |run| {
        let db = db.clone();
        Box::pin(async move { play(&db, run).await })
    })
}

async fn play(db: &Db, run: NewRun) -> Result<StartOutcome> {
    if run.params.get("email").is_some_and(|email| email == "unavailable") {
        return Err(Error::new(codes::DATABASE_UNAVAILABLE, "a secret about the database"));
    }
    bind_params(&declared(), run.params.clone())?;
    let record = RunRecord {
        id: run.id,
        digest: run.pipeline.clone(),
        pipeline: run.pipeline,
        status: RunStatus::Queued,
        origin: run.origin.into(),
        params: run.params.into(),
        event: run.event,
        hops: run.hops,
        file_seals: FileSeals::default(),
        error: None,
        revision: 1,
        run_at: run.run_at,
        cancel_requested_at: None,
        deadlines: RunDeadlines::default(),
        timed_out_at: None,
        created_at: Clock::system().now(),
        started_at: None,
        finished_at: None,
        concurrency_slot: None,
    };
    let mut tx = db.begin().await?;
    tx.runs().insert(&record).await?;
    for file in run.uploads {
        let shape = serde_json::to_value(&file).unwrap();
        tx.artifacts().insert(&file.artifact_id.unwrap(), &record.id, None, &shape).await?;
    }
    tx.commit().await?;
    Ok(StartOutcome::Created(Box::new(record)))
}

const BASE_URL: &str = "http://127.0.0.1:8080";
const ARTIFACTS: &str = "artifacts";

fn keyring() -> Keyring {
    Keyring::new("a secret for tests", [])
}

fn engine_config() -> EngineConfig {
    EngineConfig {
        base_url: BASE_URL.into(),
        keyring: keyring(),
        artifacts: ARTIFACTS.into(),
        queues: BTreeMap::new(),
        max_crashes: 3,
        max_hops: 16,
        lease: Duration::from_secs(15),
        drain: Duration::from_secs(25),
        retention: RetentionConfig::default(),
        smtputf8: false,
        secrets: BTreeMap::new(),
    }
}

fn server_config() -> ServerConfig {
    ServerConfig {
        listen: ([127, 0, 0, 1], 8080).into(),
        base_url: BASE_URL.into(),
        keyring: keyring(),
        cors: None,
        artifacts: ARTIFACTS.into(),
        buckets: BTreeSet::new(),
        max_upload: ByteSize(2 << 20),
        max_body: ByteSize(64 << 10),
        max_form_parts: 50,
        max_files: 10,
        inline_wait: Duration::from_secs(10),
        max_wait: Duration::from_secs(60),
        watchers: WatcherLimits::default(),
        trusted_proxies: TrustedProxies::default(),
        max_wrong_keys: 1000,
        webhooks: WebhooksConfig::default(),
    }
}

/// There are no target databases.
struct NoRecords;

impl RecordSource for NoRecords {
    fn read_record<'a>(
        &'a self,
        _: &'a RecordRule,
        _: &'a Value,
        _: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Option<Map<String, Value>>>> {
        Box::pin(async { Ok(None) })
    }
}

async fn objects(folder: &std::path::Path) -> (ObjectStore, DropGuard) {
    let folder = folder.join("objects");
    let credentials = embedded::load_or_create_credentials(&folder).unwrap();
    let listener = embedded::bind_listener(([127, 0, 0, 1], 0).into()).await.unwrap();
    let store = EmbeddedStore::open(&folder, credentials, Clock::system()).unwrap();
    let stop = CancellationToken::new();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    tokio::spawn(store.serve(listener, stop.clone()));
    let objects = ObjectStore::connect(&ObjectsConfig::default(), Some(store.access(endpoint))).await.unwrap();
    for bucket in ["artifacts", "uploads", "secret"] {
        objects.ensure_bucket(bucket).await.unwrap();
    }
    (objects, stop.drop_guard())
}

async fn panicking() -> StatusCode {
    panic!("a secret in a panic")
}
