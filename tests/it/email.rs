//! `email.send` in runs of the real application: attachments, the rate of mails, secrets, and the preview.

use std::process::Output;

use afterload::config::{QueueConfig, Secret};
use afterload_core::units::ByteSize;
use afterload_state::TxOutcome;
use mailparse::{MailHeaderMap, ParsedMail};
use serde_json::json;
use tokio::process::Command;

use crate::support::{Database, TestApp, both, eventually, numbers};

both!(
    attachments_are_sent,
    attachments_over_the_limit_fail_with_a_hint,
    international_host_is_sent_as_ascii_and_mailbox_is_refused,
    headers_of_the_step_are_sent,
    mails_to_a_domain_keep_the_rate,
    mails_over_the_rate_hold_no_worker,
    steps_that_share_a_rate_are_suspended_until_their_turn,
    secrets_appear_in_no_mail_and_no_error,
);

/// Returns the attachments of a mail by name, and its text.
fn parts(mail: &str) -> (Vec<(String, Vec<u8>)>, String) {
    let parsed = mailparse::parse_mail(mail.as_bytes()).unwrap();
    let is_file = |part: &&ParsedMail<'_>| part.headers.get_first_value("Content-Disposition").is_some();
    let file = |part: &ParsedMail<'_>| {
        (part.get_content_disposition().params["filename"].clone(), part.get_body_raw().unwrap())
    };
    let text = parsed.parts().find(|part| part.ctype.mimetype == "text/plain" && !is_file(part)).unwrap();
    (parsed.parts().filter(is_file).map(file).collect(), text.get_body().unwrap())
}

async fn attachments_are_sent(database: Database) {
    let steps = r#"
  - { id: make, uses: test.step, with: { file: "größe.html" } }
  - { id: nothing, uses: test.step, with: { give: 1 } }
  - id: mail
    uses: email.send
    with:
      to: [a@example.com, b@example.com]
      from: Shop <files@shop.example>
      reply_to: help@shop.example
      subject: Files
      body: Here they are.
      attach: ATTACH
"#;
    let yaml = |name: &str, attach: &str| {
        format!("name: {name}\nparams: {{ file: {{ type: file }} }}\nsteps:{}", steps.replace("ATTACH", attach))
    };
    let list = r#"["${{ steps.make.file }}", "${{ steps.nothing.file }}", "${{ params.file }}"]"#;
    let app = TestApp::builder(database)
        .pipeline("list", &yaml("list", list))
        .pipeline("one", &yaml("one", r#""${{ params.file }}""#))
        .pipeline("none", &yaml("none", r#""${{ steps.nothing.file }}""#))
        .start()
        .await;
    let bytes: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let made = ("größe.html".to_owned(), b"made by a test\n".to_vec());
    let given = ("data.csv".to_owned(), bytes.clone());
    let mut known = 0;
    for (pipeline, files) in [("list", vec![made, given.clone()]), ("one", vec![given]), ("none", Vec::new())] {
        let run = app.upload(pipeline, "data.csv", bytes.clone()).await;
        let run = app.ended(&run).await;
        assert_eq!(run["status"], "succeeded", "{run}");
        let id = run["id"].as_str().unwrap();
        let mails: Vec<_> = app.mails().into_iter().filter(|mail| mail.contains(id)).collect();
        known += 2;
        assert_eq!((mails.len(), app.mails().len()), (2, known));
        for mail in &mails {
            let headers = mailparse::parse_mail(mail.as_bytes()).unwrap().headers;
            let [from, reply_to] = ["From", "Reply-To"].map(|name| headers.get_first_value(name).unwrap());
            assert_eq!((&*from, &*reply_to), ("Shop <files@shop.example>", "help@shop.example"));
            let (found, text) = parts(mail);
            assert_eq!((found, text.trim_end()), (files.clone(), "Here they are."), "{pipeline}");
        }
    }
    app.finish().await;
}

async fn attachments_over_the_limit_fail_with_a_hint(database: Database) {
    let yaml = |name: &str, second: &str| {
        format!(
            r#"
name: {name}
steps:
  - {{ id: one, uses: test.step, with: {{ file: one.txt }} }}
  - {{ id: two, uses: test.step, with: {{ file: two.txt }} }}
  - {{ id: none, uses: test.step, with: {{ give: 1 }} }}
  - id: mail
    uses: email.send
    with:
      to: a@example.com
      subject: Files
      body: Here they are.
      attach: ["${{{{ steps.one.file }}}}", "${{{{ steps.{second}.file }}}}"]
      links: {{ the second: "${{{{ steps.two.file }}}}" }}
"#
        )
    };
    // Each file has 15 bytes.
    let app = TestApp::builder(database)
        .pipeline("fits", &yaml("fits", "none"))
        .pipeline("large", &yaml("large", "two"))
        .config(|config| config.limits.mail.attachments = ByteSize(29))
        .start()
        .await;
    let run = app.run_to_end("fits", json!({})).await;
    assert_eq!((&run["status"], app.mails().len()), (&json!("succeeded"), 1), "{run}");
    let run = app.run_to_end("large", json!({})).await;
    let (code, attempt) = (&run["error"]["code"], &run["steps"][3]["attempt"]);
    assert_eq!((code, attempt), (&json!("mail_attachments_too_large"), &json!(1)), "{run}");
    assert!(run["error"]["message"].as_str().unwrap().contains("more than 29b together"), "{run}");
    assert_eq!(app.mails().len(), 1, "nobody receives half of it");
    app.finish().await;
}

async fn international_host_is_sent_as_ascii_and_mailbox_is_refused(database: Database) {
    let yaml = r#"
name: mails
params: { to: { type: email } }
steps:
  - { id: mail, uses: email.send, with: { to: "${{ params.to }}", subject: Hello, body: You } }
"#;
    let app = TestApp::builder(database).pipeline("mails", yaml).start().await;
    let run = app.run_to_end("mails", json!({ "to": "a@bücher.example" })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let mails = app.mails();
    assert_eq!(mails.len(), 1, "{mails:?}");
    assert!(mails[0].contains("X-Envelope-To: a@xn--bcher-kva.example"), "{}", mails[0]);
    let (status, refusal) = app.post("/v1/pipelines/mails/runs", json!({ "params": { "to": "ü@b.co" } })).await;
    assert_eq!((status, &refusal["details"][0]["code"]), (422, &json!("param_email_not_ascii")), "{refusal}");
    assert_eq!(app.mails().len(), 1);
    app.finish().await;
}

async fn headers_of_the_step_are_sent(database: Database) {
    let yaml = r#"
name: reply
params: { id: { type: string }, note: { type: string } }
steps:
  - id: mail
    uses: email.send
    with:
      to: a@example.com
      subject: Reply
      body: Text
      headers: { In-Reply-To: "${{ params.id }}", X-Note: "${{ params.note }}" }
"#;
    let app = TestApp::builder(database).pipeline("reply", yaml).start().await;
    let (id, note) = ("<1@shop.example>", "Größe ".repeat(60));
    let run = app.run_to_end("reply", json!({ "id": id, "note": note })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let mails = app.mails();
    let headers = mailparse::parse_mail(mails[0].as_bytes()).unwrap().headers;
    assert_eq!(headers.get_first_value("In-Reply-To").unwrap(), id);
    assert_eq!(headers.get_first_value("X-Note").unwrap(), note.trim());
    let evil = json!({ "id": "<1@shop.example>\r\nBcc: victim@example.com", "note": "x" });
    let run = app.run_to_end("reply", evil).await;
    assert_eq!(run["error"]["code"], "mail_header_invalid", "{run}");
    assert_eq!(app.mails().len(), 1);
    app.finish().await;
}

async fn mails_to_a_domain_keep_the_rate(database: Database) {
    /// Milliseconds between two mails at 300 per minute.
    const INTERVAL: i64 = 200;
    let yaml = r#"
name: mails
steps:
  - id: mail
    uses: email.send
    with:
      to: [a@slow.example, b@SLOW.example, c@slow.example, d@other.example]
      subject: Hello
      body: You
"#;
    let app = TestApp::builder(database)
        .pipeline("mails", yaml)
        .config(|config| config.mail.per_minute = [("slow.example".to_owned(), 300)].into())
        .start()
        .await;
    let run = app.run_to_end("mails", json!({})).await;
    assert_eq!((&run["status"], app.mails().len()), (&json!("succeeded"), 4), "{run}");
    let time = |field: &str| {
        let text = run[field].as_str().unwrap();
        chrono::DateTime::parse_from_rfc3339(text).unwrap().timestamp_millis()
    };
    // No slot comes early: the third mail starts at least two intervals after the first, which starts during this run.
    assert!(time("finished_at") - time("started_at") >= 2 * INTERVAL, "{run}");
    let db = app.app.engine.db();
    let next = async |domain: &str| {
        let key = format!("mail:{domain}");
        db.with_tx(async |tx| Ok(TxOutcome::Rollback(tx.rate_limits().reserve_start(&key, 0, 0).await?))).await.unwrap()
    };
    assert!(next("slow.example").await >= time("started_at") + 3 * INTERVAL);
    assert_eq!(next("other.example").await, 0, "nobody counts what leaves for others");
    app.finish().await;
}

/// An application with one worker that sends 60 mails per minute to `slow.example`.
async fn with_slow_domain(database: Database) -> TestApp {
    let mails = r#"
name: mails
params: { to: { type: list, items: { type: email } } }
steps:
  - { id: mail, uses: email.send, timeout: 1m, with: { to: "${{ params.to }}", subject: Hello, body: You } }
"#;
    TestApp::builder(database)
        .pipeline("mails", mails)
        .pipeline("free", "name: free\nsteps: [{ id: one, uses: test.step }, { id: two, uses: test.step }]\n")
        .config(|config| {
            config.mail.per_minute = [("slow.example".to_owned(), 60)].into();
            config.queues.insert("default".into(), QueueConfig { concurrency: 1 });
        })
        .start()
        .await
}

fn slow_addresses(count: usize) -> serde_json::Value {
    json!({ "to": (0..count).map(|user| format!("u{user}@slow.example")).collect::<Vec<_>>() })
}

async fn mails_over_the_rate_hold_no_worker(database: Database) {
    let app = with_slow_domain(database).await;
    let run = app.run("mails", slow_addresses(100)).await;
    eventually("two mails", async || (app.mails().len() >= 2).then_some(())).await;
    let free = app.run_to_end("free", json!({})).await;
    assert_eq!(free["status"], "succeeded", "{free}");
    let id = run["id"].as_str().unwrap();
    let shown = app.show(id).await;
    assert!(shown["finished_at"].is_null() && app.mails().len() < 100, "{shown}");
    assert_eq!(shown["steps"][0]["attempt"], 1, "{shown}");
    app.post(&format!("/v1/runs/{id}/cancel"), json!({})).await;
    assert_eq!(app.ended(&run).await["status"], "cancelled");
    app.finish().await;
}

async fn steps_that_share_a_rate_are_suspended_until_their_turn(database: Database) {
    let app = with_slow_domain(database).await;
    let mut runs = Vec::new();
    for _ in 0..3 {
        runs.push(app.run("mails", slow_addresses(2)).await);
    }
    let free = app.run_to_end("free", json!({})).await;
    assert_eq!(free["status"], "succeeded", "{free}");
    let time = |value: &serde_json::Value| {
        chrono::DateTime::parse_from_rfc3339(value.as_str().unwrap()).unwrap().timestamp_millis()
    };
    let (mut begins, mut ends) = (Vec::new(), Vec::new());
    for run in &runs {
        let run = app.ended(run).await;
        assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(1)), "{run}");
        begins.push(time(&run["started_at"]));
        ends.push(time(&run["finished_at"]));
    }
    assert_eq!(app.mails().len(), 6);
    // Six mails take at least five intervals of a second.
    assert!(ends.iter().max().unwrap() - begins.iter().min().unwrap() >= 5_000, "{begins:?} {ends:?}");
    let suspended = numbers(&app.service(), "SELECT COUNT(*) FROM step_runs WHERE suspend_count > 0").await;
    assert!(suspended[0] > 0, "three steps cannot all wait in memory");
    app.finish().await;
}

async fn secrets_appear_in_no_mail_and_no_error(database: Database) {
    const CANARY: &str = "canary-of-a-secret-5e1f";
    let alarm = r#"
on_failure:
  - { id: alarm, uses: email.send, with: { to: ops@example.com, template: run_failed, vars: { error: "${{ run.error }}" } } }
"#;
    let mail = "uses: email.send, retry: { attempts: 1 }, with:";
    let steps = [
        ("refused", r#"uses: test.step, with: { refuse: "cannot use ${{ secrets.canary }} here" }"#.to_owned()),
        ("address", format!(r#"{mail} {{ to: "${{{{ secrets.canary }}}}", subject: S, body: B }}"#)),
        (
            "sender",
            format!(r#"{mail} {{ to: a@example.com, from: "${{{{ secrets.canary }}}}", subject: S, body: B }}"#),
        ),
        (
            "template",
            format!(
                r#"{mail} {{ to: a@example.com, template: broken, vars: {{ token: "${{{{ secrets.canary }}}}" }} }}"#
            ),
        ),
    ];
    let mut builder = TestApp::builder(database).config(|config| {
        config.secrets.insert("canary".into(), Secret::new(CANARY));
    });
    let folder = builder.folder().join("templates/email/broken");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("subject.txt"), "S").unwrap();
    std::fs::write(folder.join("body.txt"), "{{ token }}{{ token.x.y }}").unwrap();
    for (name, step) in &steps {
        builder = builder.pipeline(name, &format!("name: {name}\nsteps:\n  - {{ id: it, {step} }}\n{alarm}"));
    }
    let app = builder.start().await;
    for (count, (name, _)) in steps.iter().enumerate() {
        let run = app.run_to_end(name, json!({})).await;
        assert_eq!(run["status"], "failed", "{run}");
        assert!(!run.to_string().contains(CANARY), "{run}");
        let id = run["id"].as_str().unwrap();
        let mails: Vec<_> = app.mails().into_iter().filter(|mail| mail.contains(id)).collect();
        assert_eq!((mails.len(), app.mails().len()), (1, count + 1), "{name}: only the alarm left");
        let parsed = mailparse::parse_mail(mails[0].as_bytes()).unwrap();
        let subject = parsed.headers.get_first_value("Subject").unwrap();
        let said: String = parsed.parts().map(|part| part.get_body().unwrap_or_default()).collect();
        assert!(said.contains(run["error"]["code"].as_str().unwrap()), "{said}");
        for text in [&mails[0], &subject, &said] {
            assert!(!text.contains("canary-of"), "{name}: {text}");
        }
    }
    app.finish().await;
}

async fn preview(folder: &std::path::Path, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_afterload"));
    command.args(["mail", "preview"]).args(args).current_dir(folder).kill_on_drop(true);
    command.output().await.expect("the binary runs")
}

#[tokio::test]
async fn mail_can_be_previewed() {
    let folder = tempfile::tempdir().unwrap();
    let shown = preview(folder.path(), &["run_failed", "--param", r#"error={"code":"c","message":"<b>no</b>"}"#]).await;
    let out = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.status.success(), "{out}{}", String::from_utf8_lossy(&shown.stderr));
    let expected =
        "subject: example failed: <b>no</b>\nwrote mail-preview/run_failed.txt\nwrote mail-preview/run_failed.html\n";
    assert_eq!(out, expected);
    let read = |name: &str| std::fs::read_to_string(folder.path().join("mail-preview").join(name)).unwrap();
    assert!(read("run_failed.txt").contains("<b>no</b>"));
    let html = read("run_failed.html");
    assert!(html.starts_with("<!DOCTYPE html>") && html.contains("&lt;b&gt;no&lt;/b&gt;"), "{html}");
    // The preview wrote no other file.
    let made: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(made, ["mail-preview"]);

    let missing = preview(folder.path(), &["nope"]).await;
    let error = String::from_utf8_lossy(&missing.stderr).into_owned();
    assert_eq!(missing.status.code(), Some(1), "{error}");
    assert!(error.contains("there is no mail template `nope`") && error.contains("`run_failed`"), "{error}");
    let wrong = preview(folder.path(), &["run_failed", "-p", "nothing"]).await;
    assert_eq!(wrong.status.code(), Some(2));
}
