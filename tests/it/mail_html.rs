//! Mails with HTML and inline pictures, and addresses outside ASCII, in runs of the real application.

use afterload::config::SmtpTls;
use afterload_core::units::ByteSize;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mailparse::{MailHeaderMap, ParsedMail};
use serde_json::json;

use crate::smtp::Server;
use crate::support::{Database, TestApp, both};

both!(
    html_and_pictures_of_a_step_are_sent,
    html_of_a_fan_out_escapes_what_people_are_called,
    mailbox_outside_ascii_needs_a_server_with_smtputf8,
);

async fn html_and_pictures_of_a_step_are_sent(database: Database) {
    let yaml = r#"
name: photo
params:
  file: { type: file }
  name: { type: string, default: "<i>Ada</i> & \"co\"" }
  shown: { type: string, default: logo }
steps:
  - { id: make, uses: test.step, with: { file: "made.txt" } }
  - id: mail
    uses: email.send
    with:
      to: a@example.com
      subject: Photo
      html: |
        <p title="${{ params.name }}">Grüße, ${{ params.name }}</p>${{ '<hr>' | safe_html }}
        <img src="cid:${{ params.shown }}">
      inline: { logo: "${{ params.file }}" }
      attach: "${{ steps.make.file }}"
"#;
    let app = TestApp::builder(database)
        .pipeline("photo", yaml)
        .pipeline("other", &yaml.replace("name: photo", "name: other").replace("default: logo", "default: other"))
        .config(|config| config.limits.mail.attachments = ByteSize(2_000))
        .start()
        .await;
    let bytes: Vec<u8> = (0..=255).cycle().take(1_900).collect();
    let run = app.ended(&app.upload("photo", "logo.png", bytes.clone()).await).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let mails = app.mails();
    let mail = mailparse::parse_mail(mails[0].as_bytes()).unwrap();
    let parts: Vec<_> = mail.parts().map(|part| (part.ctype.mimetype.as_str(), part)).collect();
    let part = |kind: &str| parts.iter().find(|(known, _)| *known == kind).unwrap_or_else(|| panic!("{mails:?}")).1;
    let html = part("text/html").get_body().unwrap();
    assert!(html.contains("Grüße, &lt;i&gt;Ada&lt;/i&gt; &amp; \"co\"</p><hr>"), "{html}");
    assert!(html.contains("<img src=\"cid:logo\">"), "{html}");
    let text = parts.iter().find(|(kind, _)| *kind == "text/plain").unwrap().1.get_body().unwrap();
    assert_eq!(text.trim_end(), "Grüße, <i>Ada</i> & \"co\"");
    let is_picture = |part: &&ParsedMail<'_>| part.headers.get_first_value("Content-ID").is_some();
    let picture = mail.parts().find(is_picture).unwrap();
    assert_eq!(picture.headers.get_first_value("Content-ID").unwrap(), "<logo>");
    assert_eq!(mail.parts().filter(is_picture).count(), 1);
    assert_eq!(picture.get_body_raw().unwrap(), bytes);
    // A value that names no picture keeps the mail from nobody. The picture that is not shown is attached.
    let run = app.ended(&app.upload("other", "logo.png", bytes.clone()).await).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let with_picture = app.mails().iter().filter(|mail| mail.contains("Content-ID:")).count();
    assert_eq!((app.mails().len(), with_picture), (2, 1));
    // The picture and the attachment share the limit.
    let run = app.ended(&app.upload("photo", "logo.png", vec![0; 1_990]).await).await;
    assert_eq!(run["error"]["code"], "mail_attachments_too_large", "{run}");
    assert_eq!(app.mails().len(), 2);
    app.finish().await;
}

async fn html_of_a_fan_out_escapes_what_people_are_called(database: Database) {
    let yaml = r#"
name: p
steps:
  - id: tell
    uses: notify.fanout
    with:
      audience: { followers: { sql: 'SELECT id, name, email, photo FROM people', key: id } }
      deliver:
        email:
          subject: "News for ${{ person.name }}"
          html: "<p>Dear ${{ person.name }}, you ${{ reason }} us.</p><img src='${{ person.photo }}' alt=''>"
"#;
    let app = TestApp::builder(database).pipeline("p", yaml).start().await;
    app.sql(
        "CREATE TABLE people (id BIGINT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL, photo TEXT NOT NULL);
         INSERT INTO people VALUES (1, '<script>zoë</script>', 'zoe@example.com', 'cid:nothing')",
    )
    .await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let mails = app.mails();
    let mail = mailparse::parse_mail(mails[0].as_bytes()).unwrap();
    assert_eq!(mail.headers.get_first_value("Subject").unwrap(), "News for <script>zoë</script>");
    let [text, html] = &mail.subparts[..] else { panic!("two bodies: {mails:?}") };
    assert_eq!(text.get_body().unwrap().trim_end(), "Dear <script>zoë</script>, you follow us.");
    let html = html.get_body().unwrap();
    assert!(html.contains("<p>Dear &lt;script&gt;zoë&lt;/script&gt;, you follow us.</p>"), "{html}");
    app.finish().await;
}

async fn mailbox_outside_ascii_needs_a_server_with_smtputf8(database: Database) {
    let yaml = r#"
name: mails
params: { to: { type: list, items: { type: email } } }
steps:
  - id: mail
    uses: email.send
    retry: { attempts: 2, backoff: constant, delay: 10ms }
    with: { to: "${{ params.to }}", cc: [ö@b.co], subject: Hello, body: You }
"#;
    let (able, unable) = (Server::start(SmtpTls::None), Server::start_without_smtputf8());
    let to = json!({ "to": ["ü@bücher.example", "a@b.co"] });
    for (server, able) in [(&unable, false), (&able, true)] {
        let app = TestApp::builder(database)
            .pipeline("mails", yaml)
            .config(|config| {
                config.mail.smtp = Some(server.config());
                config.mail.smtputf8 = true;
            })
            .start()
            .await;
        let run = app.run_to_end("mails", to.clone()).await;
        let mails = server.mails();
        let found: Vec<_> =
            mails.iter().map(|mail| (mail["to"][0].as_str().unwrap(), mail["smtputf8"] == true)).collect();
        if able {
            assert_eq!(run["status"], "succeeded", "{run}");
            assert_eq!(found, [("ü@xn--bcher-kva.example", true), ("a@b.co", false), ("ö@b.co", true)]);
            let content = STANDARD.decode(mails[0]["content"].as_str().unwrap()).unwrap();
            let text = String::from_utf8(content).unwrap();
            assert!(text.contains("To: ü@xn--bcher-kva.example, a@b.co\r\nCc: ö@b.co\r\n"), "{text}");
        } else {
            assert_eq!(run["error"]["code"], "mail_smtputf8_unsupported", "{run}");
            let (details, attempt) = (&run["error"]["details"], &run["steps"][0]["attempt"]);
            assert_eq!((&details["accepted"], attempt), (&json!(["a@b.co"]), &json!(1)), "{run}");
            let refused = details["refused"].as_array().unwrap();
            assert!(refused.iter().all(|refusal| refusal["code"] == "mail_smtputf8_unsupported"), "{run}");
            assert_eq!((refused.len(), found), (2, vec![("a@b.co", false)]), "{run}");
        }
        app.finish().await;
    }
}
