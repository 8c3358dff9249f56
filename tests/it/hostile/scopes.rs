//! Each route with a key of each single scope: what it permits, and what its answers show.

use std::collections::BTreeSet;

use afterload_server::api::create_api_key;
use afterload_state::UnsubscribeLinkRecord;
use reqwest::Method;
use serde_json::{Value, json};
use ulid::Ulid;

use crate::support::{Database, TestApp, both};

both!(each_scope_permits_and_shows_its_own, an_answer_to_a_writer_holds_no_data);

const OWN: &str = r#"
name: own
description: canary-definition
triggers: [{ type: event, name: own.event, with: { note: "${{ event.note }}" } }]
params:
  note: { type: string }
  needs: { type: string, default: / }
  file: { type: file, required: false }
steps:
  - { id: make, uses: test.step, with: { file: canary-made.txt, give: "${{ params.note }}" } }
  - id: mail
    uses: email.send
    with: { to: a@example.com, subject: Made, body: Made, links: { report: "${{ steps.make.file }}" } }
  - { id: check, uses: test.step, with: { needs_file: "${{ params.needs }}" } }
"#;
const OTHER: &str = "name: other\nsteps: [{ id: one, uses: test.step }]\n";

/// What only those may see who read the run: its params, files and errors, links, and tokens.
const SECRETS: [&str; 4] = ["canary-", "/d/", "token=", "watch_url"];

const SCOPES: [&str; 14] = [
    "admin",
    "runs:read",
    "runs:read:own",
    "runs:read:other",
    "runs:write",
    "runs:write:own",
    "runs:write:other",
    "events:write",
    "events:write:own.event",
    "events:write:other.event",
    "metrics:read",
    "bounces:write",
    "suppressions:read",
    "suppressions:write",
];
const READERS: &[&str] = &["admin", "runs:read", "runs:read:own"];
const WRITERS: &[&str] = &["admin", "runs:write", "runs:write:own"];
/// Those that may read or start it.
const OWN_KEYS: &[&str] = &["admin", "runs:read", "runs:read:own", "runs:write", "runs:write:own"];
const SUPPRESSORS: &[&str] = &["admin", "suppressions:write"];
const ADMIN: &[&str] = &["admin"];
const NOBODY: &[&str] = &[];

/// A route, the scopes that permit it, and those that may see what the run holds.
struct Route {
    method: Method,
    template: &'static str,
    path: String,
    body: Option<Value>,
    permitted: Vec<&'static str>,
    shown: &'static [&'static str],
}

fn route(
    method: &str,
    template: &'static str,
    path: impl Into<String>,
    body: Option<Value>,
    permitted: &[&'static str],
    shown: &'static [&'static str],
) -> Route {
    let (method, path) = (method.parse().unwrap(), path.into());
    Route { method, template, path, body, permitted: permitted.to_vec(), shown }
}

/// What the requests name.
struct Fixture {
    app: TestApp,
    /// A failed run with a file and a link.
    failed: Value,
    link: Value,
    artifact: String,
}

impl Fixture {
    async fn new(database: Database) -> Self {
        let app = TestApp::builder(database)
            .config(|config| {
                config.limits.wrong_keys = 1000;
                config.trusted_proxies = vec!["127.0.0.1".into()];
            })
            .pipeline("own", OWN)
            .pipeline("other", OTHER)
            .start()
            .await;
        let failed = Self::failed_run(&app).await;
        let artifact = failed["artifacts"][0]["id"].as_str().unwrap().to_owned();
        let links: Value = app.get(&format!("/v1/artifacts/{artifact}/links")).await.json().await.unwrap();
        let link = links["links"][0].clone();
        Self { app, failed, link, artifact }
    }

    async fn failed_run(app: &TestApp) -> Value {
        let run = app.run_to_end("own", json!({ "note": "canary-note", "needs": "/canary-missing" })).await;
        assert_eq!(run["status"], "failed", "{run}");
        run
    }

    /// A run that waits for a time far away.
    async fn waiting_run(&self) -> String {
        let body = json!({ "params": { "note": "canary-note" }, "run_at": "2999-01-01T00:00:00Z" });
        let (status, run) = self.app.post("/v1/pipelines/own/runs", body).await;
        assert_eq!(status, 202, "{run}");
        run["id"].as_str().unwrap().to_owned()
    }

    /// An upload whose file has arrived.
    async fn sent_upload(&self) -> String {
        let body = announcement();
        let (status, ticket) = self.app.post("/v1/uploads", body).await;
        assert_eq!(status, 201, "{ticket}");
        let sent = self.app.client.put(ticket["url"].as_str().unwrap()).header("content-type", "text/plain");
        assert_eq!(sent.body("one").send().await.unwrap().status(), 204);
        ticket["id"].as_str().unwrap().to_owned()
    }

    /// All routes. Those that change something get an object of their own.
    async fn routes(&self) -> Vec<Route> {
        let Self { app, failed, link, artifact } = self;
        let run = format!("/v1/runs/{}", failed["id"].as_str().unwrap());
        let retried = Self::failed_run(app).await;
        let retry = format!("/v1/runs/{}/retry", retried["id"].as_str().unwrap());
        let cancel = format!("/v1/runs/{}/cancel", self.waiting_run().await);
        let complete = format!("/v1/uploads/{}/complete", self.sent_upload().await);
        let revoke = format!("/v1/links/{}/revoke", link["id"].as_str().unwrap());
        let (_, token) = link["url"].as_str().unwrap().rsplit_once("/d/").unwrap();
        let start = json!({ "params": { "note": "canary-note" } });
        let (unsubscribe, suppression) = self.mail_paths().await;
        let bounce = Some(json!([{ "event": "bounce", "email": "canary-bounced@example.com" }]));
        let suppress = Some(json!({ "address": "added@example.com" }));
        let any = [OWN_KEYS, &["runs:read:other", "runs:write:other"]].concat();
        let readers = [READERS, &["runs:read:other"]].concat();
        let publishers = ["admin", "events:write", "events:write:own.event"];
        let event = Some(json!({ "note": "canary-note" }));
        let empty = || Some(json!({}));
        vec![
            route("GET", "/v1/pipelines", "/v1/pipelines", None, &any, OWN_KEYS),
            route("GET", "/v1/pipelines/{name}", "/v1/pipelines/own", None, OWN_KEYS, OWN_KEYS),
            route("GET", "/v1/schema", "/v1/schema", None, &SCOPES, NOBODY),
            route("GET", "/v1/queues", "/v1/queues", None, ADMIN, NOBODY),
            route("POST", "/v1/queues/{name}/pause", "/v1/queues/default/pause", empty(), ADMIN, NOBODY),
            route("POST", "/v1/queues/{name}/resume", "/v1/queues/default/resume", empty(), ADMIN, NOBODY),
            route("POST", "/v1/pipelines/{name}/pause", "/v1/pipelines/own/pause", empty(), ADMIN, NOBODY),
            route("POST", "/v1/pipelines/{name}/resume", "/v1/pipelines/own/resume", empty(), ADMIN, NOBODY),
            // The creator of a run gets its token, and so all that the run holds.
            route("POST", "/v1/pipelines/{name}/runs", "/v1/pipelines/own/runs", Some(start), WRITERS, WRITERS),
            route("GET", "/v1/runs", "/v1/runs", None, &readers, READERS),
            route("GET", "/v1/runs/{id}", &run, None, READERS, READERS),
            route("GET", "/v1/runs/{id}/events", format!("{run}/events"), None, READERS, READERS),
            route("POST", "/v1/runs/{id}/cancel", cancel, empty(), WRITERS, ADMIN),
            route("POST", "/v1/runs/{id}/retry", retry, empty(), WRITERS, ADMIN),
            // It shows and starts a run.
            route("POST", "/v1/runs/{id}/replay", format!("{run}/replay"), empty(), ADMIN, ADMIN),
            route("GET", "/v1/runs/{id}/steps/{step}/items", format!("{run}/steps/make/items"), None, READERS, READERS),
            route("GET", "/v1/artifacts/{id}", format!("/v1/artifacts/{artifact}"), None, READERS, READERS),
            route("GET", "/v1/artifacts/{id}/links", format!("/v1/artifacts/{artifact}/links"), None, READERS, READERS),
            // Whoever holds a link may open it.
            route("GET", "/d/{token}", format!("/d/{token}"), None, &SCOPES, &SCOPES),
            route("POST", "/v1/links/{id}/revoke", revoke, empty(), WRITERS, ADMIN),
            route("POST", "/v1/uploads", "/v1/uploads", Some(announcement()), WRITERS, WRITERS),
            // No scope stands in for the token.
            route("PUT", "/v1/uploads/{token}", "/v1/uploads/01ARZ3NDEKTSV4RRFFQ69G5FAV.x", None, NOBODY, NOBODY),
            route("POST", "/v1/uploads/{id}/complete", complete, empty(), WRITERS, ADMIN),
            route("POST", "/v1/hooks/s3", "/v1/hooks/s3", Some(json!({ "Records": [] })), &publishers[..2], NOBODY),
            route("POST", "/v1/events/{name}", "/v1/events/own.event", event, &publishers, NOBODY),
            route("GET", "/u/{token}", &unsubscribe, None, &SCOPES, NOBODY),
            route("POST", "/u/{token}", &unsubscribe, empty(), &SCOPES, NOBODY),
            route("POST", "/v1/mail/bounces", "/v1/mail/bounces", bounce, &["admin", "bounces:write"], NOBODY),
            route(
                "GET",
                "/v1/mail/suppressions",
                "/v1/mail/suppressions",
                None,
                &["admin", "suppressions:read"],
                &["admin", "suppressions:read"],
            ),
            route("POST", "/v1/mail/suppressions", "/v1/mail/suppressions", suppress, SUPPRESSORS, NOBODY),
            route("DELETE", "/v1/mail/suppressions/{id}", suppression, None, SUPPRESSORS, SUPPRESSORS),
            route("GET", "/healthz", "/healthz", None, &SCOPES, NOBODY),
            route("GET", "/readyz", "/readyz", None, &SCOPES, NOBODY),
            // From outside, as the header says.
            route("GET", "/metrics", "/metrics", None, &["admin", "metrics:read"], NOBODY),
            route("GET", "/openapi.json", "/openapi.json", None, &SCOPES, &SCOPES),
        ]
    }

    /// The path of a link to unsubscribe, and that of a suppressed address to remove.
    async fn mail_paths(&self) -> (String, String) {
        let engine = &self.app.app.engine;
        let id = Ulid::from_bytes([7; 16]);
        let link = UnsubscribeLinkRecord {
            id: id.to_string(),
            list: "news".into(),
            address: "canary-reader@example.com".into(),
            run_id: "01RUN".into(),
        };
        engine.db().mail_suppressions().upsert_links(&[link]).await.unwrap();
        let (_, known) = self.app.post("/v1/mail/suppressions", json!({ "address": "canary-gone@example.com" })).await;
        let removal = format!("/v1/mail/suppressions/{}", known["id"].as_str().unwrap());
        (format!("/u/{}", engine.config().keyring.create_unsubscribe_token(id)), removal)
    }

    async fn key(&self, scope: &str) -> String {
        let (stored, text) = create_api_key(scope, &[scope.to_owned()], &[], 0).unwrap();
        self.app.app.engine.db().api_keys().insert(&stored).await.unwrap();
        text
    }

    /// Lets all runs end.
    async fn finish(self) {
        let list: Value = self.app.get("/v1/runs?limit=200").await.json().await.unwrap();
        assert!(list["next_cursor"].is_null(), "all runs are in the list");
        for run in list["runs"].as_array().unwrap() {
            if run["started_at"].is_null() {
                self.app.post(&format!("/v1/runs/{}/cancel", run["id"].as_str().unwrap()), json!({})).await;
            }
            self.app.ended(run).await;
        }
        self.app.finish().await;
    }
}

fn announcement() -> Value {
    json!({ "pipeline": "own", "filename": "canary-sent.txt", "content_type": "text/plain", "size": 3,
            "params": { "note": "canary-note" } })
}

/// The status, and the headers and the body as text.
async fn ask(app: &TestApp, key: &str, route: &Route) -> (u16, String) {
    let mut request = app.client.request(route.method.clone(), format!("{}{}", app.url, route.path)).bearer_auth(key);
    request = request.header("x-forwarded-for", "192.0.2.1");
    if let Some(body) = &route.body {
        request = request.json(body);
    }
    let answer = request.send().await.unwrap();
    let (status, headers) = (answer.status().as_u16(), format!("{:?}", answer.headers()));
    (status, format!("{headers}\n{}", String::from_utf8_lossy(&answer.bytes().await.unwrap())))
}

async fn each_scope_permits_and_shows_its_own(database: Database) {
    let fixture = Fixture::new(database).await;
    let mut tried = BTreeSet::new();
    for scope in SCOPES {
        let key = fixture.key(scope).await;
        for route in fixture.routes().await {
            let (status, text) = ask(&fixture.app, &key, &route).await;
            let what = format!("{scope}: {} {}: {status} {text}", route.method, route.path);
            if route.permitted.contains(&scope) {
                assert!(status < 300, "{what}");
            } else {
                assert!([401, 403, 404].contains(&status), "{what}");
            }
            // Metrics and the API's description name the routes themselves.
            let shown = text.replace("/d/{token}", "");
            let leak = SECRETS.iter().find(|secret| shown.contains(*secret));
            assert!(leak.is_none() || route.shown.contains(&scope), "{leak:?} is shown: {what}");
            if scope.ends_with(":other") {
                assert!(!text.contains("\"own\"") || route.template == "/openapi.json", "another pipeline: {what}");
            }
            tried.insert((route.method.as_str().to_ascii_lowercase(), route.template.to_owned()));
        }
        let sql = "UPDATE download_links SET revoked_at = NULL";
        fixture.app.app.engine.db().execute(sql, &[]).await.unwrap();
    }
    let document: Value = fixture.app.get("/openapi.json").await.json().await.unwrap();
    let paths = document["paths"].as_object().unwrap().iter();
    let known: BTreeSet<_> = paths
        .flat_map(|(path, methods)| {
            methods.as_object().unwrap().keys().map(move |method| (method.clone(), path.clone()))
        })
        .collect();
    assert_eq!(tried, known, "each route is tried");
    fixture.finish().await;
}

async fn an_answer_to_a_writer_holds_no_data(database: Database) {
    let fixture = Fixture::new(database).await;
    let key = fixture.key("runs:write:own").await;
    let post = async |path: String| {
        let request = fixture.app.client.post(format!("{}{path}", fixture.app.url)).bearer_auth(&key);
        request.send().await.unwrap().json::<Value>().await.unwrap()
    };
    let fields = |answer: &Value| answer.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let run = fixture.waiting_run().await;
    let cancelled = post(format!("/v1/runs/{run}/cancel")).await;
    assert_eq!((&cancelled["id"], &cancelled["status"]), (&json!(run), &json!("cancelled")));
    assert_eq!(fields(&cancelled), ["id", "pipeline", "status", "revision"]);
    // Another key that sends the request of somebody else again learns nothing of the run.
    let repeated = async |key: &str| {
        let request = fixture.app.client.post(format!("{}/v1/pipelines/own/runs", fixture.app.url)).bearer_auth(key);
        let request =
            request.header("idempotency-key", "order-7").json(&json!({ "params": { "note": "canary-note" } }));
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 202);
        answer.json::<Value>().await.unwrap()
    };
    let first = repeated(&key).await;
    let other = fixture.key("runs:write").await;
    let receipt = repeated(&other).await;
    assert_eq!((&receipt["id"], fields(&receipt).len()), (&first["id"], 4), "{receipt}");
    for creator in [&key, &fixture.app.admin_key] {
        assert_eq!(repeated(creator).await["watch_url"], first["watch_url"], "for its creator, and for readers");
    }
    let upload = fixture.sent_upload().await;
    for _ in 0..2 {
        let completed = post(format!("/v1/uploads/{upload}/complete")).await;
        assert_eq!((&completed["id"], fields(&completed).len()), (&json!(upload), 4), "{completed}");
    }
    let revoked = post(format!("/v1/links/{}/revoke", fixture.link["id"].as_str().unwrap())).await;
    assert_eq!(fields(&revoked), ["id", "revoked_at"]);
    fixture.finish().await;
}
