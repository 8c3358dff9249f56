//! Unsubscribing from a list, and addresses whose mails come back, with a real mail server.

use afterload::config::SmtpTls;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mailparse::MailHeaderMap;
use serde_json::{Value, json};

use crate::smtp::{Server, received};
use crate::support::{Database, TestApp, both};

both!(unsubscribed_and_bounced_recipients_get_no_more_mails);

const PUBLIC_URL: &str = "https://mail.example";

const NEWS: &str = r#"
name: news
params: { to: { type: list, items: { type: email } }, list: { type: string, default: weekly } }
steps:
  - id: mail
    uses: email.send
    with: { to: "${{ params.to }}", subject: News, body: Hello, unsubscribe: { list: "${{ params.list }}" } }
"#;
const PLAIN: &str = r#"
name: receipt
params: { to: { type: list, items: { type: email } } }
steps:
  - { id: mail, uses: email.send, with: { to: "${{ params.to }}", subject: Receipt, body: Thanks } }
"#;

/// Sends mails, and returns how many were sent and how many recipients are suppressed.
async fn send(app: &TestApp, pipeline: &str, params: Value) -> (Value, Value) {
    let run = app.run_to_end(pipeline, params).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let outputs = &run["steps"][0]["outputs"];
    assert_eq!(run["steps"][0]["progress"]["done"], run["steps"][0]["progress"]["total"], "{run}");
    (outputs["sent"].clone(), outputs["suppressed"].clone())
}

/// The path of the link in the newest mail to a recipient.
fn link_path(server: &Server, recipient: &str) -> String {
    let mail = server.mails().into_iter().rev().find(|mail| mail["to"][0] == recipient).unwrap();
    let content = STANDARD.decode(mail["content"].as_str().unwrap()).unwrap();
    let parsed = mailparse::parse_mail(&content).unwrap();
    let header = |name: &str| parsed.headers.get_first_value(name).unwrap();
    assert_eq!(header("List-Unsubscribe-Post"), "List-Unsubscribe=One-Click");
    assert_eq!(header("To"), recipient, "it names nobody else");
    let link = header("List-Unsubscribe");
    let url = link.strip_prefix('<').and_then(|link| link.strip_suffix('>')).unwrap();
    assert!(parsed.get_body().unwrap().trim_end().ends_with(&format!("Unsubscribe: {url}")), "the body has it too");
    assert!(!url.contains('@') && !url.contains("example.com"), "{url}");
    url.strip_prefix(PUBLIC_URL).unwrap().to_owned()
}

async fn unsubscribed_and_bounced_recipients_get_no_more_mails(database: Database) {
    let server = Server::start(SmtpTls::None);
    let builder = TestApp::builder(database).pipeline("news", NEWS).pipeline("receipt", PLAIN);
    let app = builder
        .config(|config| {
            config.mail.smtp = Some(server.config());
            config.public_url = Some(PUBLIC_URL.into());
        })
        .start()
        .await;
    let both = || json!({ "to": ["a@example.com", "b@example.com"] });
    assert_eq!(send(&app, "news", both()).await, (json!(2), json!(0)));
    let path = link_path(&server, "a@example.com");
    assert_ne!(path, link_path(&server, "b@example.com"));

    // A scanner that looks at the link changes nothing.
    let page = app.client.get(format!("{}{path}", app.url)).header("accept", "text/html").send().await.unwrap();
    assert_eq!(
        (page.status().as_u16(), page.headers()["content-type"].to_str().unwrap()),
        (200, "text/html; charset=utf-8")
    );
    assert!(page.text().await.unwrap().contains("<button"));
    assert_eq!(send(&app, "news", both()).await, (json!(2), json!(0)));
    assert_eq!(link_path(&server, "a@example.com"), path, "each mail carries the same link");

    // The click of a mail program, and a second one.
    for _ in 0..2 {
        let click = app.client.post(format!("{}{path}", app.url)).body("List-Unsubscribe=One-Click");
        let click = click.header("content-type", "application/x-www-form-urlencoded").send().await.unwrap();
        assert_eq!(click.status(), 200);
    }
    let mut forged = path.clone();
    forged.replace_range(path.len() - 3.., "AAA");
    let refused = app.client.post(format!("{}{forged}", app.url)).header("accept", "text/html").send().await.unwrap();
    assert_eq!(
        (refused.status().as_u16(), refused.headers()["content-security-policy"].to_str().unwrap()),
        (404, "default-src 'none'")
    );

    let before = received(&server).len();
    assert_eq!(send(&app, "news", both()).await, (json!(1), json!(1)));
    assert_eq!(send(&app, "news", json!({ "to": ["A@Example.com"] })).await, (json!(0), json!(1)), "nobody is left");
    // Other lists, and mails without one, still arrive.
    assert_eq!(send(&app, "news", json!({ "to": ["a@example.com"], "list": "monthly" })).await, (json!(1), json!(0)));
    assert_eq!(send(&app, "receipt", both()).await, (json!(2), json!(0)));
    assert_eq!(received(&server).len() - before, 4);

    // An address whose mails come back gets none at all, until somebody removes it.
    let bounce = json!([{ "event": "bounce", "email": "b@example.com", "status": "5.1.1", "reason": "unknown" }]);
    let (status, answer) = app.post("/v1/mail/bounces", bounce).await;
    assert_eq!((status, &answer["suppressed"]), (200, &json!(1)), "{answer}");
    assert_eq!(send(&app, "receipt", both()).await, (json!(1), json!(1)));
    assert_eq!(send(&app, "news", both()).await, (json!(0), json!(2)));
    let page: Value = app.get("/v1/mail/suppressions?limit=1").await.json().await.unwrap();
    let cursor = page["next_cursor"].as_str().expect("a second page");
    let rest: Value = app.get(&format!("/v1/mail/suppressions?cursor={cursor}")).await.json().await.unwrap();
    let known: Vec<&Value> =
        [&page, &rest].into_iter().flat_map(|page| page["suppressions"].as_array().unwrap()).collect();
    let of = |address: &str| *known.iter().find(|known| known["address"] == address).unwrap();
    let (left, gone) = (of("a@example.com"), of("b@example.com"));
    assert_eq!((&left["list"], &left["reason"]), (&json!("weekly"), &json!("unsubscribed")));
    assert!(left["run_id"].is_string() && known.len() == 2, "{known:?}");
    assert_eq!((&gone["list"], &gone["reason"], &gone["note"]), (&json!("*"), &json!("bounced"), &json!("unknown")));
    let path = format!("{}/v1/mail/suppressions/{}", app.url, gone["id"].as_str().unwrap());
    let removed = app.client.delete(path).bearer_auth(&app.admin_key).send().await.unwrap();
    assert_eq!(removed.status(), 200);
    assert_eq!(send(&app, "receipt", both()).await, (json!(2), json!(0)));
    let metrics = app.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("afterload_mails_total{outcome=\"suppressed\"} 5\n"), "{metrics}");
    app.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cli_lists_adds_and_removes_suppressions() {
    let app = TestApp::builder(Database::Sqlite).start().await;
    let call = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_afterload"));
        command.args(["mail", "suppressions"]).args(args).current_dir(app.dir.path()).kill_on_drop(true);
        let output =
            command.env("AFTERLOAD_URL", &app.url).env("AFTERLOAD_KEY", &app.admin_key).output().await.unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code(), text(&output.stdout), text(&output.stderr))
    };
    let (status, text, _) = call(&["add", "Ada@Example.com", "--list", "news", "--note", "asked by phone"]).await;
    assert_eq!((status, text.as_str()), (Some(0), "ada@example.com is suppressed on the list `news`\n"));
    let (_, text, _) = call(&["add", "b@example.com"]).await;
    assert_eq!(text, "b@example.com is suppressed on the list `*`\n");
    let (_, text, _) = call(&["list", "--list", "news", "--json"]).await;
    let shown: Value = serde_json::from_str(&text).unwrap();
    let known = &shown["suppressions"][0];
    assert_eq!((&known["address"], &known["note"]), (&json!("ada@example.com"), &json!("asked by phone")), "{shown}");
    let id = known["id"].as_str().unwrap();
    let (_, text, _) = call(&["remove", id]).await;
    assert_eq!(text, "ada@example.com is no longer suppressed on the list `news`\n");
    let (_, text, _) = call(&["list", "-n", "10"]).await;
    assert!(text.starts_with("ID ") && text.contains("b@example.com") && !text.contains("ada@"), "{text}");
    let (status, _, text) = call(&["remove", id]).await;
    assert!(status == Some(1) && text.contains("[suppression_not_found]"), "{text}");
    app.finish().await;
}
