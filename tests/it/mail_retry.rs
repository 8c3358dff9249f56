//! Deferred mails: the step is suspended between the attempts, and nobody is asked in vain or gets a mail twice.

use afterload::config::{QueueConfig, SmtpTls};
use serde_json::{Value, json};

use crate::smtp::{Server, received};
use crate::support::{Database, TestApp, both};

both!(
    deferred_mail_suspends_its_step_and_holds_no_worker,
    refused_recipient_is_not_asked_again_beside_a_deferred_one,
    mail_that_is_always_deferred_fails_after_the_last_pause,
    unreachable_server_defers_all_recipients,
    own_retry_replaces_the_pauses,
);

/// A pipeline whose defaults allow no retry. They do not apply to a deferred mail.
const MAILS: &str = r#"
name: mails
defaults: { retry: { attempts: 1 } }
params: { to: { type: list, items: { type: email } } }
steps:
  - id: mail
    uses: email.send
    with: { to: "${{ params.to }}", subject: Hello, body: You }
"#;

async fn start(database: Database, server: &Server, yaml: &str, pauses: &[&str]) -> TestApp {
    let builder = TestApp::builder(database).pipeline("mails", yaml);
    let configured = builder.config(|config| {
        config.mail.smtp = Some(server.config());
        config.mail.retry_delays = pauses.iter().map(|pause| pause.parse().unwrap()).collect();
        config.queues.insert("default".into(), QueueConfig { concurrency: 1 });
    });
    configured.start().await
}

fn addresses(users: &[&str]) -> Vec<String> {
    users.iter().map(|user| format!("{user}@example.com")).collect()
}

/// The recipients of one list of the error's details.
fn named(run: &Value, list: &str) -> Vec<String> {
    let entries = run["error"]["details"][list].as_array().unwrap().iter();
    entries.map(|entry| entry["recipient"].as_str().or(entry.as_str()).unwrap().to_owned()).collect()
}

async fn deferred_mail_suspends_its_step_and_holds_no_worker(database: Database) {
    let server = Server::start(SmtpTls::None);
    let app = start(database, &server, MAILS, &["1h"]).await;
    let run = app.run("mails", json!({ "to": addresses(&["a", "grey.1"]) })).await;
    app.step_is(&run, "mail", "suspended").await;
    let shown = app.show(run["id"].as_str().unwrap()).await;
    let step = &shown["steps"][0];
    assert!(step["suspended_until"].is_string(), "{shown}");
    assert_eq!((&step["progress"]["done"], &step["progress"]["total"]), (&json!(1), &json!(2)), "{shown}");
    assert!(step["progress"]["message"].as_str().unwrap().contains("4.7.1 come back later"), "{shown}");
    // The only worker of the queue is free for others.
    let other = app.run_to_end("mails", json!({ "to": addresses(&["b"]) })).await;
    assert_eq!(
        (&other["status"], received(&server)),
        (&json!("succeeded"), addresses(&["a", "b"]).into_iter().map(Value::from).collect())
    );
    app.post(&format!("/v1/runs/{}/cancel", run["id"].as_str().unwrap()), json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "cancelled");
    app.finish().await;
}

async fn refused_recipient_is_not_asked_again_beside_a_deferred_one(database: Database) {
    let server = Server::start(SmtpTls::None);
    let app = start(database, &server, MAILS, &["1ms", "1ms"]).await;
    let run = app.run_to_end("mails", json!({ "to": addresses(&["a", "refuse", "grey.1", "b"]) })).await;
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("mail_recipient_refused")), "{run}");
    let message = run["error"]["message"].as_str().unwrap();
    assert!(message.starts_with("1 of 4 recipients did not receive the mail"), "{run}");
    assert_eq!(named(&run, "accepted"), addresses(&["a", "grey.1", "b"]), "{run}");
    assert_eq!((named(&run, "refused"), named(&run, "deferred").len()), (addresses(&["refuse"]), 0), "{run}");
    let refusal = run["error"]["details"]["refused"][0]["message"].as_str().unwrap();
    assert!(refusal.contains("550") && refusal.contains("5.1.1 nobody of that name"), "{run}");
    assert_eq!(server.asked(), addresses(&["a", "refuse", "grey.1", "b", "grey.1"]), "each was asked once");
    // A retry by a person asks the refused recipient again, and nobody who has the mail.
    app.post(&format!("/v1/runs/{}/retry", run["id"].as_str().unwrap()), json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "failed");
    assert_eq!(server.asked()[5..], addresses(&["refuse"]));
    assert_eq!(received(&server).len(), 3);
    app.finish().await;
}

async fn mail_that_is_always_deferred_fails_after_the_last_pause(database: Database) {
    let server = Server::start(SmtpTls::None);
    let app = start(database, &server, MAILS, &["1ms", "1ms"]).await;
    let run = app.run_to_end("mails", json!({ "to": addresses(&["defer", "a", "refuse"]) })).await;
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("mail_deferred")), "{run}");
    assert_eq!(named(&run, "accepted"), addresses(&["a"]), "{run}");
    assert_eq!((named(&run, "deferred"), named(&run, "refused")), (addresses(&["defer"]), addresses(&["refuse"])));
    assert!(run["error"]["details"]["deferred"][0]["message"].as_str().unwrap().contains("451"), "{run}");
    assert_eq!(server.asked(), addresses(&["defer", "a", "refuse", "defer", "defer"]));
    app.finish().await;
}

async fn unreachable_server_defers_all_recipients(database: Database) {
    let server = Server::start(SmtpTls::None);
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let builder = TestApp::builder(database).pipeline("mails", MAILS).config(|config| {
        let mut smtp = server.config();
        smtp.port = Some(closed);
        config.mail.smtp = Some(smtp);
        config.mail.retry_delays = vec!["1ms".parse().unwrap()];
    });
    let app = builder.start().await;
    let run = app.run_to_end("mails", json!({ "to": addresses(&["a", "b"]) })).await;
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("mail_server_unavailable")), "{run}");
    assert_eq!(named(&run, "deferred"), addresses(&["a", "b"]), "{run}");
    assert!(server.asked().is_empty());
    app.finish().await;
}

async fn own_retry_replaces_the_pauses(database: Database) {
    let server = Server::start(SmtpTls::None);
    let own = "    retry: { attempts: 2, backoff: constant, delay: 1ms }\n    with:";
    let app = start(database, &server, &MAILS.replace("    with:", own), &["1h"]).await;
    let run = app.run_to_end("mails", json!({ "to": addresses(&["refuse", "defer"]) })).await;
    let (code, attempt) = (&run["error"]["code"], &run["steps"][0]["attempt"]);
    assert_eq!((code, attempt), (&json!("mail_deferred"), &json!(2)), "{run}");
    assert_eq!(server.asked(), addresses(&["refuse", "defer", "defer"]));
    app.finish().await;
}
