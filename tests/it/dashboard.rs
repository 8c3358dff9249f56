//! The pages of the dashboard over HTTP: who signs in, what a session permits, and what each answer forbids the browser.

use afterload_dashboard::{PAGE_ROUTES, WRITE_ROUTES};
use afterload_server::api::create_sign_in_code;
use regex::Regex;
use reqwest::header::{CONTENT_TYPE, COOKIE, HeaderMap, LOCATION, ORIGIN, SET_COOKIE};
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both};

both!(sign_in_works_once_and_from_our_own_page_only, pages_show_and_change_what_the_session_permits);

const GREET: &str = r#"
name: greet
description: Greets <b>somebody</b>
triggers: [{ type: cron, schedule: "0 6 * * MON", timezone: Europe/Paris }]
params:
  note: { type: string, default: "<script>alert(1)</script>" }
  count: { type: integer, default: 1 }
steps:
  - { id: make, uses: test.step, with: { file: "<img src=x>.txt", give: "${{ params.note }}" } }
"#;
const BROKEN: &str = r#"
name: broken
steps: [{ id: fail, uses: test.step, with: { refuse: "<script>alert(2)</script>" } }]
"#;

/// An answer, read to its end.
struct Answer {
    status: u16,
    headers: HeaderMap,
    text: String,
}

impl Answer {
    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A browser without JavaScript: it keeps one cookie and does not follow redirects by itself.
struct Browser {
    client: reqwest::Client,
    url: String,
    cookie: String,
}

impl Browser {
    fn new(app: &TestApp) -> Self {
        let client = reqwest::Client::builder().tls_certs_only([]).redirect(reqwest::redirect::Policy::none());
        Self { client: client.build().unwrap(), url: app.url.clone(), cookie: String::new() }
    }

    /// A browser that has signed in with these scopes.
    async fn signed_in(app: &TestApp, scopes: &[&str]) -> Self {
        let mut browser = Self::new(app);
        let answer = browser.enter(&new_code(app, scopes).await).await;
        assert_eq!((answer.status, answer.header("location")), (303, "/ui/"), "{}", answer.text);
        let cookie = answer.headers[SET_COOKIE].to_str().unwrap();
        browser.cookie = cookie.split(';').next().unwrap().to_owned();
        browser
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> Answer {
        let response = request.header(COOKIE, &self.cookie).send().await.unwrap();
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        Answer { status, headers, text: response.text().await.unwrap() }
    }

    async fn get(&self, path: &str) -> Answer {
        self.send(self.client.get(format!("{}{path}", self.url))).await
    }

    async fn post_from(&self, origin: Option<&str>, path: &str, form: &str) -> Answer {
        let mut request = self.client.post(format!("{}{path}", self.url)).body(form.to_owned());
        request = request.header(CONTENT_TYPE, "application/x-www-form-urlencoded");
        if let Some(origin) = origin {
            request = request.header(ORIGIN, origin);
        }
        self.send(request).await
    }

    async fn post(&self, path: &str, form: &str) -> Answer {
        self.post_from(Some(&self.url), path, form).await
    }

    async fn enter(&self, code: &str) -> Answer {
        self.post("/ui/enter", &format!("code={code}")).await
    }
}

async fn new_code(app: &TestApp, scopes: &[&str]) -> String {
    let scopes: Vec<_> = scopes.iter().map(|scope| (*scope).to_owned()).collect();
    create_sign_in_code(app.app.engine.db(), &scopes).await.unwrap()
}

/// The path of a route for this run.
fn path_of(route: &str, run: &str) -> String {
    let name = if route.contains("/queues/") { "default" } else { "greet" };
    route.replace("{name}", name).replace("{id}", run)
}

async fn sign_in_works_once_and_from_our_own_page_only(database: Database) {
    let app = TestApp::builder(database).pipeline("greet", GREET).start().await;
    let browser = Browser::new(&app);
    for (path, next) in [("/", "/ui/"), ("/ui", "/ui/"), ("/ui/runs?q=a", "/ui/enter?next=%2Fui%2Fruns%3Fq%3Da")] {
        let answer = browser.get(path).await;
        assert_eq!((answer.status, answer.header("location")), (303, next), "{path}");
    }
    assert!(browser.get("/ui/enter").await.text.contains("afterload ui"));

    let code = new_code(&app, &["admin"]).await;
    for origin in [None, Some("null"), Some("https://evil.example"), Some("http://127.0.0.1:1")] {
        let answer = browser.post_from(origin, "/ui/enter", &format!("code={code}")).await;
        assert_eq!(answer.status, 403, "{origin:?}");
        assert!(answer.text.contains("origin_refused") && !answer.headers.contains_key(SET_COOKIE), "{origin:?}");
    }
    assert_eq!(browser.enter("aaaaa-bbbbb-ccccc-ddddd").await.status, 401);
    let first = browser.post("/ui/enter", &format!("next=%2Fui%2Fruns&code={code}")).await;
    assert_eq!((first.status, first.header("location")), (303, "/ui/runs"));
    let cookie = first.header("set-cookie");
    assert!(cookie.starts_with("afterload=als_") && cookie.contains("; HttpOnly; SameSite=Lax"), "{cookie}");
    assert!(cookie.contains("; Path=/; Max-Age=43200") && !cookie.contains("Domain"), "{cookie}");
    let again = browser.enter(&code).await;
    assert_eq!(again.status, 401);
    assert!(again.text.contains("was used before") && !again.headers.contains_key(SET_COOKIE), "{}", again.text);

    let db = app.app.engine.db();
    let old = new_code(&app, &["admin"]).await;
    db.execute("UPDATE dashboard_sessions SET expires_at = 0 WHERE kind = 'code'", &[]).await.unwrap();
    assert_eq!(browser.enter(&old).await.status, 401);

    // Neither the code nor the token is stored as it is.
    let signed_in = Browser::signed_in(&app, &["admin"]).await;
    let rows = db.fetch("SELECT hash FROM dashboard_sessions", &[]).await.unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let hash = row.get_text("hash").unwrap();
        assert!(hash.len() == 64 && !signed_in.cookie.contains(&hash));
    }
    assert_eq!(signed_in.get("/ui/").await.status, 200);
    let out = signed_in.post("/ui/sign-out", "").await;
    assert!(out.status == 303 && out.header("set-cookie").contains("Max-Age=0"));
    assert_eq!(signed_in.get("/ui/").await.status, 303, "the old cookie works no more");
    app.finish().await;
}

async fn pages_show_and_change_what_the_session_permits(database: Database) {
    let app = TestApp::builder(database).pipeline("greet", GREET).pipeline("broken", BROKEN).start().await;
    let run = app.run_to_end("greet", json!({})).await;
    let failed = app.run_to_end("broken", json!({})).await;
    let (id, failed_id) = (run["id"].as_str().unwrap(), failed["id"].as_str().unwrap());
    let admin = Browser::signed_in(&app, &["admin"]).await;
    let viewer = Browser::signed_in(&app, &["runs:read"]).await;
    let stranger = Browser::signed_in(&app, &["runs:read:other"]).await;

    for route in PAGE_ROUTES {
        for (browser, run) in [(&admin, id), (&admin, failed_id), (&viewer, id)] {
            let answer = browser.get(&path_of(route, run)).await;
            assert_eq!(answer.status, 200, "{route}: {}", answer.text);
            forbids_what_it_must(route, &answer);
        }
    }
    let page = admin.get(&format!("/ui/runs/{failed_id}")).await.text;
    assert!(page.contains("It failed in step fail.") && page.contains("test_refused"), "{page}");
    assert_eq!(stranger.get(&format!("/ui/runs/{id}")).await.status, 404);
    assert_eq!(stranger.get("/ui/pipelines/greet").await.status, 404);
    assert!(!stranger.get("/ui/runs").await.text.contains(id));
    let found = admin.get("/ui/runs?q=code%3Atest_refused+since%3A1h").await.text;
    assert!(found.contains(failed_id) && !found.contains(id), "{found}");
    assert!(admin.get("/ui/runs?q=color%3Ared").await.text.contains("is not understood"));
    let now = admin.get("/ui/").await;
    assert!(now.text.contains("1 run failed in the last 24 hours") && now.text.contains("every Monday at 06:00"));
    let unknown = admin.get("/ui/nothing/here").await;
    assert!(unknown.status == 404 && unknown.text.contains("href=\"/ui/\""), "{}", unknown.text);
    assert_eq!(app.get("/nothing").await.json::<Value>().await.unwrap()["code"], "not_found");

    // A file goes through the API, with its own policy and as a download.
    let file = run["artifacts"][0]["id"].as_str().unwrap();
    let download = viewer.get(&format!("/ui/files/{file}")).await;
    assert_eq!(download.status, 200);
    assert!(download.header("content-security-policy").starts_with("sandbox"), "{:?}", download.headers);
    assert!(download.header("content-disposition").starts_with("attachment"));
    assert_eq!(stranger.get(&format!("/ui/files/{file}")).await.status, 404);

    for route in WRITE_ROUTES {
        let (path, form) = (path_of(route, id), format!("id={id}&action=cancel"));
        let refused = viewer.post(&path, &form).await;
        assert_eq!(refused.status, 403, "{path}: {}", refused.text);
        assert!(refused.text.contains("scope_missing"), "{path}: {}", refused.text);
        for origin in [None, Some("https://evil.example")] {
            let refused = admin.post_from(origin, &path, &form).await;
            assert_eq!(refused.status, 403, "{path}");
            assert!(refused.text.contains("origin_refused"), "{path}: {}", refused.text);
        }
        let without = Browser::new(&app).post(&path, &form).await;
        assert_eq!((without.status, without.header("location")), (303, "/ui/enter?next=%2Fui%2F"), "{path}");
    }
    assert_eq!(app.get("/v1/runs").await.json::<Value>().await.unwrap()["runs"].as_array().unwrap().len(), 2);
    changes_happen(&app, &admin, id, failed_id).await;
    app.finish().await;
}

/// What the forms do, seen by the API.
async fn changes_happen(app: &TestApp, admin: &Browser, id: &str, failed_id: &str) {
    let is_paused = async |path: &str| {
        let answer: Value = app.get(path).await.json().await.unwrap();
        let mut queues = answer["queues"].as_array().into_iter().flatten();
        queues.find(|queue| queue["name"] == "default").unwrap_or(&answer)["paused_at"].is_string()
    };
    for (form, shown) in [("/ui/queues/default", "/v1/queues"), ("/ui/pipelines/greet", "/v1/pipelines/greet")] {
        for (action, paused) in [("pause", true), ("resume", false)] {
            let answer = admin.post(&format!("{form}/{action}"), "").await;
            assert_eq!(answer.status, 303, "{}", answer.text);
            assert_eq!(is_paused(shown).await, paused, "{form} {action}");
            assert_eq!(admin.get("/ui/").await.text.contains("Resume default"), paused && shown == "/v1/queues");
        }
    }
    let part = reqwest::multipart::Part::text("5");
    let form = reqwest::multipart::Form::new().part("count", part).text("note", "from a form");
    let request = admin.client.post(format!("{}/ui/pipelines/greet/runs", app.url)).header(ORIGIN, &app.url);
    let started = shown_run(app, &admin.send(request.multipart(form)).await).await;
    assert_eq!(started["params"], json!({ "count": 5, "note": "from a form" }));

    let again = admin.post(&format!("/ui/runs/{id}/again"), "count=7&note=%3Cscript%3Ealert(1)%3C%2Fscript%3E").await;
    let again = shown_run(app, &again).await;
    assert_eq!(again["params"], json!({ "count": 7, "note": "<script>alert(1)</script>" }));
    assert_eq!(again["origin"].as_str().map(|origin| origin.starts_with("replay")), Some(true), "{again}");

    let wrong = admin.post(&format!("/ui/runs/{id}/again"), "count=many").await;
    assert!(wrong.status == 422 && wrong.text.contains("params_invalid") && wrong.text.contains("<code>count</code>"));
    let ended = admin.post(&format!("/ui/runs/{id}/cancel"), "").await;
    assert!(ended.status == 409 && ended.text.contains("run_ended"), "{}", ended.text);
    let back = "status%3Dfailed";
    let many = admin.post("/ui/runs", &format!("action=retry&id={id}&id={failed_id}&back={back}")).await;
    assert_eq!((many.status, many.header("location")), (303, "/ui/runs?notice=some-refused&status=failed"));
    let retried = app.ended(&json!({ "id": failed_id })).await;
    assert_eq!(retried["status"], "failed");
    let live = admin.post(&format!("/ui/runs/{failed_id}/retry"), "definition=live").await;
    assert_eq!(live.status, 303, "{}", live.text);
    app.ended(&retried).await;
}

/// The run that an answer leads to, once it has ended.
async fn shown_run(app: &TestApp, answer: &Answer) -> Value {
    assert_eq!(answer.status, 303, "{}", answer.text);
    let location = answer.headers[LOCATION].to_str().unwrap();
    let id = location.strip_prefix("/ui/runs/").and_then(|rest| rest.split('?').next()).unwrap();
    app.ended(&json!({ "id": id })).await
}

/// Each page forbids what it does not need, has nothing inline, and shows texts as texts.
fn forbids_what_it_must(route: &str, answer: &Answer) {
    let policy = answer.header("content-security-policy");
    for part in
        ["default-src 'none'", "script-src 'self'", "style-src 'self'", "frame-ancestors 'none'", "base-uri 'none'"]
    {
        assert!(policy.contains(part), "{route}: {policy}");
    }
    assert!(!policy.contains("unsafe") && answer.header("x-content-type-options") == "nosniff", "{route}");
    assert_eq!(
        (answer.header("cache-control"), answer.header("referrer-policy")),
        ("no-store", "same-origin"),
        "{route}"
    );
    let inline = Regex::new(r"(?i)<style|\sstyle=|\son[a-z]+=|javascript:|<script>|<img src=x>").unwrap();
    let found = inline.find(&answer.text).map(|found| found.as_str());
    assert_eq!(found, None, "{route}: {}", answer.text);
    let scripts = answer.text.matches("<script").count();
    assert_eq!((scripts, answer.text.matches("<script src=\"/ui/assets/").count()), (1, 1), "{route}");
}
