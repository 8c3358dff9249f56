//! Mail over SMTP against a third-party server: TLS, authentication, and all kinds of responses.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use afterload::config::{Config, MailConfig, Secret, SmtpConfig, SmtpTls};
use afterload_core::clock::Clock;
use afterload_mailer::{MailAddress, MailAttachment, MailContent, MailSendError, Mailer, MessageId, OutgoingMail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Database, TestApp, both};

both!(
    refused_recipient_does_not_block_the_others,
    deferred_recipient_is_retried_without_duplicates,
    refused_mail_fails_without_retry,
    unknown_host_is_retried_and_reported,
    echoed_password_is_redacted,
    mail_with_lost_response_is_resent_or_held,
);

const PASSWORD: &str = "the password of the tests";

/// A mail server that runs until it is dropped.
pub struct Server {
    child: Child,
    folder: TempDir,
    port: u16,
    tls: SmtpTls,
}

impl Server {
    /// Starts a server on a free port.
    pub fn start(tls: SmtpTls) -> Self {
        let mode = match tls {
            SmtpTls::Starttls => "starttls",
            SmtpTls::Implicit => "implicit",
            SmtpTls::None => "plain",
        };
        Self::start_mode(tls, mode)
    }

    /// Starts a server without the extension SMTPUTF8.
    pub fn start_without_smtputf8() -> Self {
        Self::start_mode(SmtpTls::None, "ascii")
    }

    fn start_mode(tls: SmtpTls, mode: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let python = std::env::var("AFTERLOAD_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/smtp.py");
        let mut command = Command::new(&python);
        command.arg(script).arg(folder.path()).arg(mode).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap_or_else(|_| {
            panic!("the mail server did not start; run: {python} -m pip install -r scripts/test-requirements.txt")
        });
        Self { child, folder, port, tls }
    }

    /// Returns the settings to reach it.
    pub fn config(&self) -> SmtpConfig {
        SmtpConfig {
            host: "localhost".into(),
            port: Some(self.port),
            tls: self.tls,
            user: (self.tls != SmtpTls::None).then(|| "afterload".into()),
            password: (self.tls != SmtpTls::None).then(|| Secret::new(PASSWORD)),
            ca: (self.tls != SmtpTls::None).then(|| self.folder.path().join("ca.pem")),
            timeout: "5s".parse().unwrap(),
            connections: 4,
        }
    }

    /// Returns the recipients that the server was asked for, in order and with repetitions.
    pub fn asked(&self) -> Vec<String> {
        let asked = std::fs::read_to_string(self.folder.path().join("asked")).unwrap_or_default();
        asked.lines().map(str::to_owned).collect()
    }

    /// Returns the received mails, oldest first.
    pub fn mails(&self) -> Vec<Value> {
        self.mails_after(0)
    }

    /// Returns the received mails without the first `count`. The others are not read.
    pub fn mails_after(&self, count: usize) -> Vec<Value> {
        let files = self.mail_files();
        files.iter().skip(count).map(|file| serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()).collect()
    }

    /// Counts the received mails.
    pub fn mail_count(&self) -> usize {
        self.mail_files().len()
    }

    fn mail_files(&self) -> Vec<PathBuf> {
        let files = std::fs::read_dir(self.folder.path().join("mails")).unwrap();
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort_by_key(|file| (file.as_os_str().len(), file.clone()));
        files
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mailer(smtp: SmtpConfig) -> Mailer {
    let from = "Afterload <noreply@bücher.example>".into();
    let mail = MailConfig { from, smtp: Some(smtp), ..MailConfig::default() };
    Mailer::new(&Config { mail, ..Config::default() }.mailer_options(), Clock::system()).unwrap()
}

async fn send(mailer: &Mailer, to: &str, text: &str) -> Result<(), MailSendError> {
    send_with(mailer, to, text, Vec::new()).await
}

async fn send_with(
    mailer: &Mailer,
    to: &str,
    text: &str,
    attachments: Vec<MailAttachment>,
) -> Result<(), MailSendError> {
    let to = vec![MailAddress::parse_recipient(to).unwrap()];
    let content = MailContent { subject: "Grüße — 🎉".into(), text: text.into(), html: None };
    let (from, cc, run) = (mailer.default_sender().clone(), Vec::new(), "01RUN".into());
    let mail = OutgoingMail { from, reply_to: None, to, cc, content, headers: Vec::new(), attachments, run };
    mailer.send(&mail, &mail.to[0], &MessageId::for_recipient("01RUN/mail", &mail.to[0], &mail.from)).await
}

/// Returns `certain` or `uncertain`, the code, whether the error is transient, and the text.
fn error_parts(sent: Result<(), MailSendError>) -> (&'static str, &'static str, bool, String) {
    let (kind, error) = match sent.unwrap_err() {
        MailSendError::NotSent(error) => ("certain", error),
        MailSendError::Unknown(error) => ("uncertain", error),
    };
    (kind, error.code().name(), error.is_transient(), error.to_string())
}

#[tokio::test]
async fn mail_arrives_unchanged() {
    // Lines with only a dot, a long line, and text that looks like the end of the mail.
    let text = format!("Grüße\n.\n..dots\nFrom here\n{}\n.\r\nQUIT", "lang ".repeat(400));
    for tls in [SmtpTls::Starttls, SmtpTls::Implicit, SmtpTls::None] {
        let server = Server::start(tls);
        let mailer = mailer(server.config());
        for to in ["a@example.com", "B <b@example.com>"] {
            send(&mailer, to, &text).await.unwrap();
        }
        let mails = server.mails();
        assert_eq!(
            (&mails[0]["from"], &mails[0]["to"]),
            (&json!("noreply@xn--bcher-kva.example"), &json!(["a@example.com"]))
        );
        assert_eq!(mails[0]["tls"], tls != SmtpTls::None, "{tls:?}");
        assert_eq!(mails[0]["user"], if tls == SmtpTls::None { Value::Null } else { json!("afterload") });
        assert_eq!(mails[0]["peer"], mails[1]["peer"], "the second mail takes the connection of the first");
        let content = STANDARD.decode(mails[0]["content"].as_str().unwrap()).unwrap();
        let parsed = mailparse::parse_mail(&content).unwrap();
        let header = |name: &str| mailparse::MailHeaderMap::get_first_value(&parsed.headers[..], name).unwrap();
        assert_eq!(header("Subject"), "Grüße — 🎉");
        let lines = |text: &str| text.trim_end().lines().map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(lines(&parsed.get_body().unwrap()), lines(&text));
    }
}

#[tokio::test]
async fn attachments_arrive_unchanged() {
    // Bytes that look like the end of the mail, and bytes that a server might change.
    let bytes = [&b"a\r\n.\r\nQUIT\r\n..\nb\rc\n"[..], &(0..=255).cycle().take(300_000).collect::<Vec<u8>>()].concat();
    let server = Server::start(SmtpTls::Starttls);
    let file = MailAttachment::new("größe.bin", "application/x-test", bytes.clone());
    send_with(&mailer(server.config()), "a@example.com", "text", vec![file]).await.unwrap();
    let content = STANDARD.decode(server.mails()[0]["content"].as_str().unwrap()).unwrap();
    let parsed = mailparse::parse_mail(&content).unwrap();
    assert_eq!(parsed.subparts[0].get_body().unwrap().trim_end(), "text");
    assert_eq!(parsed.subparts[1].get_body_raw().unwrap(), bytes);
}

#[tokio::test]
async fn concurrent_mails_share_connections() {
    let server = Server::start(SmtpTls::Starttls);
    let mailer = mailer(SmtpConfig { connections: 2, ..server.config() });
    let sends = (0..20).map(|number| {
        let mailer = mailer.clone();
        async move {
            send(&mailer, &format!("user{number}@example.com"), "x").await.unwrap();
        }
    });
    futures::future::join_all(sends).await;
    let mails = server.mails();
    let peers: BTreeSet<_> = mails.iter().map(|mail| mail["peer"].as_u64().unwrap()).collect();
    assert_eq!(mails.len(), 20);
    assert!(peers.len() <= 2, "{peers:?}");
}

#[tokio::test]
async fn smtp_reply_decides_between_retry_and_failure() {
    let server = Server::start(SmtpTls::Starttls);
    let mailer = mailer(SmtpConfig { timeout: "1s".parse().unwrap(), ..server.config() });
    for (to, kind, code, again, says) in [
        ("defer", "certain", "mail_deferred", true, "4.7.1 come back later"),
        (
            "refuse",
            "certain",
            "mail_recipient_refused",
            false,
            "`refuse@example.com`: permanent error (550): 5.1.1 nobody",
        ),
        ("bounce", "certain", "mail_refused", false, "5.7.1 it looks like spam"),
        ("full", "certain", "mail_deferred", true, "4.2.2 no room left"),
        ("drop", "uncertain", "mail_outcome_unknown", true, "broke while it took the mail"),
        ("hang", "uncertain", "mail_outcome_unknown", true, "did not say within 1s"),
    ] {
        let found = error_parts(send(&mailer, &format!("{to}@example.com"), "x").await);
        assert_eq!((found.0, found.1, found.2), (kind, code, again), "{to}: {}", found.3);
        assert!(found.3.contains(says) && !found.3.contains('\n'), "{to}: {}", found.3);
        // After each error the next mail is still sent.
        send(&mailer, "a@example.com", "x").await.unwrap_or_else(|_| panic!("after {to}"));
    }
}

#[tokio::test]
async fn untrusted_or_unreachable_server_gets_no_mail() {
    let server = Server::start(SmtpTls::Starttls);
    let plain = Server::start(SmtpTls::None);
    let implicit = Server::start(SmtpTls::Implicit);
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let short = |config: SmtpConfig| SmtpConfig { timeout: "1s".parse().unwrap(), ..config };
    let port = |port: u16| short(SmtpConfig { port: Some(port), ..server.config() });
    let stranger =
        |server: &Server| short(SmtpConfig { ca: Some(server.folder.path().join("other.pem")), ..server.config() });
    let wrong = SmtpConfig { password: Some(Secret::new("canary-of-a-password")), ..server.config() };
    for (what, config, code, again, says) in [
        ("a wrong password", wrong, "mail_auth_failed", false, "does not let us in"),
        ("an unknown authority", stranger(&server), "mail_tls_failed", false, "certificate"),
        ("an unknown authority from the start", stranger(&implicit), "mail_tls_failed", false, "certificate"),
        (
            "another name",
            SmtpConfig { host: "127.0.0.1".into(), ..server.config() },
            "mail_tls_failed",
            false,
            "certificate",
        ),
        ("no STARTTLS", port(plain.port), "mail_tls_failed", false, "does not offer STARTTLS"),
        (
            "a server that says nothing",
            port(silent.local_addr().unwrap().port()),
            "mail_server_unavailable",
            true,
            "1s",
        ),
        ("no server", port(closed), "mail_server_unavailable", true, "refused"),
        (
            "no such host",
            SmtpConfig { host: "nowhere.invalid".into(), ..server.config() },
            "mail_server_unavailable",
            true,
            "nowhere.invalid",
        ),
    ] {
        let found = error_parts(send(&mailer(config), "a@example.com", "x").await);
        assert_eq!((found.0, found.1, found.2), ("certain", code, again), "{what}: {}", found.3);
        assert!(found.3.contains(says), "{what}: {}", found.3);
        assert!(!found.3.contains("canary") && !found.3.contains(PASSWORD), "{}", found.3);
    }
    for server in [&server, &plain, &implicit] {
        assert!(server.mails().is_empty());
    }
    let missing = SmtpConfig { ca: Some("/nowhere/ca.pem".into()), tls: SmtpTls::Implicit, ..port(closed) };
    let mail = MailConfig { smtp: Some(missing), ..MailConfig::default() };
    let error = Mailer::new(&Config { mail, ..Config::default() }.mailer_options(), Clock::system()).err().unwrap();
    assert!(error.code().name() == "mail_tls_failed" && error.message().contains("/nowhere/ca.pem"), "{error}");
}

async fn refused_recipient_does_not_block_the_others(database: Database) {
    let server = Server::start(SmtpTls::Starttls);
    let yaml = r#"
name: mails
params: { to: { type: list, items: { type: email } } }
steps:
  - { id: mail, uses: email.send, with: { to: "${{ params.to }}", subject: Hello, body: You } }
"#;
    let smtp = server.config();
    let app =
        TestApp::builder(database).pipeline("mails", yaml).config(|config| config.mail.smtp = Some(smtp)).start().await;
    let run = app.run_to_end("mails", json!({ "to": ["a@example.com", "refuse@example.com", "b@example.com"] })).await;
    assert_eq!((&run["status"], &run["error"]["code"]), (&json!("failed"), &json!("mail_recipient_refused")), "{run}");
    assert!(
        run["error"]["message"].as_str().unwrap().starts_with("1 of 3 recipients did not receive the mail"),
        "{run}"
    );
    let got: Vec<_> = server.mails().iter().map(|mail| mail["to"][0].clone()).collect();
    assert_eq!(got, ["a@example.com", "b@example.com"]);
    // A recipient that already has the mail gets no second one.
    let url = format!("{}/v1/runs/{}/retry", app.url, run["id"].as_str().unwrap());
    assert!(app.client.post(url).bearer_auth(&app.admin_key).send().await.unwrap().status().is_success());
    let again = app.ended(&run).await;
    assert_eq!((&again["status"], server.mails().len()), (&json!("failed"), 2), "{again}");
    app.finish().await;
}

/// A pipeline that mails its param `to`.
const MAILS: &str = r#"
name: mails
params: { to: { type: list, items: { type: email } } }
steps:
  - id: mail
    uses: email.send
    retry: { attempts: 3, backoff: constant, delay: 10ms }
    with: { to: "${{ params.to }}", subject: Hello, body: You }
"#;

async fn start(database: Database, smtp: SmtpConfig) -> TestApp {
    TestApp::builder(database).pipeline("mails", MAILS).config(|config| config.mail.smtp = Some(smtp)).start().await
}

pub fn received(server: &Server) -> Vec<Value> {
    server.mails().iter().map(|mail| mail["to"][0].clone()).collect()
}

async fn deferred_recipient_is_retried_without_duplicates(database: Database) {
    let server = Server::start(SmtpTls::Starttls);
    let app = start(database, server.config()).await;
    let run = app.run_to_end("mails", json!({ "to": ["a@example.com", "grey.1@example.com", "b@example.com"] })).await;
    assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(2)), "{run}");
    assert_eq!(run["steps"][0]["outputs"]["sent"], 3, "{run}");
    assert_eq!(received(&server), ["a@example.com", "b@example.com", "grey.1@example.com"]);
    // A recipient that is always deferred gets that error, and the process and its queue continue.
    let run = app.run_to_end("mails", json!({ "to": ["defer@example.com"] })).await;
    let (code, attempt) = (&run["error"]["code"], &run["steps"][0]["attempt"]);
    assert_eq!((code, attempt), (&json!("mail_deferred"), &json!(3)), "{run}");
    let run = app.run_to_end("mails", json!({ "to": ["c@example.com"] })).await;
    assert_eq!((&run["status"], received(&server).len()), (&json!("succeeded"), 4), "{run}");
    app.finish().await;
}

async fn refused_mail_fails_without_retry(database: Database) {
    let server = Server::start(SmtpTls::Starttls);
    let app = start(database, server.config()).await;
    for (to, code) in [("refuse", "mail_recipient_refused"), ("bounce", "mail_refused")] {
        let run = app.run_to_end("mails", json!({ "to": [format!("{to}@example.com")] })).await;
        let (status, attempt) = (&run["status"], &run["steps"][0]["attempt"]);
        assert_eq!((status, attempt), (&json!("failed"), &json!(1)), "no second try: {run}");
        assert_eq!(run["error"]["code"], code, "{run}");
    }
    assert!(server.mails().is_empty());
    app.finish().await;
}

async fn unknown_host_is_retried_and_reported(database: Database) {
    let server = Server::start(SmtpTls::Starttls);
    let app = start(database, SmtpConfig { host: "nowhere.invalid".into(), ..server.config() }).await;
    // The process and its queue continue.
    for _ in 0..2 {
        let run = app.run_to_end("mails", json!({ "to": ["a@example.com", "b@example.com"] })).await;
        let (code, attempt) = (&run["error"]["code"], &run["steps"][0]["attempt"]);
        assert_eq!((code, attempt), (&json!("mail_server_unavailable"), &json!(3)), "{run}");
        assert!(run["error"]["message"].as_str().unwrap().contains("nowhere.invalid"), "{run}");
    }
    assert!(server.mails().is_empty());
    app.finish().await;
}

async fn echoed_password_is_redacted(database: Database) {
    const CANARY: &str = "canary of a password 4711";
    let server = Server::start(SmtpTls::Starttls);
    let smtp = SmtpConfig { user: Some("echo".into()), password: Some(Secret::new(CANARY)), ..server.config() };
    let app = start(database, smtp).await;
    let run = app.run_to_end("mails", json!({ "to": ["a@example.com"] })).await;
    assert_eq!(run["error"]["code"], "mail_auth_failed", "{run}");
    let message = run["error"]["message"].as_str().unwrap();
    assert!(message.contains("nobody is called echo with ***"), "{run}");
    assert!(!run.to_string().contains("canary"), "{run}");
    app.finish().await;
}

async fn mail_with_lost_response_is_resent_or_held(database: Database) {
    let server = Server::start(SmtpTls::Starttls);
    let held = MAILS.replace("name: mails", "name: held").replace("body: You", "body: You, on_uncertain: hold");
    let app = TestApp::builder(database)
        .pipeline("mails", MAILS)
        .pipeline("held", &held)
        .config(|config| config.mail.smtp = Some(server.config()))
        .start()
        .await;
    let mut before = 0;
    for (pipeline, code, attempts, copies) in
        [("mails", "mail_outcome_unknown", 3, 3), ("held", "mail_uncertain", 2, 1)]
    {
        let run = app.run_to_end(pipeline, json!({ "to": ["drop@example.com"] })).await;
        let (found, attempt) = (&run["error"]["code"], &run["steps"][0]["attempt"]);
        assert_eq!((found, attempt), (&json!(code), &json!(attempts)), "{run}");
        let mails = server.mails_after(before);
        before += mails.len();
        let ids: BTreeSet<_> = mails
            .iter()
            .map(|mail| {
                let content = STANDARD.decode(mail["content"].as_str().unwrap()).unwrap();
                let parsed = mailparse::parse_mail(&content).unwrap();
                mailparse::MailHeaderMap::get_first_value(&parsed.headers[..], "Message-ID").unwrap()
            })
            .collect();
        assert_eq!((mails.len(), ids.len()), (copies, 1), "{pipeline}: copies can be told by their Message-ID");
    }
    app.finish().await;
}
