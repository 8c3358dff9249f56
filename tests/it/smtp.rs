//! Mail over SMTP, against a server that others wrote: TLS, sign-in, and everything that a server may answer.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use afterload::config::{Config, MailConfig, Secret, SmtpConfig, SmtpTls};
use afterload::mail::{Address, Content, Mail, Mailer, MessageId, NotSent};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::support::{Database, TestApp, both};

both!(a_run_sends_its_mail_and_one_bad_recipient_keeps_it_from_nobody);

const PASSWORD: &str = "the password of the tests";

/// A mail server that serves until it is dropped.
pub struct Server {
    child: Child,
    folder: TempDir,
    port: u16,
    tls: SmtpTls,
}

impl Server {
    /// Starts one on a free port.
    pub fn start(tls: SmtpTls) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let python = std::env::var("AFTERLOAD_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
        let mode = match tls {
            SmtpTls::Starttls => "starttls",
            SmtpTls::Implicit => "implicit",
            SmtpTls::None => "plain",
        };
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

    /// How it is reached.
    pub fn config(&self) -> SmtpConfig {
        SmtpConfig {
            host: "localhost".into(),
            port: Some(self.port),
            tls: self.tls,
            user: (self.tls != SmtpTls::None).then(|| "afterload".into()),
            password: (self.tls != SmtpTls::None).then(|| Secret::new(PASSWORD)),
            ca: Some(self.folder.path().join("ca.pem")),
            timeout: "5s".parse().unwrap(),
            connections: 4,
        }
    }

    /// What it took, oldest first.
    pub fn mails(&self) -> Vec<Value> {
        let files = std::fs::read_dir(self.folder.path().join("mails")).unwrap();
        let mut files: Vec<PathBuf> = files.map(|file| file.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
        files.sort_by_key(|file| (file.as_os_str().len(), file.clone()));
        files.iter().map(|file| serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap()).collect()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn mailer(smtp: SmtpConfig) -> Mailer {
    let mail = MailConfig { outbox: None, from: "Afterload <noreply@bücher.example>".into(), smtp: Some(smtp) };
    Mailer::new(&Config { mail, ..Config::default() }).unwrap()
}

async fn send(mailer: &Mailer, to: &str, text: &str) -> Result<(), NotSent> {
    let to = vec![Address::recipient(to).unwrap()];
    let content = Content { subject: "Grüße — 🎉".into(), text: text.into(), html: None };
    let mail = Mail { from: mailer.from().clone(), reply_to: None, to, cc: Vec::new(), content, run: "01RUN".into() };
    mailer.send(&mail, &mail.to[0], &MessageId::derive("01RUN/mail", &mail.to[0], &mail.from)).await
}

/// `certain` or `uncertain`, the code, whether it may be tried again, and what is told.
fn told(sent: Result<(), NotSent>) -> (&'static str, &'static str, bool, String) {
    let (kind, error) = match sent.unwrap_err() {
        NotSent::Certain(error) => ("certain", error),
        NotSent::Uncertain(error) => ("uncertain", error),
    };
    (kind, error.code(), error.is_transient(), error.to_string())
}

#[tokio::test]
async fn a_mail_arrives_as_it_was_written() {
    // Lines of one dot, a long line, and what looks like the end of the text.
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
async fn what_the_server_answers_says_what_comes_next() {
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
        ("drop", "uncertain", "mail_outcome_unknown", true, "broke while it took the mail"),
        ("hang", "uncertain", "mail_outcome_unknown", true, "did not say within 1s"),
    ] {
        let found = told(send(&mailer, &format!("{to}@example.com"), "x").await);
        assert_eq!((found.0, found.1, found.2), (kind, code, again), "{to}: {}", found.3);
        assert!(found.3.contains(says) && !found.3.contains('\n'), "{to}: {}", found.3);
        // Whatever happened, the next mail goes through.
        send(&mailer, "a@example.com", "x").await.unwrap_or_else(|_| panic!("after {to}"));
    }
}

#[tokio::test]
async fn a_server_that_cannot_be_trusted_or_reached_gets_no_mail() {
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
        let found = told(send(&mailer(config), "a@example.com", "x").await);
        assert_eq!((found.0, found.1, found.2), ("certain", code, again), "{what}: {}", found.3);
        assert!(found.3.contains(says), "{what}: {}", found.3);
        assert!(!found.3.contains("canary") && !found.3.contains(PASSWORD), "{}", found.3);
    }
    for server in [&server, &plain, &implicit] {
        assert!(server.mails().is_empty());
    }
    let missing = SmtpConfig { ca: Some("/nowhere/ca.pem".into()), tls: SmtpTls::Implicit, ..port(closed) };
    let mail = MailConfig { smtp: Some(missing), ..MailConfig::default() };
    let error = Mailer::new(&Config { mail, ..Config::default() }).err().unwrap();
    assert!(error.code() == "mail_tls_failed" && error.message().contains("/nowhere/ca.pem"), "{error}");
}

async fn a_run_sends_its_mail_and_one_bad_recipient_keeps_it_from_nobody(database: Database) {
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
    // Nobody who has the mail receives it again.
    let url = format!("{}/v1/runs/{}/retry", app.url, run["id"].as_str().unwrap());
    assert!(app.client.post(url).bearer_auth(&app.admin_key).send().await.unwrap().status().is_success());
    let again = app.ended(&run).await;
    assert_eq!((&again["status"], server.mails().len()), (&json!("failed"), 2), "{again}");
    app.finish().await;
}
