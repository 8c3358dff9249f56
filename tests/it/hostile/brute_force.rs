//! Guesses of keys and tokens: each address may make a few, and those who share it keep working.

use afterload_server::api::create_api_key;
use reqwest::{Method, Response};
use serde_json::Value;

use crate::support::{Database, Place, TestApp, both};

both!(wrong_keys_are_limited_by_address, wrong_tokens_are_limited_too, admin_key_ends_with_its_variable);

const LIMIT: usize = 5;
const PIPELINE: &str = "name: up\nparams: { file: { type: file } }\nsteps:\n  \
                        - { id: make, uses: test.step, with: { file: made.txt } }\n  \
                        - id: mail\n    uses: email.send\n    with: { to: a@example.com, subject: Made, body: Made, \
                        links: { report: \"${{ steps.make.file }}\" } }\n";

async fn start(database: Database) -> TestApp {
    let builder = TestApp::builder(database).pipeline("up", PIPELINE);
    let builder = builder.config(|config| {
        config.limits.wrong_keys = LIMIT as u32;
        config.trusted_proxies = vec!["127.0.0.1".into()];
    });
    builder.start().await
}

/// A caller behind the proxy.
struct Client<'a> {
    app: &'a TestApp,
    address: &'a str,
}

impl Client<'_> {
    async fn send(&self, method: Method, path: &str, key: Option<&str>) -> Response {
        let url = if path.starts_with('/') { format!("{}{path}", self.app.url) } else { path.to_owned() };
        let mut request = self.app.client.request(method, url).header("x-forwarded-for", self.address);
        if let Some(key) = key {
            request = request.bearer_auth(key);
        }
        request.send().await.unwrap()
    }

    async fn get(&self, path: &str, key: &str) -> Response {
        self.send(Method::GET, path, Some(key)).await
    }
}

/// The seconds of `Retry-After` of an answer above the limit.
async fn assert_limited(answer: Response) {
    assert_eq!(answer.status(), 429);
    let seconds: u64 = answer.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=61).contains(&seconds), "{seconds}");
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["code"], "too_many_attempts", "{body}");
}

async fn new_key(app: &TestApp, scope: &str) -> String {
    let (stored, text) = create_api_key("test", &[scope.to_owned()], &[], 0).unwrap();
    app.app.engine.db().api_keys().insert(&stored).await.unwrap();
    text
}

async fn wrong_keys_are_limited_by_address(database: Database) {
    let app = start(database).await;
    let client = |address| Client { app: &app, address };
    let (attacker, neighbor) = (client("2001:db8::1"), client("2001:db8::2"));
    // A key that a person chose works where it has been used before.
    assert_eq!(neighbor.get("/v1/runs", &app.admin_key).await.status(), 200);
    let wrong = ["al_aaaaaaaaaa_00", "guess-of-a-key-that-a-person-chose", "x"];
    for key in wrong.iter().cycle().take(LIMIT) {
        assert_eq!(attacker.get("/v1/runs", key).await.status(), 401);
    }
    for key in wrong {
        assert_limited(attacker.get("/v1/runs", key).await).await;
    }
    assert_limited(neighbor.get("/v1/runs", wrong[0]).await).await;
    let right = new_key(&app, "runs:read").await;
    for client in [&attacker, &neighbor] {
        assert_eq!(client.get("/v1/runs", &right).await.status(), 200, "a new key of the service works at once");
        assert_eq!(client.get("/v1/runs", &app.admin_key).await.status(), 200, "so does one that was used here");
        assert_eq!(client.send(Method::GET, "/healthz", Some(wrong[0])).await.status(), 200);
        assert_eq!(client.send(Method::GET, "/v1/runs", None).await.status(), 401, "no key is no guess");
    }
    for other in ["2001:db8:0:1::1", "192.0.2.1"] {
        assert_eq!(client(other).get("/v1/runs", wrong[0]).await.status(), 401, "another address");
    }
    // What the proxy adds counts, and what a client invents does not.
    let forged = client("192.0.2.7, 2001:db8::1");
    assert_limited(forged.get("/v1/runs", wrong[0]).await).await;
    app.finish().await;
}

async fn wrong_tokens_are_limited_too(database: Database) {
    let app = start(database).await;
    let run = app.upload("up", "a.txt", b"one".to_vec()).await;
    let watch_url = run["watch_url"].as_str().unwrap().to_owned();
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let id = run["id"].as_str().unwrap();
    let artifact = run["artifacts"].as_array().unwrap().iter().find(|artifact| artifact["step"] == "make").unwrap();
    let artifact = artifact["id"].as_str().unwrap();
    let links: Value = app.get(&format!("/v1/artifacts/{artifact}/links")).await.json().await.unwrap();
    let link = links["links"][0]["url"].as_str().unwrap().to_owned();
    let get = Method::GET;
    let guesses = [
        (get.clone(), format!("/v1/runs/{id}?token=x"), 401),
        (get.clone(), format!("/v1/runs/{id}/events?token=x"), 401),
        (get.clone(), format!("/v1/artifacts/{artifact}?token=x"), 401),
        (get.clone(), "/d/x".to_owned(), 404),
        (Method::POST, "/u/x".to_owned(), 404),
        (Method::POST, "/v1/mail/bounces?token=x".to_owned(), 401),
        (Method::PUT, format!("/v1/uploads/{id}.x"), 401),
        (Method::POST, format!("/v1/uploads/{id}/complete?token=x"), 401),
        (Method::POST, "/v1/hooks/s3?token=x".to_owned(), 401),
    ];
    for (at, (method, path, status)) in guesses.into_iter().enumerate() {
        let address = format!("192.0.2.{at}");
        let attacker = Client { app: &app, address: &address };
        for _ in 0..LIMIT {
            assert_eq!(attacker.send(method.clone(), &path, None).await.status(), status, "{path}");
        }
        assert_limited(attacker.send(method, &path, None).await).await;
        for right in [&watch_url, &link] {
            assert_eq!(attacker.send(Method::GET, right, None).await.status(), 200, "{path}: {right}");
        }
    }
    // People see a page, and pages of other origins may read the answer.
    let asked = app.client.get(format!("{}/d/x", app.url)).header("x-forwarded-for", "192.0.2.0");
    let page = asked.header("accept", "text/html").send().await.unwrap();
    assert_eq!(
        (page.status().as_u16(), page.headers()["content-type"].to_str().unwrap()),
        (429, "text/html; charset=utf-8")
    );
    assert!(page.headers().contains_key("retry-after"));
    let attacker = Client { app: &app, address: "192.0.2.0" };
    let answer = attacker.send(Method::GET, &format!("/v1/runs/{id}?token=x"), None).await;
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    assert_limited(answer).await;
    app.finish().await;
}

async fn admin_key_ends_with_its_variable(database: Database) {
    let mut place = Place::new(database).await;
    let process = place.serve(&[]).await;
    let status = async |process: &crate::support::Process| {
        process.request(Method::GET, "/v1/runs").send().await.unwrap().status().as_u16()
    };
    assert_eq!(status(&process).await, 200);
    process.terminate().await;
    place.set("ADMIN_KEY", "another-key-that-somebody-chose");
    let process = place.serve(&[]).await;
    assert_eq!(status(&process).await, 401, "the variable has another value");
    process.terminate().await;
    assert!(place.log().contains("`AFTERLOAD_ADMIN_KEY` has replaced an admin key"), "{}", place.log());
    place.env.retain(|(name, _)| name != "AFTERLOAD_ADMIN_KEY");
    place.serve(&[]).await.terminate().await;
    place.set("ADMIN_KEY", "");
    let process = place.serve(&[]).await;
    assert_eq!(status(&process).await, 401, "the variable is not set");
    process.terminate().await;
    assert!(place.log().contains("`AFTERLOAD_ADMIN_KEY` is not set any more"), "{}", place.log());
}
