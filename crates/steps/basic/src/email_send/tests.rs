use std::collections::HashMap;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use mailparse::MailHeaderMap;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::deliver::MailJob;
use super::test_links::{Addresses, file, verifier_of_links};
use super::test_suppressions::Suppressed;
use super::*;
use crate::codes;
use afterload_core::clock::Clock;
use afterload_mailer::{
    GrantedTurns, MAX_TURN_LEAD_MS, MailAttachment, MailConfig, MailLimits, Mailer, MailerOptions, RateSlots,
    TurnRequest,
};
use afterload_metrics::Metrics;
use afterload_pipeline::ValidationContext;
use afterload_spanned_yaml::Diagnostic;
use afterload_step_api::codes::STEP_SUSPENDED;
use afterload_step_api::{EffectRecorder, EffectState, ProgressReporter, RunInfo, StepWaits, WorkerSlot};

/// An effect log in memory. `lost` forgets the outcome of a started effect, as a crash does.
#[derive(Default)]
pub(super) struct Memory {
    known: Mutex<HashMap<String, EffectState>>,
    lost: bool,
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

impl EffectRecorder for Memory {
    fn effect_state(&self, key: &str) -> Answer<EffectState> {
        let known = self.known.lock().unwrap().get(key).cloned().unwrap_or(EffectState::New);
        Box::pin(async move { Ok(known) })
    }

    fn begin_effect(&self, key: &str) -> Answer<EffectState> {
        let before = self.known.lock().unwrap().get(key).cloned();
        if !matches!(before, Some(EffectState::Done(_))) {
            self.known.lock().unwrap().insert(key.to_owned(), EffectState::Uncertain);
        }
        Box::pin(async move { Ok(before.unwrap_or(EffectState::New)) })
    }

    fn mark_done(&self, key: &str, detail: Value) -> Answer<()> {
        if self.lost {
            return Box::pin(async { Err(afterload_core::error::Error::new(codes::DATABASE_UNAVAILABLE, "gone")) });
        }
        self.known.lock().unwrap().insert(key.to_owned(), EffectState::Done(detail));
        Box::pin(async { Ok(()) })
    }

    fn mark_not_done(&self, key: &str) -> Answer<()> {
        self.known.lock().unwrap().remove(key);
        Box::pin(async { Ok(()) })
    }
}

pub(super) struct Desk {
    folder: tempfile::TempDir,
    mailer: Mailer,
    stop: CancellationToken,
}

impl Desk {
    pub(super) fn new() -> Self {
        Self::with_settings(MailConfig::default())
    }

    pub(super) fn with_settings(mail: MailConfig) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mailer = Mailer::new(&MailerOptions { mail, ..options(folder.path()) }, Clock::system()).unwrap();
        Self { folder, mailer, stop: CancellationToken::new() }
    }

    /// Allows one mail per minute and domain.
    fn paced() -> (Self, Arc<Slots>) {
        let folder = tempfile::tempdir().unwrap();
        let mut options = options(folder.path());
        options.mail.per_minute = [("*".to_owned(), 1)].into();
        let slots = Arc::new(Slots::default());
        let mailer = Mailer::new(&options, Clock::system()).unwrap().with_shared(Metrics::default(), slots.clone());
        (Self { folder, mailer, stop: CancellationToken::new() }, slots)
    }

    async fn send(&self, with: Value, effects: &Memory) -> Result<EmailSendOutputs> {
        self.send_files(with, Vec::new(), effects).await
    }

    pub(super) async fn send_files(
        &self,
        with: Value,
        files: Vec<MailAttachment>,
        effects: &Memory,
    ) -> Result<EmailSendOutputs> {
        let run = RunInfo {
            id: "01RUN".into(),
            url: "http://x/v1/runs/01RUN".into(),
            pipeline: "contacts-import".into(),
            hops: 0,
        };
        let (progress, reports) = ProgressReporter::new_channel();
        let verifier = verifier_of_links(&run.id, &with);
        let turns = MailTurns::new(&self.mailer, Value::Null);
        let waits = StepWaits { clock: Clock::system(), worker: Arc::new(IdleWorker), stop: self.stop.clone() };
        let post = MailJob {
            mailer: &self.mailer,
            run: &run,
            verifier: &verifier,
            links: &Addresses,
            key: "01RUN/mail",
            effects,
            first_attempt: true,
            progress: &progress,
            turns: &turns,
            waits: &waits,
        };
        let tally = post.send_mail(serde_json::from_value(with).unwrap(), files).await?;
        if tally.next_turn().is_some() {
            return Err(afterload_core::error::Error::new(STEP_SUSPENDED, "the step waits"));
        }
        let sent = tally.into_outputs()?;
        let last = reports.borrow().clone();
        let all = sent.sent + sent.suppressed;
        assert_eq!((last.done, last.total, last.unit.as_str()), (all, Some(all), "mails"));
        assert_eq!(last.counts.get("suppressed").copied().unwrap_or_default(), sent.suppressed);
        Ok(sent)
    }

    /// Suppresses these addresses, each on a list.
    fn suppress(&mut self, entries: &'static [(&'static str, &'static str)]) {
        self.mailer = self.mailer.clone().with_suppressions(Arc::new(Suppressed(entries)));
    }

    pub(super) fn mails(&self) -> Vec<String> {
        let outbox = std::fs::read_dir(self.folder.path().join("outbox"));
        let files = outbox.into_iter().flatten().map(|entry| entry.unwrap().path());
        let mut mails = files.map(|path| std::fs::read_to_string(path).unwrap()).collect::<Vec<_>>();
        mails.sort();
        mails
    }
}

fn options(folder: &Path) -> MailerOptions {
    MailerOptions {
        mail: MailConfig::default(),
        limits: MailLimits::default(),
        templates: folder.join("templates/email"),
        outbox: folder.join("outbox"),
    }
}

/// A worker with nothing else to do. Each wait is over at once.
struct IdleWorker;

impl WorkerSlot for IdleWorker {
    fn wait_without_worker(
        &self,
        _: std::time::Duration,
        _: std::time::Duration,
    ) -> Pin<Box<dyn Future<Output = bool> + Send>> {
        Box::pin(async { true })
    }
}

/// The next free turn of each key, in memory.
#[derive(Default)]
struct Slots(Mutex<HashMap<String, i64>>);

impl Slots {
    /// Returns the time of the next turn of a domain.
    fn next(&self, domain: &str) -> i64 {
        self.0.lock().unwrap().get(&format!("mail:{domain}")).copied().unwrap_or_default()
    }
}

impl RateSlots for Slots {
    fn take_turns<'a>(&'a self, request: TurnRequest<'a>) -> Answer<GrantedTurns> {
        let (mut slots, now) = (self.0.lock().unwrap(), Clock::system().now());
        let next = slots.entry(request.key.to_owned()).or_default();
        let first = (*next).max(now);
        *next = first + i64::from(request.count) * request.interval;
        let granted = match first > now + MAX_TURN_LEAD_MS {
            true => GrantedTurns::Reserved(first),
            false => GrantedTurns::Taken(first),
        };
        Box::pin(async move { Ok(granted) })
    }
}

fn plain() -> Value {
    json!({ "to": "Ops <ops@example.com>", "subject": "Hello", "body": "Text" })
}

#[tokio::test]
async fn each_recipient_gets_one_copy() {
    let (desk, effects) = (Desk::new(), Memory::default());
    let mut with = plain();
    with["to"] = json!(["a@example.com", "B <b@example.com>"]);
    with["cc"] = json!(["A@EXAMPLE.com"]);
    with["bcc"] = json!("secret@example.com");
    let sent = desk.send(with, &effects).await.unwrap();
    assert_eq!(sent.sent, 3);
    let mails = desk.mails();
    let with_line = |line: &str| mails.iter().filter(|mail| mail.lines().any(|found| found == line)).count();
    assert_eq!((mails.len(), with_line("X-Envelope-To: secret@example.com")), (3, 1));
    assert_eq!((with_line("To: a@example.com, B <b@example.com>"), with_line("Cc: A@EXAMPLE.com")), (3, 3));
    assert!(!mails.iter().any(|mail| mail.contains("Bcc")));
    for id in &sent.message_ids {
        assert_eq!(with_line(&format!("Message-ID: {id}")), 1);
    }
}

#[tokio::test]
async fn recorded_mail_is_not_sent_again() {
    let (desk, effects) = (Desk::new(), Memory::default());
    let first = desk.send(plain(), &effects).await.unwrap();
    std::fs::remove_dir_all(desk.folder.path().join("outbox")).unwrap();
    let second = desk.send(plain(), &effects).await.unwrap();
    assert_eq!((first.message_ids, desk.mails().len()), (second.message_ids, 0));
}

#[tokio::test]
async fn lost_outcome_is_resent_with_same_message_id() {
    let (desk, mut effects) = (Desk::new(), Memory { lost: true, ..Memory::default() });
    assert!(desk.send(plain(), &effects).await.unwrap_err().is_transient());
    assert_eq!(desk.mails().len(), 1);
    effects.lost = false;
    let sent = desk.send(plain(), &effects).await.unwrap();
    let mails = desk.mails();
    assert_eq!(mails.len(), 1);
    assert!(mails[0].contains(&sent.message_ids[0]));
}

#[tokio::test]
async fn lost_outcome_is_held_on_request() {
    let (desk, mut effects) = (Desk::new(), Memory { lost: true, ..Memory::default() });
    desk.send(plain(), &effects).await.unwrap_err();
    effects.lost = false;
    let mut with = plain();
    with["on_uncertain"] = json!("hold");
    let error = desk.send(with, &effects).await.unwrap_err();
    assert_eq!((error.code().name(), error.is_transient()), ("mail_uncertain", false));
    assert!(error.message().contains("ops@example.com"));
}

#[tokio::test]
async fn failed_write_leaves_no_effect_and_can_be_retried() {
    let (desk, effects) = (Desk::new(), Memory::default());
    // A file in place of the outbox folder makes every write fail.
    std::fs::write(desk.folder.path().join("outbox"), "").unwrap();
    desk.send(plain(), &effects).await.unwrap_err();
    assert!(effects.known.lock().unwrap().is_empty());
    std::fs::remove_file(desk.folder.path().join("outbox")).unwrap();
    let mut with = plain();
    with["on_uncertain"] = json!("hold");
    desk.send(with, &effects).await.unwrap();
    assert_eq!(desk.mails().len(), 1);
}

#[tokio::test]
async fn sent_mail_takes_no_turn_and_waiting_mail_is_not_uncertain() {
    let (mut desk, slots) = Desk::paced();
    let effects = Memory::default();
    let with = |to: &str| json!({ "to": to, "subject": "Hello", "body": "Text", "on_uncertain": "hold" });
    desk.send(with("a@one.example"), &effects).await.unwrap();
    let turn = slots.next("one.example");
    assert!(turn > Clock::system().now());
    desk.send(with("a@one.example"), &effects).await.unwrap();
    assert_eq!(slots.next("one.example"), turn, "the second attempt sent nothing, and waited for nothing");
    // Another domain does not wait for the first one. The next mail to the first domain waits for another attempt.
    let mut both = with("b@one.example");
    both["cc"] = json!("a@two.example");
    let waiting = desk.send(both, &effects).await.unwrap_err();
    assert_eq!(waiting.code(), STEP_SUSPENDED);
    assert!(slots.next("one.example") > turn, "its turn is reserved");
    assert_eq!((desk.mails().len(), effects.known.lock().unwrap().len()), (2, 2), "it was not begun");
    // Without a rate limit the same recipient gets the mail: the effect was never begun, so `hold` does not hold it.
    desk.mailer = Mailer::new(&options(desk.folder.path()), Clock::system()).unwrap();
    desk.send(with("b@one.example"), &effects).await.unwrap();
    assert_eq!(desk.mails().len(), 3);
}

#[tokio::test]
async fn user_names_inject_neither_headers_nor_markup() {
    let desk = Desk::new();
    let own = desk.folder.path().join("templates/email/hello");
    std::fs::create_dir_all(&own).unwrap();
    for (name, text) in [("subject.txt", "Hello {{ name }}"), ("body.html", "<p>Dear {{ name }}</p>")] {
        std::fs::write(own.join(name), text).unwrap();
    }
    let evil = "<script>x</script>\r\nBcc: victim@example.com\r\n\r\n\0";
    let with = json!({
        "to": format!("{evil} <a@example.com>"),
        "reply_to": format!("{evil} <b@example.com>"),
        "template": "hello",
        "vars": { "name": evil },
        "links": { evil: file(Some("1")) },
    });
    desk.send(with, &Memory::default()).await.unwrap();
    let mails = desk.mails();
    let mail = mailparse::parse_mail(mails[0].as_bytes()).unwrap();
    assert_eq!(mails.len(), 1);
    assert!(mail.headers.get_first_value("Bcc").is_none(), "{}", mails[0]);
    let flat = "<script>x</script> Bcc: victim@example.com";
    assert_eq!(mail.headers.get_first_value("Subject").unwrap(), format!("Hello {flat}"));
    let html = mail.subparts[1].get_body().unwrap();
    assert!(html.contains("<p>Dear &lt;script&gt;x&lt;/script&gt;") && !html.contains("<script"), "{html}");
    assert!(mail.subparts[0].get_body().unwrap().starts_with("Dear <script>x</script>"), "text is text");
}

#[tokio::test]
async fn links_keep_their_order_and_skip_absent_files() {
    let (desk, effects) = (Desk::new(), Memory::default());
    let mut with = plain();
    with["links"] = json!({ "z last": file(Some("z")), "none": null, "a first": file(Some("a")) });
    desk.send(with, &effects).await.unwrap();
    let mail = &desk.mails()[0];
    assert!(mail.contains("Text\r\n\r\nz last: http://x/files/z/7d\r\n\r\na first: http://x/files/a/7d\r\n"), "{mail}");

    for artifact in [None, Some("gone")] {
        let mut with = plain();
        with["links"] = json!({ "upload": file(artifact) });
        let error = desk.send(with, &Memory::default()).await.unwrap_err();
        assert_eq!(error.code(), codes::MAIL_LINK_IMPOSSIBLE);
    }
}

#[tokio::test]
async fn links_expire_as_configured() {
    let desk = Desk::new();
    let mut with = plain();
    (with["links"], with["expires"]) = (json!({ "file": file(Some("a")) }), json!("30d"));
    desk.send(with.clone(), &Memory::default()).await.unwrap();
    assert!(desk.mails()[0].contains("file: http://x/files/a/30d\r\n"));
    assert!(messages(with.clone()).is_empty());
    for expires in ["1s", "9999d"] {
        with["expires"] = json!(expires);
        assert_eq!(messages(with.clone()), ["`expires` must be from `1m` to `3650d`"]);
        assert_eq!(desk.send(with.clone(), &Memory::default()).await.unwrap_err().code(), codes::WITH_INVALID);
    }
}

#[tokio::test]
async fn template_reads_run_links_and_vars() {
    let (desk, effects) = (Desk::new(), Memory::default());
    let counts = json!({ "rows": 18771, "inserted": 16872, "updated": 0, "skipped": 0, "rejected": 1899 });
    let with = json!({
        "to": "ops@example.com",
        "template": "import_done",
        "vars": counts,
        "links": { "rejected rows": file(Some("7")) },
    });
    desk.send(with, &effects).await.unwrap();
    let mail = &desk.mails()[0];
    assert!(mail.contains("Subject: contacts-import: 16,872 of 18,771 rows imported, 1,899 rejected\r\n"), "{mail}");
    assert!(mail.contains("Rejected rows: http://x/files/7/7d\r\n"), "{mail}");
    assert!(mail.contains("X-Afterload-Run: 01RUN\r\n") && mail.contains("Auto-Submitted: auto-generated\r\n"));
    assert!(mail.contains("multipart/alternative"));
}

#[tokio::test]
async fn recipients_are_limited_and_validated() {
    let desk = Desk::new();
    for (to, code) in [
        (json!([]), "mail_recipient_count"),
        (json!((0..101).map(|n| format!("u{n}@example.com")).collect::<Vec<_>>()), "mail_recipient_count"),
        (json!("nobody"), "mail_invalid_recipient"),
        (json!(["a@example.com", "b@example.com\r\nBcc: c@example.com"]), "mail_invalid_recipient"),
        (json!("a@example.com\0"), "mail_invalid_recipient"),
    ] {
        let mut with = plain();
        with["to"] = to;
        assert_eq!(desk.send(with, &Memory::default()).await.unwrap_err().code().name(), code);
    }
    assert!(desk.mails().is_empty());
}

#[tokio::test]
async fn each_recipient_can_unsubscribe_from_the_list() {
    let mut desk = Desk::new();
    let mut with = plain();
    with["to"] = json!(["A <a@example.com>", "B@example.com"]);
    with["cc"] = json!("c@example.com");
    with["unsubscribe"] = json!({ "list": "news", "footer": "No more" });
    let error = desk.send(with.clone(), &Memory::default()).await.unwrap_err();
    assert_eq!(error.code(), codes::MAIL_UNSUBSCRIBE_UNAVAILABLE);
    desk.suppress(&[("news", "b@example.com"), ("other", "a@example.com")]);
    let sent = desk.send(with.clone(), &Memory::default()).await.unwrap();
    assert_eq!((sent.sent, sent.suppressed, sent.message_ids.len()), (2, 1, 2));
    let mails = desk.mails();
    assert_eq!(mails.len(), 2);
    for (address, to) in [("a@example.com", "A <a@example.com>"), ("c@example.com", "c@example.com")] {
        let mail = mails.iter().find(|mail| mail.contains(&format!("X-Envelope-To: {address}\r\n"))).unwrap();
        let parsed = mailparse::parse_mail(mail.as_bytes()).unwrap();
        let header = |name: &str| parsed.headers.get_first_value(name);
        assert_eq!((header("To").as_deref(), header("Cc")), (Some(to), None), "it names nobody else");
        let url = format!("http://x/u/news/{address}");
        assert_eq!(header("List-Unsubscribe"), Some(format!("<{url}>")));
        assert_eq!(header("List-Unsubscribe-Post").as_deref(), Some("List-Unsubscribe=One-Click"));
        assert_eq!(parsed.get_body().unwrap().trim_end().lines().last(), Some(format!("No more: {url}").as_str()));
    }
    // Without a name, the list is that of the pipeline. A template says where the link stands.
    let counts = json!({ "rows": 1, "inserted": 1, "updated": 0, "skipped": 0, "rejected": 0 });
    let with = json!({ "to": "t@example.com", "template": "import_done", "vars": counts, "unsubscribe": true });
    desk.send(with, &Memory::default()).await.unwrap();
    let mail = desk.mails().into_iter().find(|mail| mail.contains("To: t@example.com")).unwrap();
    let url = "http://x/u/contacts-import/t@example.com";
    let parsed = mailparse::parse_mail(mail.as_bytes()).unwrap();
    let [text, html] = [0, 1].map(|part: usize| parsed.subparts[part].get_body().unwrap());
    assert!(text.contains(&format!("\nUnsubscribe: {url}")), "{text}");
    assert!(html.contains("Unsubscribe</a>") && html.contains("/u/contacts-import/"), "{html}");
}

#[tokio::test]
async fn mails_without_a_list_skip_only_addresses_that_receive_none() {
    let (mut desk, effects) = (Desk::new(), Memory::default());
    desk.suppress(&[("contacts-import", "a@example.com"), ("*", "b@example.com")]);
    let mut with = plain();
    with["to"] = json!(["a@example.com", "b@example.com"]);
    let sent = desk.send(with.clone(), &effects).await.unwrap();
    assert_eq!((sent.sent, sent.suppressed, desk.mails().len()), (1, 1, 1));
    assert!(desk.mails()[0].contains("X-Envelope-To: a@example.com") && !desk.mails()[0].contains("List-Unsubscribe"));
    // A copy that an earlier attempt sent counts as sent.
    desk.suppress(&[("*", "a@example.com"), ("*", "b@example.com")]);
    let again = desk.send(with.clone(), &effects).await.unwrap();
    assert_eq!((again.sent, again.suppressed, again.message_ids), (1, 1, sent.message_ids));
    let none = desk.send(with, &Memory::default()).await.unwrap();
    assert_eq!((none.sent, none.suppressed, none.message_ids.len()), (0, 2, 0), "the step succeeds");
}

#[test]
fn unsubscribe_needs_a_public_url_and_a_plain_name() {
    let faults = |unsubscribe: Value, has_public_url: Option<bool>| {
        let around = ValidationContext { has_public_url, ..ValidationContext::default() };
        let mut with = plain();
        with["unsubscribe"] = unsubscribe;
        with["headers"] = json!({ "list-unsubscribe": "<https://example.com/u>" });
        check_in(with, &around).len()
    };
    for (unsubscribe, has_public_url, expected) in [
        (json!(false), Some(false), 0),
        (json!(true), None, 1),
        (json!(true), Some(true), 1),
        (json!(true), Some(false), 2),
        (json!({ "list": "${{ params.list }}" }), Some(true), 1),
        (json!({ "list": "*" }), Some(false), 3),
    ] {
        assert_eq!(faults(unsubscribe.clone(), has_public_url), expected, "{unsubscribe}");
    }
    for unsubscribe in [json!("news"), json!(1), json!({ "lists": "a" }), json!(["a"])] {
        let mut with = plain();
        with["unsubscribe"] = unsubscribe.clone();
        assert!(serde_json::from_value::<EmailSend>(with).is_err(), "{unsubscribe}");
    }
}

fn check(with: Value) -> Vec<Diagnostic> {
    let around =
        ValidationContext { templates: Some(["import_done".to_owned()].into()), ..ValidationContext::default() };
    check_in(with, &around)
}

fn check_in(with: Value, around: &ValidationContext) -> Vec<Diagnostic> {
    let node = afterload_spanned_yaml::parse("").unwrap();
    let mut check = Validator::new(&node, around);
    serde_json::from_value::<EmailSend>(with).unwrap().check(&mut check);
    check.finish()
}

pub(super) fn messages(with: Value) -> Vec<String> {
    check(with).into_iter().map(|problem| problem.message).collect()
}

#[test]
fn check_reports_conflicting_and_invalid_fields() {
    assert!(messages(plain()).is_empty());
    let templated = json!({ "to": ["${{ params.email }}"], "template": "import_done", "vars": { "rows": 1 } });
    assert!(messages(templated).is_empty());

    assert_eq!(messages(json!({ "to": [] })), ["the mail has no text", "the mail has no recipient"]);
    assert_eq!(messages(json!({ "to": "a@b.c", "body": "x" })), ["a mail with a `body` needs a `subject`"]);
    let mut both = plain();
    both["template"] = json!("import_done");
    assert_eq!(messages(both), ["`body` and `template` exclude each other"]);
    assert_eq!(messages(json!({ "to": "a@b.c", "template": "x" })), ["unknown mail template `x`"]);
    let mut bad = plain();
    bad["cc"] = json!(["ok@example.com", "not ok"]);
    bad["from"] = json!("me");
    bad["vars"] = json!({ "run": 1 });
    assert_eq!(messages(bad).len(), 3);
    let mut headers = plain();
    headers["headers"] = json!({ "In-Reply-To": "${{ params.id }}", "X-Ok": "1", "x-ok": "2", "Subject": "x" });
    headers["headers"]["List-Id"] = json!("a\r\nBcc: b@example.com");
    assert_eq!(messages(headers).len(), 3);
}

#[test]
fn attach_accepts_one_file_or_a_list_or_an_expression() {
    for attach in [
        json!("${{ params.files }}"),
        json!(["${{ steps.report.file }}", null]),
        json!([file(Some("1")), "${{ params.file }}"]),
        file(None),
        json!([]),
        Value::Null,
    ] {
        let mut with = plain();
        with["attach"] = attach.clone();
        assert!(messages(with).is_empty(), "{attach}");
    }
    for attach in [json!(5), json!("report.csv"), json!(["report.csv"]), json!({ "name": "x" })] {
        let mut with = plain();
        with["attach"] = attach.clone();
        assert!(serde_json::from_value::<EmailSend>(with).is_err(), "{attach}");
    }
}
