//! Mails with HTML from the step, with pictures, and to addresses outside ASCII.

use mailparse::MailHeaderMap;
use serde_json::{Value, json};

use super::test_links::file;
use super::tests::{Desk, Memory, messages};
use afterload_mailer::{MailAttachment, MailConfig};

fn with_html(html: &str) -> Value {
    json!({ "to": "ops@example.com", "subject": "Hello", "html": html })
}

fn picture(name: &str) -> MailAttachment {
    MailAttachment::new(&format!("{name}.png"), "image/png", b"\x89PNG".to_vec()).with_content_id(name)
}

#[tokio::test]
async fn html_is_sent_beside_a_text_and_links_stand_in_both() {
    for (body, text) in [(Some("Own text"), "Own text"), (None, "Größe <b>")] {
        let desk = Desk::new();
        let mut with = with_html("<style>p { color: red }</style><p>Größe &lt;b&gt;</p>");
        with["body"] = body.into();
        with["links"] = json!({ "file": file(Some("1")) });
        desk.send_files(with, Vec::new(), &Memory::default()).await.unwrap();
        let mails = desk.mails();
        let mail = mailparse::parse_mail(mails[0].as_bytes()).unwrap();
        assert_eq!(mail.ctype.mimetype, "multipart/alternative");
        let [plain, html] = &mail.subparts[..] else { panic!("two bodies") };
        assert_eq!((plain.ctype.mimetype.as_str(), html.ctype.mimetype.as_str()), ("text/plain", "text/html"));
        let plain = plain.get_body().unwrap().replace("\r\n", "\n");
        assert_eq!(plain.trim_end(), format!("{text}\n\nfile: http://x/files/1/7d"));
        let html = html.get_body().unwrap();
        assert!(html.contains("<p style=\"color: red") && html.contains("Größe &lt;b&gt;"), "{html}");
        assert!(html.contains("<a href=\"http://x/files/1/7d\">file</a>"), "{html}");
    }
}

#[tokio::test]
async fn pictures_stand_beside_the_html_and_attachments_beside_both() {
    let desk = Desk::new();
    let files = vec![MailAttachment::new("a.csv", "text/csv", b"a\n".to_vec()), picture("logo"), picture("photo-2")];
    let with = with_html("<img src='cid:logo'><p style='background: url(cid:photo-2)'>x</p>");
    desk.send_files(with, files, &Memory::default()).await.unwrap();
    let mails = desk.mails();
    let mail = mailparse::parse_mail(mails[0].as_bytes()).unwrap();
    let kinds: Vec<_> = mail.parts().map(|part| part.ctype.mimetype.as_str()).collect();
    let expected = [
        "multipart/mixed",
        "multipart/alternative",
        "text/plain",
        "multipart/related",
        "text/html",
        "image/png",
        "image/png",
        "text/csv",
    ];
    assert_eq!(kinds, expected);
    let related = &mail.subparts[0].subparts[1];
    assert_eq!(related.ctype.params["type"], "text/html");
    for (part, name) in related.subparts[1..].iter().zip(["logo", "photo-2"]) {
        let disposition = part.get_content_disposition();
        assert_eq!(disposition.disposition, mailparse::DispositionType::Inline);
        assert_eq!(disposition.params["filename"], format!("{name}.png"));
        assert_eq!(part.headers.get_first_value("Content-ID").unwrap(), format!("<{name}>"));
        assert_eq!(part.get_body_raw().unwrap(), b"\x89PNG");
    }
}

#[tokio::test]
async fn pictures_that_only_values_name_do_not_keep_a_mail_from_its_recipients() {
    let text_only = json!({ "to": "a@b.co", "subject": "S", "body": "cid:logo" });
    let shown = ["multipart/mixed", "multipart/alternative", "text/plain", "multipart/related", "text/html"];
    for (with, files, kinds) in [
        (with_html("<img src=cid:x>"), vec![], vec!["multipart/alternative", "text/plain", "text/html"]),
        (
            with_html("<img src=cid:x><img src=cid:logo>"),
            vec![picture("logo"), picture("other")],
            [&shown[..], &["image/png", "image/png"]].concat(),
        ),
        (
            with_html("<p>cid:other</p>"),
            vec![picture("other")],
            vec!["multipart/mixed", "multipart/alternative", "text/plain", "text/html", "image/png"],
        ),
        (text_only, vec![picture("other")], vec!["multipart/mixed", "text/plain", "image/png"]),
    ] {
        let desk = Desk::new();
        let has_other = files.iter().any(|file| file.content_id() == Some("other"));
        assert_eq!(desk.send_files(with, files, &Memory::default()).await.unwrap().sent, 1);
        let mails = desk.mails();
        let mail = mailparse::parse_mail(mails[0].as_bytes()).unwrap();
        let found: Vec<_> = mail.parts().map(|part| part.ctype.mimetype.as_str()).collect();
        assert_eq!(found, kinds);
        if let Some(other) = mail.parts().last().filter(|_| has_other) {
            let disposition = other.get_content_disposition();
            assert_eq!(disposition.disposition, mailparse::DispositionType::Attachment, "it is not shown");
            assert_eq!(disposition.params["filename"], "other.png");
            assert_eq!(other.headers.get_first_value("Content-ID"), None);
        }
    }
}

#[test]
fn check_compares_pictures_as_far_as_they_are_known() {
    let messages_of = |html: &str, inline: Value| {
        let mut with = with_html(html);
        with["inline"] = inline;
        messages(with)
    };
    let (logo, none) = (json!({ "logo": "${{ params.logo }}" }), json!({}));
    for (html, inline) in [
        ("<img src='cid:logo'>", &logo),
        ("<p>no picture</p>", &none),
        ("<img src='cid:${{ params.name }}'>", &logo),
        ("${{ params.html | safe_html }}", &logo),
    ] {
        assert_eq!(messages_of(html, inline.clone()), Vec::<String>::new(), "{html}");
    }
    let missing = "the HTML shows `cid:logo`, which is not in `inline`";
    assert_eq!(messages_of("${{ params.x }}<img src='cid:logo'>", none), [missing]);
    assert_eq!(messages_of("<p>${{ params.x }}</p>", logo.clone()), ["no element of the HTML shows `cid:logo`"]);
    let odd = json!({ "a b": "${{ params.logo }}" });
    assert_eq!(messages_of("<img src='cid:a'>", odd).len(), 3);
    let mut text = json!({ "to": "a@b.co", "subject": "S", "body": "x", "inline": logo });
    assert_eq!(messages(text.clone()), ["`inline` is for pictures in HTML, and the mail has none"]);
    text["template"] = "import_done".into();
    text["body"] = Value::Null;
    assert_eq!(messages(text), Vec::<String>::new(), "the run knows what the template shows");
}

#[test]
fn html_needs_a_subject_and_no_template() {
    let html = json!({ "to": "a@b.co", "html": "<p>x</p>" });
    assert_eq!(messages(html.clone()), ["a mail with a `html` needs a `subject`"]);
    let mut both = html;
    both["template"] = "import_done".into();
    assert_eq!(messages(both), ["`html` and `template` exclude each other"]);
}

#[tokio::test]
async fn only_copies_that_need_it_hold_addresses_outside_ascii() {
    let with = json!({ "to": ["Ü <ü@bücher.example>", "a@b.co"], "subject": "Hello", "body": "Text" });
    let refused = Desk::new().send_files(with.clone(), Vec::new(), &Memory::default()).await.unwrap_err();
    assert_eq!(refused.code().name(), "mail_invalid_recipient");
    let desk = Desk::with_settings(MailConfig { smtputf8: true, ..MailConfig::default() });
    assert_eq!(desk.send_files(with, Vec::new(), &Memory::default()).await.unwrap().sent, 2);
    let mails = desk.mails();
    let copy = |recipient: &str| {
        let start = format!("X-Envelope-To: {recipient}\r\n");
        mails.iter().find(|mail| mail.starts_with(&start)).unwrap_or_else(|| panic!("{mails:?}"))
    };
    assert!(copy("ü@xn--bcher-kva.example").contains("To: =?utf-8?q?=C3=9C?= <ü@xn--bcher-kva.example>, a@b.co\r\n"));
    let ascii = copy("a@b.co");
    assert!(ascii.is_ascii(), "{ascii}");
    let group = "To: =?utf-8?q?=C3=9C_=3C=C3=BC=40xn=2D=2Dbcher=2Dkva=2Eexam?=\r\n =?utf-8?q?ple=3E?= :;, a@b.co\r\n";
    assert!(ascii.contains(group), "{ascii}");
    let error = messages(json!({ "to": "ü@b.co", "subject": "S", "body": "x" }));
    assert!(error.len() == 1 && error[0].contains("only ASCII"), "{error:?}");
}
