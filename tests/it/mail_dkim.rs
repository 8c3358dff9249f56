//! Mails with DKIM signatures, verified by another library (dkimpy) with the public key.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use afterload::config::{Config, DkimConfig, MailConfig, SmtpTls};
use afterload_core::clock::Clock;
use afterload_mailer::{CustomHeader, MailAttachment, MailContent, Mailer, MessageId, OutgoingMail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::smtp::Server;

const RECORD: &str = "s2026._domainkey.xn--bcher-kva.example";

fn python(arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let python = std::env::var("AFTERLOAD_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/verify_dkim.py");
    let mut command = Command::new(&python);
    let mut child = command.arg(script).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "run: {python} -m pip install -r scripts/test-requirements.txt");
    output.stdout
}

/// Verifies a mail with the key, as the receiver does with the record in DNS.
fn verify(key: &Path, mail: &[u8]) -> Value {
    serde_json::from_slice(&python(&["verify", key.to_str().unwrap(), RECORD], mail)).unwrap()
}

fn dkim(key_file: PathBuf) -> Option<DkimConfig> {
    Some(DkimConfig { selector: "s2026".into(), domain: "bücher.example".into(), key_file })
}

/// A mail with all that can stand in one.
fn full_mail(mailer: &Mailer) -> OutgoingMail {
    let address = |text: &str| mailer.parse_recipient(text).unwrap();
    let html = format!("<p>Grüße {}</p><img src='cid:logo'>", "lang ".repeat(2_000));
    OutgoingMail {
        from: mailer.default_sender().clone(),
        reply_to: Some(address("Jörg <reply@b.co>")),
        to: (0..60).map(|number| address(&format!("person.{number}@department.example.com"))).collect(),
        cc: vec![address("Ü <ü@b.co>"), address("c@b.co")],
        content: MailContent {
            subject: format!("Größe — {}", "long words ".repeat(80)),
            text: "Grüße \t \n\n.\nFrom  here \n\n\n".into(),
            html: Some(html),
        },
        headers: vec![
            CustomHeader::parse("List-Unsubscribe", "<https://b.co/u?id=1>").unwrap(),
            CustomHeader::parse("List-Unsubscribe-Post", "List-Unsubscribe=One-Click").unwrap(),
            CustomHeader::parse("X-Note", "not signed").unwrap(),
        ],
        attachments: vec![
            MailAttachment::new("größe.csv", "text/csv", b"a  \n\n".to_vec()),
            MailAttachment::new("logo.png", "image/png", (0..=255).cycle().take(9_000).collect())
                .with_content_id("logo"),
        ],
        run: "01RUN".into(),
    }
}

#[tokio::test]
async fn signatures_of_both_key_types_are_valid_at_the_receiver() {
    let keys = tempfile::tempdir().unwrap();
    python(&["keys", keys.path().to_str().unwrap()], b"");
    let server = Server::start(SmtpTls::None);
    let (rsa, ed25519) = (keys.path().join("rsa.pem"), keys.path().join("ed25519.pem"));
    for (number, key) in [&rsa, &ed25519].into_iter().enumerate() {
        let from = "Bücher <noreply@bücher.example>".into();
        let (smtp, smtputf8) = (Some(server.config()), true);
        let mail = MailConfig { from, smtp, smtputf8, dkim: dkim(key.clone()), ..MailConfig::default() };
        let mailer = Mailer::new(&Config { mail, ..Config::default() }.mailer_options(), Clock::system()).unwrap();
        let full = full_mail(&mailer);
        let content = MailContent { subject: "Short".into(), text: String::new(), html: None };
        let (cc, headers, attachments) = (Vec::new(), Vec::new(), Vec::new());
        let empty = OutgoingMail { content, reply_to: None, cc, headers, attachments, ..full.clone() };
        // The last one goes to an address outside ASCII, which the headers hold then.
        for (mail, to) in [(&full, &full.to[0]), (&empty, &full.to[0]), (&full, &full.cc[0])] {
            let id = MessageId::for_recipient("01RUN/mail", to, &mail.from);
            mailer.send(mail, to, &id).await.unwrap();
        }
        let sent = server.mails().split_off(number * 3);
        assert_eq!(sent.iter().map(|mail| mail["smtputf8"].clone()).collect::<Vec<_>>(), [false, false, true]);
        for (index, mail) in sent.iter().enumerate() {
            let bytes = STANDARD.decode(mail["content"].as_str().unwrap()).unwrap();
            let found = verify(key, &bytes);
            assert_eq!((&found["verdict"], &found["asked"]), (&json!(true), &json!([RECORD])), "{index}: {found}");
            assert!(bytes.split(|byte| *byte == b'\n').all(|line| line.len() <= 999));
            let signed: Vec<_> = found["signed"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
            for name in ["from", "to", "subject", "date", "message-id", "mime-version", "content-type"] {
                assert_eq!(signed.iter().filter(|known| **known == name).count(), 2, "{name} is sealed");
            }
            let lists = ["list-unsubscribe", "list-unsubscribe-post"].iter().all(|name| signed.contains(name));
            assert_eq!((lists, signed.contains(&"x-note")), (index != 1, false), "{signed:?}");
        }
        let bytes = STANDARD.decode(sent[0]["content"].as_str().unwrap()).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        // A changed subject, a changed body, and a second sender.
        for (part, forged) in
            [("Subject: ", "Subject: x "), ("\r\n--", "\r\nx\r\n--"), ("\r\nDate:", "\r\nFrom: x@b.co\r\nDate:")]
        {
            let forged = text.replacen(part, forged, 1);
            assert!(forged != text, "{part}");
            assert_eq!(verify(key, forged.as_bytes())["verdict"], false, "{part}");
        }
    }
}

#[test]
fn service_refuses_to_start_or_check_with_an_unusable_key() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("key.pem"), "canary").unwrap();
    std::fs::create_dir(folder.path().join("pipelines")).unwrap();
    std::fs::write(
        folder.path().join("afterload.yaml"),
        "mail: { dkim: { selector: s, domain: a.example, key_file: key.pem } }\nlisten: 127.0.0.1:0\nobjects: { listen: 127.0.0.1:0 }\n",
    )
    .unwrap();
    for command in ["check", "serve"] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_afterload"));
        let output = process.current_dir(folder.path()).env_remove("AFTERLOAD_CONFIG").arg(command).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
        assert!(!output.status.success(), "{command}: {said}");
        for part in ["`mail.dkim`", "key.pem", "openssl genpkey"] {
            assert!(said.contains(part), "{command} says {part}: {said}");
        }
        assert!(!said.contains("canary"), "{said}");
    }
}
