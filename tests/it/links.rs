//! Download links in mails, from their creation to their expiry.

use reqwest::Response;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually};

both!(link_in_mail_downloads_and_counts, unusable_link_shows_a_plain_page, retried_mail_has_the_same_link);

const YAML: &str = r#"
name: report
steps:
  - { id: make, uses: test.step, with: { file: "größe.html" } }
  - id: mail
    uses: email.send
    retry: { delay: 100ms }
    with:
      to: [a@example.com, b@example.com]
      subject: Your report
      body: Here it is.
      links: { report: "${{ steps.make.file }}" }
      expires: 1h
"#;

/// Returns the link in the text of a mail.
fn link_in(mail: &str) -> String {
    let parsed = mailparse::parse_mail(mail.as_bytes()).unwrap();
    let body = parsed.get_body().unwrap();
    body.lines().find_map(|line| line.strip_prefix("report: ")).unwrap_or_else(|| panic!("{body}")).trim().to_owned()
}

async fn sent(app: &TestApp) -> (Value, String) {
    let run = app.run_to_end("report", json!({})).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let links: Vec<_> = app.mails().iter().map(|mail| link_in(mail)).collect();
    assert_eq!((links.len(), &links[0]), (2, &links[1]), "everybody receives the same link");
    (run, links[0].clone())
}

async fn ask(app: &TestApp, link: &str, headers: &[(&str, &str)]) -> Response {
    let request = app.client.get(link);
    headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send().await.unwrap()
}

async fn links(app: &TestApp, run: &Value) -> Vec<Value> {
    let artifact = run["artifacts"][0]["id"].as_str().unwrap();
    let list: Value = app.get(&format!("/v1/artifacts/{artifact}/links")).await.json().await.unwrap();
    list["links"].as_array().unwrap().clone()
}

async fn link_in_mail_downloads_and_counts(database: Database) {
    let app = TestApp::builder(database).pipeline("report", YAML).start().await;
    let (run, link) = sent(&app).await;
    assert!(link.starts_with(&format!("{}/d/", app.url)), "{link}");
    let whole = ask(&app, &link, &[("accept", "text/html")]).await;
    assert_eq!(whole.status(), 200);
    let header = |name: &str| whole.headers()[name].to_str().unwrap().to_owned();
    assert!(header("content-disposition").starts_with("attachment; filename=\"gr__e.html\"; filename*=UTF-8''"));
    assert_eq!(header("x-content-type-options"), "nosniff");
    assert_eq!(header("content-security-policy"), "sandbox; default-src 'none'");
    let etag = header("etag");
    assert_eq!(whole.text().await.unwrap(), "made by a test\n");

    let head = app.client.head(&link).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.headers()["content-length"].to_str().unwrap()), (200, "15"));
    assert_eq!(ask(&app, &link, &[("if-none-match", &etag)]).await.status(), 304);
    let first = ask(&app, &link, &[("range", "bytes=0-3")]).await;
    assert_eq!((first.status().as_u16(), first.text().await.unwrap().as_str()), (206, "made"));
    let rest = ask(&app, &link, &[("range", "bytes=4-")]).await;
    assert_eq!((rest.status().as_u16(), rest.text().await.unwrap().as_str()), (206, " by a test\n"));
    let listed = links(&app, &run).await;
    assert_eq!((listed.len(), &listed[0]["downloads"], &listed[0]["url"]), (1, &json!(2), &json!(link)));
    assert!(listed[0]["last_download_at"].is_string() && listed[0]["revoked_at"].is_null());
    app.finish().await;
}

async fn unusable_link_shows_a_plain_page(database: Database) {
    let app = TestApp::builder(database).pipeline("report", YAML).start().await;
    let (run, link) = sent(&app).await;
    let assert_page = async |link: &str, status: u16, code: &str, title: &str| {
        let problem = ask(&app, link, &[]).await;
        assert_eq!(problem.status(), status, "{code}");
        assert_eq!(problem.json::<Value>().await.unwrap()["code"], code);
        let page = ask(&app, link, &[("accept", "text/html,application/xhtml+xml;q=0.9")]).await;
        assert_eq!(
            (page.status().as_u16(), page.headers()["content-type"].to_str().unwrap()),
            (status, "text/html; charset=utf-8")
        );
        assert_eq!(page.headers()["content-security-policy"], "default-src 'none'");
        let page = page.text().await.unwrap();
        assert!(page.contains(&format!("<h1>{title}</h1>")), "{page}");
    };
    let db = app.app.engine.db();
    let token = link.rsplit('/').next().unwrap();
    let other = if &token[30..31] == "A" { "B" } else { "A" };
    for forged in ["x".to_owned(), "A".repeat(43), format!("{}{other}{}", &token[..30], &token[31..])] {
        assert_page(&format!("{}/d/{forged}", app.url), 404, "link_not_found", "There is no such link").await;
    }
    let before = links(&app, &run).await[0]["expires_at"].clone();
    db.execute("UPDATE download_links SET expires_at = created_at", &[]).await.unwrap();
    assert_page(&link, 410, "link_expired", "The link has expired").await;
    db.execute("UPDATE download_links SET expires_at = created_at + 3600000", &[]).await.unwrap();
    assert_eq!(links(&app, &run).await[0]["expires_at"], before, "as long as the mail promised");
    assert_eq!(ask(&app, &link, &[]).await.status(), 200);

    let id = links(&app, &run).await[0]["id"].as_str().unwrap().to_owned();
    let revoke = async |key: &str, id: &str| {
        app.client.post(format!("{}/v1/links/{id}/revoke", app.url)).bearer_auth(key).send().await.unwrap()
    };
    let (stored, other) = afterload_server::api::create_api_key("other", &["runs:write:other".into()], &[], 0).unwrap();
    db.api_keys().insert(&stored).await.unwrap();
    assert_eq!(revoke(&other, &id).await.status(), 404, "another pipeline's key knows of no link");
    let revoked: Value = revoke(&app.admin_key, &id).await.json().await.unwrap();
    assert!(revoked["revoked_at"].is_string(), "{revoked}");
    assert_eq!(revoke(&app.admin_key, &id).await.json::<Value>().await.unwrap(), revoked, "twice is once");
    assert_page(&link, 410, "link_revoked", "The link has been taken back").await;

    db.execute("UPDATE download_links SET revoked_at = NULL", &[]).await.unwrap();
    db.execute("UPDATE artifacts SET expired_at = created_at", &[]).await.unwrap();
    assert_page(&link, 410, "file_expired", "The file has expired").await;
    let artifact = run["artifacts"][0]["id"].as_str().unwrap();
    assert_eq!(app.get(&format!("/v1/artifacts/{artifact}")).await.status(), 410);
    db.execute("DELETE FROM download_links", &[]).await.unwrap();
    assert_page(&link, 410, "link_expired", "The link has expired").await;
    app.finish().await;
}

async fn retried_mail_has_the_same_link(database: Database) {
    let app = TestApp::builder(database).pipeline("report", YAML).start().await;
    // A file in place of the outbox folder makes every mail fail.
    std::fs::write(app.config.outbox_dir(), "").unwrap();
    let run = app.run("report", json!({})).await;
    let id = run["id"].as_str().unwrap();
    let made = eventually("a link of a mail that failed", async || {
        let run = app.show(id).await;
        let failed = run["steps"][1]["error"].is_object() && !run["artifacts"].as_array().unwrap().is_empty();
        if failed { links(&app, &run).await.pop() } else { None }
    })
    .await;
    std::fs::remove_file(app.config.outbox_dir()).unwrap();
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    assert!(run["steps"][1]["attempt"].as_u64().unwrap() > 1);
    assert!(app.mails().iter().all(|mail| made["url"] == link_in(mail)));
    assert_eq!(links(&app, &run).await.len(), 1);
    app.finish().await;
}
