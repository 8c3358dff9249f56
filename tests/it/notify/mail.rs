//! `notify.fanout` by mail.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use afterload::config::{QueueConfig, SmtpTls};
use base64::Engine as _;
use serde_json::{Value, json};

use super::{counts, id};
use crate::smtp::Server;
use crate::support::{Database, Place, TestApp, both, eventually, numbers};

both!(
    each_recipient_gets_one_mail_and_mention_wins,
    deferred_recipient_does_not_block_the_others,
    deferred_mention_stays_a_mention,
    deferred_mails_are_sent_after_a_suspension,
    mails_over_the_rate_hold_no_worker_and_stay_single,
    no_recipient_is_knowingly_mailed_twice_despite_kills,
);

const USERS: &str = "CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT NOT NULL, email TEXT);
    INSERT INTO users VALUES (1, 'ann', 'ann@example.com'), (2, 'bob', 'bob@example.com'), (3, 'eve', 'eve@example.com'),
    (4, 'nomail', NULL), (5, 'broken', 'nowhere'), (6, 'zoë', 'zoe@example.com')";

fn yaml(letter: &str, rest: &str) -> String {
    format!(
        r#"name: p
params: {{ text: {{ type: string, default: "" }} }}
steps:
  - id: tell
    uses: notify.fanout
    with:
      audience:
        followers: {{ sql: 'SELECT id, name, email FROM users WHERE id <> 6', key: id }}
        mentions: {{ text: "${{{{ params.text }}}}", sql: 'SELECT id, name, email FROM users WHERE name = :name' }}
      deliver: {{ email: {{ {letter} }} }}
      {rest}
"#
    )
}

async fn each_recipient_gets_one_mail_and_mention_wins(database: Database) {
    let builder = TestApp::builder(database)
        .pipeline("p", &yaml("template: hello, vars: { sign: \"${{ run.pipeline }}\" }", "chunk: 2"));
    let folder = builder.folder().join("templates/email/hello");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("subject.txt"), "{{ person.name }} by {{ reason }}").unwrap();
    std::fs::write(folder.join("body.txt"), "Dear {{ person.name }}, number {{ person.id }}, yours {{ sign }}")
        .unwrap();
    let app = builder.start().await;
    app.sql(USERS).await;
    let run = app.run_to_end("p", json!({ "text": "hello @bob, @zoë and @nobody" })).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    // There are six recipients: two are mentioned, and one of them does not follow. Two others have no usable address.
    assert_eq!(counts(&run), [2, 5, 4, 1, 2], "{run}");
    assert_eq!(run["steps"][0]["progress"]["done"], 7, "{run}");
    let mails = app.mails();
    assert_eq!(mails.len(), 4, "{mails:?}");
    for (address, subject, text) in [
        ("ann@example.com", "Subject: ann by follow", "Dear ann, number 1, yours p"),
        ("bob@example.com", "Subject: bob by mention", "Dear bob, number 2, yours p"),
        ("eve@example.com", "Subject: eve by follow", "Dear eve, number 3, yours p"),
        ("zoe@example.com", "", "number 6, yours p"),
    ] {
        let mail = mails.iter().find(|mail| mail.contains(&format!("X-Envelope-To: {address}"))).expect(address);
        assert!(mail.contains(subject) && mail.contains(text), "{mail}");
    }
    // Another run sends new messages.
    app.run_to_end("p", json!({ "text": "@bob" })).await;
    assert_eq!(app.mails().len(), 4 + 3);
    // An address that receives no mails at all is skipped, mentioned or not.
    app.post("/v1/mail/suppressions", json!({ "address": "bob@example.com" })).await;
    let run = app.run_to_end("p", json!({ "text": "@bob" })).await;
    assert_eq!((counts(&run), app.mails().len()), ([1, 5, 2, 2, 2], 7 + 2), "{run}");
    if database == Database::Sqlite {
        // The key column holds bytes, which cannot be compared with text: the second page would equal the first.
        let yaml = yaml("subject: a, body: b", "chunk: 2").replace("'SELECT id,", "'SELECT CAST(id AS blob) AS id,");
        app.publish("p", &yaml).await;
        let run = app.run_to_end("p", json!({})).await;
        assert_eq!(run["steps"][0]["error"]["code"], "audience_key_invalid", "{run}");
    }
    app.finish().await;
}

async fn deferred_recipient_does_not_block_the_others(database: Database) {
    let server = Server::start(SmtpTls::None);
    let letter = "subject: \"News for ${{ person.name }}\", body: \"You ${{ reason }} us.\"";
    let yaml = yaml(letter, "chunk: 1\n    retry: { attempts: 3, backoff: constant, delay: 10ms }");
    let app = TestApp::builder(database)
        .pipeline("p", &yaml)
        .config(|config| config.mail.smtp = Some(server.config()))
        .start()
        .await;
    app.sql(USERS).await;
    app.sql("UPDATE users SET email = 'refuse@example.com' WHERE id = 1; UPDATE users SET email = 'defer@example.com' WHERE id = 2").await;
    let run = app.run_to_end("p", json!({})).await;
    let step = &run["steps"][0];
    assert_eq!((&step["error"]["code"], &step["attempt"]), (&json!("mail_deferred"), &json!(3)), "{run}");
    assert_eq!(step["progress"]["counts"], json!({ "delivered": 1, "failed": 3, "skipped": 0 }), "{run}");
    assert_eq!(server.mails().len(), 1, "she was told in the first attempt alone");
    let mail = content(&server.mails()[0]);
    assert!(mail.contains("Subject: News for eve") && mail.contains("You follow us."), "{mail}");
    // The address now works, and a retry notifies only this recipient.
    app.sql("UPDATE users SET email = 'bob@example.com' WHERE id = 2").await;
    app.post(&format!("/v1/runs/{}/retry", id(&run)), json!({})).await;
    let run = app.ended(&run).await;
    assert_eq!((&run["status"], counts(&run)), (&json!("succeeded"), [0, 5, 2, 0, 3]), "{run}");
    assert_eq!(
        server.mails().iter().map(|mail| &mail["to"][0]).collect::<Vec<_>>(),
        ["eve@example.com", "bob@example.com"]
    );
    app.finish().await;
}

async fn deferred_mention_stays_a_mention(database: Database) {
    let server = Server::start(SmtpTls::None);
    let letter = "subject: \"News for ${{ person.name }}\", body: \"You ${{ reason }} us.\"";
    let yaml = yaml(letter, "chunk: 1\n    retry: { attempts: 3, backoff: constant, delay: 10ms }");
    let app = TestApp::builder(database)
        .pipeline("p", &yaml)
        .config(|config| config.mail.smtp = Some(server.config()))
        .start()
        .await;
    app.sql(USERS).await;
    // The server puts off the first mail to this address. Bob is mentioned and follows.
    app.sql("UPDATE users SET email = 'grey.bob@example.com' WHERE id = 2").await;
    let run = app.run_to_end("p", json!({ "text": "@bob" })).await;
    assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("succeeded"), &json!(2)), "{run}");
    assert_eq!(counts(&run), [1, 5, 3, 1, 2], "{run}");
    let mails = server.mails();
    let told = |name: &str| {
        let subject = format!("Subject: News for {name}");
        let found: Vec<_> = mails.iter().map(content).filter(|mail| mail.contains(&subject)).collect();
        assert_eq!(found.len(), 1, "{name}: {found:?}");
        found[0].contains("You mention us.")
    };
    assert_eq!(["ann", "bob", "eve"].map(told), [false, true, false]);
    app.finish().await;
}

async fn deferred_mails_are_sent_after_a_suspension(database: Database) {
    let server = Server::start(SmtpTls::None);
    // The defaults for other failures must not apply.
    let yaml = yaml("subject: News, body: There are news.", "chunk: 1")
        .replace("name: p\n", "name: p\ndefaults: { retry: { attempts: 1 } }\n");
    let app = TestApp::builder(database)
        .pipeline("p", &yaml)
        .config(|config| {
            config.mail.smtp = Some(server.config());
            config.mail.retry_delays = vec!["1ms".parse().unwrap(); 2];
        })
        .start()
        .await;
    app.sql(USERS).await;
    app.sql("UPDATE users SET email = 'grey.1@example.com' WHERE id = 1; UPDATE users SET email = 'refuse@example.com' WHERE id = 2").await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let mut asked = server.asked();
    asked.sort();
    let once = ["eve@example.com", "grey.1@example.com", "grey.1@example.com", "refuse@example.com"];
    assert_eq!((asked, server.mails().len()), (once.map(str::to_owned).into(), 2), "{run}");
    // Where the server defers a mail each time, the step fails after the last pause.
    app.sql("UPDATE users SET email = 'defer@example.com' WHERE id = 1").await;
    let run = app.run_to_end("p", json!({})).await;
    assert_eq!(run["steps"][0]["error"]["code"], "mail_deferred", "{run}");
    assert_eq!(server.asked().iter().filter(|address| *address == "defer@example.com").count(), 3, "{run}");
    app.finish().await;
}

fn content(mail: &Value) -> String {
    let content = mail["content"].as_str().expect("a mail");
    String::from_utf8(base64::engine::general_purpose::STANDARD.decode(content).expect("base64")).expect("text")
}

/// Returns the mails of an outbox with their modification times.
fn outbox(folder: &Path) -> BTreeMap<PathBuf, SystemTime> {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let files = files.filter(|file| file.path().extension().is_some_and(|extension| extension == "eml"));
    files.map(|file| (file.path(), file.metadata().and_then(|facts| facts.modified()).expect("a time"))).collect()
}

async fn mails_over_the_rate_hold_no_worker_and_stay_single(database: Database) {
    let app = TestApp::builder(database)
        .pipeline("p", &yaml("subject: \"by ${{ reason }}\", body: b", ""))
        .pipeline("free", "name: free\nsteps: [{ id: one, uses: test.step }]\n")
        .config(|config| {
            config.mail.per_minute = [("example.com".to_owned(), 60)].into();
            config.queues.insert("default".into(), QueueConfig { concurrency: 1 });
        })
        .start()
        .await;
    app.sql(USERS).await;
    let runs = [app.run("p", json!({ "text": "@bob" })).await, app.run("p", json!({ "text": "@bob" })).await];
    assert_eq!(app.run_to_end("free", json!({})).await["status"], "succeeded");
    for run in &runs {
        let run = app.ended(run).await;
        assert_eq!((&run["status"], counts(&run)), (&json!("succeeded"), [1, 5, 3, 1, 2]), "{run}");
        assert_eq!(run["steps"][0]["attempt"], 1, "{run}");
        let mails: Vec<_> = app.mails().into_iter().filter(|mail| mail.contains(id(&run))).collect();
        let count = |text: &str| mails.iter().filter(|mail| mail.contains(text)).count();
        assert_eq!((mails.len(), count("Subject: by mention"), count("Subject: by follow")), (3, 1, 2), "{mails:?}");
    }
    // The two of them cannot both wait in memory.
    let suspended = numbers(&app.service(), "SELECT COUNT(*) FROM step_runs WHERE suspend_count > 0").await;
    assert!(suspended[0] > 0);
    app.finish().await;
}

async fn no_recipient_is_knowingly_mailed_twice_despite_kills(database: Database) {
    const PEOPLE: usize = 600;
    const PARALLEL: usize = 3;
    let place = Place::new(database).await;
    place
        .sql(&format!(
            "CREATE TABLE users (id BIGINT PRIMARY KEY, name TEXT NOT NULL, email TEXT NOT NULL);
         INSERT INTO users WITH RECURSIVE c(x) AS (SELECT 100 UNION ALL SELECT x + 1 FROM c WHERE x < {})
         SELECT x, 'u' || x, 'u' || x || '@example.com' FROM c",
            99 + PEOPLE
        ))
        .await;
    place.pipeline(
        "p",
        &yaml("subject: News, body: There are news.", &format!("chunk: 100\n      parallel: {PARALLEL}")),
    );
    let folder = place.dir.path().join("data").join("outbox");
    let mut process = place.start().await;
    let run = process.start_run("p", json!({ "text": "@u101" })).await;
    let mut seen: BTreeMap<PathBuf, SystemTime> = BTreeMap::new();
    let mut killed_at = Vec::new();
    for third in [1, 2, 3] {
        eventually("some mails", async || (outbox(&folder).len() >= PEOPLE * third / 5).then_some(())).await;
        process.kill().await;
        let there = outbox(&folder);
        killed_at.push(there.len());
        for (path, time) in there {
            seen.entry(path).or_insert(time);
        }
        place.forget_the_dead().await;
        process = place.start().await;
    }
    assert!(killed_at[0] < PEOPLE, "the first kill came too late to prove anything: {killed_at:?}");
    let run: Value =
        process.until("the end", id(&run), |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!(run["status"], "succeeded", "{run}\n{}", place.log());
    assert_eq!(counts(&run), [1, PEOPLE as i64, PEOPLE as i64, 1, 0], "{run}");
    let there = outbox(&folder);
    assert_eq!(there.len(), PEOPLE);
    let again = seen.iter().filter(|(path, time)| there[*path] != **time).count();
    assert!(again <= 3 * PARALLEL, "{again} mails were written again after the kills");
    assert!(process.terminate().await.success());
}
