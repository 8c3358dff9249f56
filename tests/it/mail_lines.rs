//! Lines of mails: none exceeds 998 octets, and two other parsers read the values that were given.

use std::io::Write as _;
use std::process::{Command, Stdio};

use afterload::config::{Config, MailConfig, SmtpTls};
use afterload_core::clock::Clock;
use afterload_mailer::{MailAddress, MailAttachment, MailContent, Mailer, MessageId, OutgoingMail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mailparse::{MailAddr, MailHeaderMap, ParsedMail};
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::smtp::Server;

/// The values of a mail to its many recipients.
#[derive(Clone, Debug)]
struct Values {
    subject: String,
    name: String,
    file: String,
    text: String,
    html: String,
    recipients: usize,
}

/// The text as one line, as a header holds it.
fn flat(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}

/// The text of a body with the line breaks of this platform, without those at its end.
fn lines(text: &str) -> String {
    text.replace("\r\n", "\n").replace('\r', "\n").trim_end_matches('\n').to_owned()
}

fn bare(number: usize) -> String {
    format!("person.{number}@department.example.com")
}

fn build(values: &Values) -> OutgoingMail {
    let quoted = flat(&values.name).replace('\\', "\\\\").replace('"', "\\\"");
    let named = |user: &str| MailAddress::parse_recipient(&format!("\"{quoted}\" <{user}@example.com>")).unwrap();
    let html = Some(values.html.clone());
    OutgoingMail {
        from: named("from"),
        reply_to: Some(named("reply")),
        to: (0..values.recipients).map(|number| MailAddress::parse_recipient(&bare(number)).unwrap()).collect(),
        cc: vec![named("one"), named("two")],
        content: MailContent { subject: values.subject.clone(), text: values.text.clone(), html },
        headers: Vec::new(),
        attachments: vec![MailAttachment::new(&values.file, "text/csv", b"a,b\n".to_vec())],
        run: "01RUN".into(),
    }
}

async fn send(config: MailConfig, mail: &OutgoingMail) {
    let mailer = Mailer::new(&Config { mail: config, ..Config::default() }.mailer_options(), Clock::system()).unwrap();
    let id = MessageId::for_recipient("01RUN/mail", &mail.to[0], &mail.from);
    mailer.send(mail, &mail.to[0], &id).await.unwrap();
}

fn assert_short_lines(bytes: &[u8]) {
    assert!(bytes.is_ascii());
    for line in String::from_utf8_lossy(bytes).split("\r\n") {
        assert!(line.len() <= 998 && !line.contains(['\r', '\n']), "{} octets: {line:.200}", line.len());
    }
}

fn mailboxes(mail: &ParsedMail<'_>, header: &str) -> Vec<(Option<String>, String)> {
    let list = mailparse::addrparse_header(mail.headers.get_first_header(header).unwrap()).unwrap();
    let single = |address: &MailAddr| match address {
        MailAddr::Single(info) => (info.display_name.clone(), info.addr.clone()),
        MailAddr::Group(_) => panic!("{header} has no groups"),
    };
    list.iter().map(single).collect()
}

fn assert_values(bytes: &[u8], values: &Values) {
    assert_short_lines(bytes);
    let mail = mailparse::parse_mail(bytes).unwrap();
    assert_eq!(mail.headers.get_first_value("Subject").unwrap(), flat(&values.subject));
    let name = Some(flat(&values.name)).filter(|name| !name.is_empty());
    let named = |user: &str| (name.clone(), format!("{user}@example.com"));
    assert_eq!(mailboxes(&mail, "From"), [named("from")]);
    assert_eq!(mailboxes(&mail, "Reply-To"), [named("reply")]);
    assert_eq!(mailboxes(&mail, "Cc"), [named("one"), named("two")]);
    let to: Vec<_> = (0..values.recipients).map(|number| (None, bare(number))).collect();
    assert_eq!(mailboxes(&mail, "To"), to);
    let [said, file] = &mail.subparts[..] else { panic!("a text and a file") };
    assert_eq!(file.get_content_disposition().params["filename"], flat(&values.file));
    for (part, text) in said.subparts.iter().zip([&values.text, &values.html]) {
        assert_eq!(lines(&part.get_body().unwrap()), lines(text));
    }
}

/// Texts for headers: short and long ones, in many scripts, with words that cannot fold and with special characters.
fn header_text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[ -~]{0,200}",
        "([a-zü\"\\\\,;=?_]{1,9} ){0,90}",
        "[a-z]{5000}",
        "[é日🎉\"\\\\]{900}",
        "=\\?utf-8\\?q\\?[a-z=]{0,9}\\?=",
    ]
}

fn body_text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z]{5000}", "[ -~]{0,3000}", "[日é ]{2000}", "([a-zé.=]{0,90}[\r\n ]{0,3}){0,20}"]
}

fn values() -> impl Strategy<Value = Values> {
    (header_text(), header_text(), header_text(), body_text(), body_text(), 1_usize..=100).prop_map(
        |(subject, name, file, text, html, recipients)| Values { subject, name, file, text, html, recipients },
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn mails_have_short_lines_and_keep_their_values(given in values()) {
        let folder = tempfile::tempdir().unwrap();
        let config = MailConfig { outbox: Some(folder.path().into()), ..MailConfig::default() };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(send(config, &build(&given)));
        let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap();
        assert_values(&std::fs::read(file.path()).unwrap(), &given);
    }
}

/// Parses a mail with the package `email` of Python.
fn parse_with_python(bytes: &[u8]) -> Value {
    let python = std::env::var("AFTERLOAD_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/parse_mail.py");
    let mut child = Command::new(python).arg(script).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(bytes).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn long_words_and_many_recipients_arrive_unchanged() {
    let server = Server::start(SmtpTls::None);
    let config = MailConfig { smtp: Some(server.config()), ..MailConfig::default() };
    for (count, word) in ["w".repeat(5_000), "ü日\"\\, ".repeat(900)].into_iter().enumerate() {
        let [subject, name, file, text, html] = ["s", "n", "f", "t", "h"].map(|first| format!("{first}{word}"));
        let values = Values { subject, name, file, text, html, recipients: 100 };
        send(config.clone(), &build(&values)).await;
        let bytes = STANDARD.decode(server.mails()[count]["content"].as_str().unwrap()).unwrap();
        assert_values(&bytes, &values);
        let mut found = parse_with_python(&bytes);
        for body in found["bodies"].as_object_mut().unwrap().values_mut() {
            *body = json!(lines(body.as_str().unwrap()));
        }
        let named = |user: &str| json!([flat(&values.name), format!("{user}@example.com")]);
        let expected = json!({
            "subject": flat(&values.subject),
            "from": [named("from")],
            "reply_to": [named("reply")],
            "cc": [named("one"), named("two")],
            "to": (0..100).map(|number| json!(["", bare(number)])).collect::<Value>(),
            "files": [flat(&values.file)],
            "bodies": { "text/plain": lines(&values.text), "text/html": lines(&values.html) },
        });
        assert_eq!(found, expected);
    }
}
