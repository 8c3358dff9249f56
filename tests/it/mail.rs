//! Mails of the outbox (`.eml`), parsed by another library than the one that writes them.

use std::path::Path;

use afterload::config::{Config, MailConfig};
use afterload_core::clock::Clock;
use afterload_mailer::{MailAddress, MailAttachment, MailContent, Mailer, MessageId, OutgoingMail};
use mailparse::{MailHeaderMap, ParsedMail};

fn mailer(folder: &Path) -> Mailer {
    let from = "Afterload <noreply@bücher.example>".into();
    let mail = MailConfig { outbox: Some(folder.join("out")), from, ..MailConfig::default() };
    Mailer::new(
        &Config { mail, templates: folder.join("templates"), ..Config::default() }.mailer_options(),
        Clock::system(),
    )
    .unwrap()
}

fn mail(mailer: &Mailer, to: &str, content: MailContent) -> OutgoingMail {
    let to = vec![MailAddress::parse_recipient(to).unwrap()];
    let (cc, attachments) = (Vec::new(), Vec::new());
    OutgoingMail {
        from: mailer.default_sender().clone(),
        reply_to: None,
        to,
        cc,
        content,
        headers: Vec::new(),
        attachments,
        run: "01RUN".into(),
    }
}

/// Sends to the first address of `To` and returns the only file of the outbox.
async fn deliver(folder: &Path, mailer: &Mailer, mail: &OutgoingMail) -> Vec<u8> {
    let id = MessageId::for_recipient("01RUN/mail", &mail.to[0], &mail.from);
    mailer.send(mail, &mail.to[0], &id).await.unwrap();
    let files = std::fs::read_dir(folder.join("out")).unwrap().map(|entry| entry.unwrap().path()).collect::<Vec<_>>();
    assert_eq!(files.len(), 1, "{files:?}");
    assert_eq!(files[0].file_name().unwrap().to_str().unwrap(), format!("{}.eml", id.local_part()));
    std::fs::read(&files[0]).unwrap()
}

fn names(parsed: &ParsedMail<'_>) -> Vec<String> {
    let mut names = parsed.headers.iter().map(mailparse::MailHeader::get_key).collect::<Vec<_>>();
    names.sort();
    names
}

#[tokio::test]
async fn line_breaks_inject_no_headers() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = mailer(folder.path());
    let evil = "x\r\nBcc: victim@example.com\r\n\r\nbody\0\u{2028}\n y";
    let content = MailContent { subject: evil.into(), text: "text".into(), html: None };
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
async fn non_ascii_text_survives_in_headers_and_bodies() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = mailer(folder.path());
    let subject = "Ünïcode — 가져오기 완료 🎉, and a tail that is long enough to be folded over more than one line";
    let html = format!("<p>{}</p>", "日本語 ".repeat(300));
    let content = MailContent { subject: subject.into(), text: "Grüße\n".into(), html: Some(html.clone()) };
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
async fn repeated_attempt_leaves_one_complete_file() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = mailer(folder.path());
    for text in ["the first attempt says more", "the second"] {
        let content = MailContent { subject: "S".into(), text: text.into(), html: None };
        let mail = mail(&mailer, "a@example.com", content);
        let bytes = deliver(folder.path(), &mailer, &mail).await;
        assert_eq!(mailparse::parse_mail(&bytes).unwrap().get_body().unwrap().trim_end(), text);
    }
}

#[test]
fn message_id_depends_only_on_step_and_recipient() {
    let address = |text: &str| MailAddress::parse_recipient(text).unwrap();
    let from = address("noreply@example.com");
    let id = |key: &str, to: &str| MessageId::for_recipient(key, &address(to), &from).to_string();
    assert_eq!(id("run/mail", "a@example.com"), id("run/mail", "Somebody <A@Example.com>"));
    assert_ne!(id("run/mail", "a@example.com"), id("run/mail", "b@example.com"));
    assert_ne!(id("run/mail", "a@example.com"), id("run/other", "a@example.com"));
    assert!(id("run/mail", "a@example.com").ends_with("@example.com>"));
}

/// A parsed attachment: its name, its type, its bytes.
fn file(part: &ParsedMail<'_>) -> (String, String, Vec<u8>) {
    let disposition = part.get_content_disposition();
    assert_eq!(disposition.disposition, mailparse::DispositionType::Attachment);
    (disposition.params["filename"].clone(), part.ctype.mimetype.clone(), part.get_body_raw().unwrap())
}

#[tokio::test]
async fn attachments_arrive_byte_for_byte() {
    let text_file = b"a,b\n.\n1,2\r\n.\r\n\rFrom x\n".to_vec();
    let every_byte: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for html in [None, Some("<p>html</p>".to_owned())] {
        let folder = tempfile::tempdir().unwrap();
        let mailer = mailer(folder.path());
        let content = MailContent { subject: "S".into(), text: "text".into(), html: html.clone() };
        let mut mail = mail(&mailer, "a@example.com", content);
        mail.attachments = vec![
            MailAttachment::new("report.csv", "text/csv", text_file.clone()),
            MailAttachment::new("größe 日本.bin", "application/x-test", every_byte.clone()),
            MailAttachment::new("empty", "", Vec::new()),
        ];
        let bytes = deliver(folder.path(), &mailer, &mail).await;
        assert!(bytes.is_ascii());
        let parsed = mailparse::parse_mail(&bytes).unwrap();
        assert_eq!((parsed.ctype.mimetype.as_str(), parsed.subparts.len()), ("multipart/mixed", 4));
        let kinds: Vec<_> = parsed.parts().map(|part| part.ctype.mimetype.as_str()).collect();
        let said = if html.is_some() { "multipart/alternative" } else { "text/plain" };
        assert_eq!((kinds[1], kinds.contains(&"text/html")), (said, html.is_some()));
        let files: Vec<_> = parsed.subparts[1..].iter().map(file).collect();
        assert_eq!(files[0], ("report.csv".into(), "text/csv".into(), text_file.clone()));
        assert_eq!(files[1], ("größe 日本.bin".into(), "application/x-test".into(), every_byte.clone()));
        assert_eq!(files[2], ("empty".into(), "application/octet-stream".into(), Vec::new()));
    }
}

#[tokio::test]
async fn attachment_names_and_types_inject_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let mailer = mailer(folder.path());
    let content = MailContent { subject: "S".into(), text: "nul \0 is gone".into(), html: None };
    let mut mail = mail(&mailer, "a@example.com", content);
    let evil = "x\"\r\nBcc: victim@example.com\r\n\r\n--boundary\0\\.csv";
    let bytes = b"--boundary\r\nContent-Type: text/html\r\n\r\n<b>".to_vec();
    mail.attachments = vec![
        MailAttachment::new(evil, "text/csv\r\nBcc: victim@example.com", bytes.clone()),
        MailAttachment::new("b", "multipart/mixed; boundary=boundary", bytes.clone()),
        MailAttachment::new("c", "Message/rfc822", bytes.clone()),
        MailAttachment::new("d", "no type at all", bytes.clone()),
    ];
    let written = deliver(folder.path(), &mailer, &mail).await;
    let parsed = mailparse::parse_mail(&written).unwrap();
    // The mail, its text and its four attachments, and no other part.
    assert_eq!(parsed.parts().count(), 1 + 1 + 4);
    let bcc = |part: &ParsedMail<'_>| part.headers.get_first_value("Bcc");
    assert!(parsed.parts().all(|part| bcc(part).is_none()), "{}", String::from_utf8_lossy(&written));
    assert_eq!(parsed.subparts[0].get_body().unwrap().trim_end(), "nul  is gone");
    for part in &parsed.subparts[1..] {
        let (name, kind, found) = file(part);
        assert!(!name.contains(['\r', '\n', '\0']) && found == bytes, "{name}");
        assert_eq!(kind, "application/octet-stream");
    }
}
