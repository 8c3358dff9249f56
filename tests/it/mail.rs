//! Mail as the receiving side reads it: the `.eml` files of the outbox, parsed by another library than wrote them.

use std::path::Path;

use afterload::config::{Config, MailConfig};
use afterload::mail::{Address, Content, Mail, Mailer, MessageId};
use mailparse::{MailHeaderMap, ParsedMail};

fn mailer(folder: &Path) -> Mailer {
    let mail =
        MailConfig { outbox: Some(folder.join("out")), from: "Afterload <noreply@bücher.example>".into(), smtp: None };
    Mailer::new(&Config { mail, templates: folder.join("templates"), ..Config::default() }).unwrap()
}

fn mail(mailer: &Mailer, to: &str, content: Content) -> Mail {
    let to = vec![Address::recipient(to).unwrap()];
    Mail { from: mailer.from().clone(), reply_to: None, to, cc: Vec::new(), content, run: "01RUN".into() }
}

/// Sends to the first of `To` and gives back the only file of the outbox.
async fn deliver(folder: &Path, mailer: &Mailer, mail: &Mail) -> Vec<u8> {
    let id = MessageId::derive("01RUN/mail", &mail.to[0], &mail.from);
    mailer.send(mail, &mail.to[0], &id).await.unwrap();
    let files = std::fs::read_dir(folder.join("out")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files[0].file_name().unwrap().to_str().unwrap(), format!("{}.eml", id.stem()));
    std::fs::read(&files[0]).unwrap()
}

fn names(parsed: &ParsedMail<'_>) -> Vec<String> {
    let mut names = parsed.headers.iter().map(mailparse::MailHeader::get_key).collect::<Vec<_>>();
    names.sort();
    names
}

#[tokio::test]
async fn line_breaks_in_names_and_subjects_make_no_headers() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = mailer(folder.path());
    let evil = "x\r\nBcc: victim@example.com\r\n\r\nbody\0\u{2028}\n y";
    let content = Content { subject: evil.into(), text: "text".into(), html: None };
    let mut mail = mail(&mailer, &format!("{evil} <a@example.com>"), content);
    mail.run = evil.into();
    let bytes = deliver(folder.path(), &mailer, &mail).await;
    let parsed = mailparse::parse_mail(&bytes).unwrap();
    let expected = [
        "Auto-Submitted",
        "Content-Transfer-Encoding",
        "Content-Type",
        "Date",
        "From",
        "MIME-Version",
        "Message-ID",
        "Subject",
        "To",
        "X-Afterload-Run",
        "X-Envelope-To",
    ];
    assert_eq!(names(&parsed), expected);
    let flat = "x Bcc: victim@example.com body y";
    assert_eq!(parsed.headers.get_first_value("Subject").unwrap(), flat);
    assert_eq!(parsed.headers.get_first_value("X-Afterload-Run").unwrap(), flat);
    let to = mailparse::addrparse_header(parsed.headers.get_first_header("To").unwrap()).unwrap();
    let only = to.extract_single_info().unwrap();
    assert_eq!((only.display_name.as_deref(), only.addr.as_str()), (Some(flat), "a@example.com"));
    assert_eq!(parsed.get_body().unwrap().trim_end(), "text");
}

#[tokio::test]
async fn any_language_survives_in_subject_names_and_both_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = mailer(folder.path());
    let subject = "Ünïcode — 가져오기 완료 🎉, and a tail that is long enough to be folded over more than one line";
    let html = format!("<p>{}</p>", "日本語 ".repeat(300));
    let content = Content { subject: subject.into(), text: "Grüße\n".into(), html: Some(html.clone()) };
    let mail = mail(&mailer, "\"Müller, Jörg\" <a@example.com>", content);
    let bytes = deliver(folder.path(), &mailer, &mail).await;
    assert!(bytes.is_ascii());
    assert!(
        bytes.split(|byte| *byte == b'\n').all(|line| line.len() <= 999 && (line.is_empty() || line.ends_with(b"\r")))
    );
    let parsed = mailparse::parse_mail(&bytes).unwrap();
    assert_eq!(parsed.headers.get_first_value("Subject").unwrap(), subject);
    assert_eq!(parsed.headers.get_first_value("To").unwrap(), "Müller, Jörg <a@example.com>");
    assert!(parsed.headers.get_first_value("Message-ID").unwrap().ends_with("@xn--bcher-kva.example>"));
    assert!(mailparse::dateparse(&parsed.headers.get_first_value("Date").unwrap()).unwrap() > 1_700_000_000);
    assert_eq!(parsed.ctype.mimetype, "multipart/alternative");
    let kinds = parsed.subparts.iter().map(|part| part.ctype.mimetype.as_str()).collect::<Vec<_>>();
    assert_eq!(kinds, ["text/plain", "text/html"]);
    assert_eq!(parsed.subparts[0].get_body().unwrap().trim_end(), "Grüße");
    assert_eq!(parsed.subparts[1].get_body().unwrap().trim_end(), html);
}

#[tokio::test]
async fn a_repeated_attempt_leaves_one_whole_file() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = mailer(folder.path());
    for text in ["the first attempt says more", "the second"] {
        let content = Content { subject: "S".into(), text: text.into(), html: None };
        let mail = mail(&mailer, "a@example.com", content);
        let bytes = deliver(folder.path(), &mailer, &mail).await;
        assert_eq!(mailparse::parse_mail(&bytes).unwrap().get_body().unwrap().trim_end(), text);
    }
}

#[test]
fn ids_differ_by_step_and_recipient_and_by_nothing_else() {
    let address = |text: &str| Address::recipient(text).unwrap();
    let from = address("noreply@example.com");
    let id = |key: &str, to: &str| MessageId::derive(key, &address(to), &from).to_string();
    assert_eq!(id("run/mail", "a@example.com"), id("run/mail", "Somebody <A@Example.com>"));
    assert_ne!(id("run/mail", "a@example.com"), id("run/mail", "b@example.com"));
    assert_ne!(id("run/mail", "a@example.com"), id("run/other", "a@example.com"));
    assert!(id("run/mail", "a@example.com").ends_with("@example.com>"));
}
