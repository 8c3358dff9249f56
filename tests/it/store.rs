//! The guarantees of the state database, on both databases.

use std::sync::Arc;
use std::time::Duration;

use afterload_core::clock::Clock;
use afterload_core::file_seals::FileSeals;
use afterload_state::queue::{JobHandler, JobQueue, NewJob, PauseGate, QueueWorkerSpec};
use afterload_state::{
    ApiKeyRecord, AttemptEnd, Db, DbTx, DefinitionRecord, EndedRunCount, PauseTarget, RunDeadlines, RunFilter,
    RunRecord, RunStatus, StepRecord, StepStatus, SuppressionFilter, SuppressionReason, SuppressionRecord,
    UnsubscribeLinkRecord,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Database, Server, both};

both!(
    definitions_are_published_and_removed,
    stale_attempt_cannot_commit,
    progress_resets_the_crash_count,
    parked_and_retried_steps_can_be_claimed_again,
    step_is_handed_over_unless_something_comes_first,
    effect_log_keeps_finished_effects,
    runs_are_listed_newest_first,
    overdue_runs_are_listed_page_by_page,
    api_key_ids_are_unique,
    suppressions_are_found_by_list_and_kept_once,
    dropped_transaction_is_rolled_back,
    concurrent_opens_succeed,
);

struct Store {
    db: Db,
    url: String,
    _dir: tempfile::TempDir,
    _server: Option<Server>,
}

async fn store(database: Database) -> Store {
    let dir = tempfile::tempdir().unwrap();
    let server = match database {
        Database::Sqlite => None,
        Database::Postgres => Some(Server::start().await),
    };
    let url = server.as_ref().map_or_else(|| format!("sqlite://{}", dir.path().join("s.db").display()), Server::url);
    Store { db: Db::open(&url, Clock::system()).await.unwrap(), url, _dir: dir, _server: server }
}

fn definition(name: &str, digest: &str) -> DefinitionRecord {
    DefinitionRecord { name: name.into(), digest: digest.into(), source: format!("name: {name}") }
}

fn run(id: &str, pipeline: &str) -> RunRecord {
    RunRecord {
        id: id.into(),
        pipeline: pipeline.into(),
        digest: "d1".into(),
        status: RunStatus::Queued,
        origin: "api".into(),
        params: json!({ "name": "Zoë" }),
        event: None,
        hops: 0,
        file_seals: FileSeals::default(),
        error: None,
        revision: 1,
        run_at: None,
        cancel_requested_at: None,
        deadlines: RunDeadlines::default(),
        timed_out_at: None,
        created_at: 1,
        started_at: None,
        finished_at: None,
        concurrency_slot: None,
    }
}

fn step(id: &str, run: &str) -> StepRecord {
    StepRecord {
        id: id.into(),
        run_id: run.into(),
        section: "steps".into(),
        position: 0,
        step_id: "a".into(),
        uses: "test.step".into(),
        queue: "default".into(),
        priority: 0,
        status: StepStatus::Queued,
        claims: 0,
        failures: 0,
        crashes: 0,
        suspend_count: 0,
        suspended_until: None,
        wake_event: None,
        round: 0,
        parent: None,
        item_index: None,
        item: None,
        item_counts: None,
        progress: None,
        outputs: None,
        file_seals: FileSeals::default(),
        error: None,
        due_at: None,
        started_at: None,
        finished_at: None,
    }
}

/// Creates a run with one queued step.
async fn seeded(database: Database) -> Store {
    let store = store(database).await;
    store.db.definitions().replace_live(&[definition("p", "d1")], &[]).await.unwrap();
    let mut tx = store.db.begin().await.unwrap();
    tx.runs().insert(&run("r1", "p")).await.unwrap();
    tx.steps().insert(&step("s1", "r1")).await.unwrap();
    tx.commit().await.unwrap();
    store
}

async fn within<T>(db: &Db, work: impl AsyncFnOnce(&mut DbTx) -> T) -> T {
    let mut tx = db.begin().await.unwrap();
    let done = work(&mut tx).await;
    tx.commit().await.unwrap();
    done
}

async fn definitions_are_published_and_removed(database: Database) {
    let store = store(database).await;
    store.db.definitions().replace_live(&[definition("a", "d1"), definition("b", "d2")], &[]).await.unwrap();
    store.db.definitions().replace_live(&[definition("a", "d3")], &["b".into()]).await.unwrap();
    assert_eq!(store.db.definitions().find_live("a").await.unwrap().unwrap().digest, "d3");
    assert_eq!(
        store.db.definitions().find_live("b").await.unwrap().unwrap().digest,
        "d2",
        "a refused file keeps what was live"
    );
    store.db.definitions().replace_live(&[], &[]).await.unwrap();
    assert!(store.db.definitions().find_live("a").await.unwrap().is_none());
    assert_eq!(store.db.definitions().find("d1").await.unwrap().unwrap().source, "name: a", "runs keep their own");
}

async fn stale_attempt_cannot_commit(database: Database) {
    let store = seeded(database).await;
    let first = within(&store.db, async |tx| tx.claims().claim("s1").await.unwrap().unwrap()).await;
    let second = within(&store.db, async |tx| tx.claims().claim("s1").await.unwrap().unwrap()).await;
    assert_eq!((first.step.claims, second.step.claims), (1, 2));
    assert_eq!((first.step.crashes, second.step.crashes), (0, 1));
    let progress = json!({ "done": 1 });
    let ending = AttemptEnd::Final { status: StepStatus::Succeeded, outputs: Some(json!({ "n": 1 })), error: None };
    within(&store.db, async |tx| {
        assert!(!tx.claims().record_progress("s1", 1, &progress, true).await.unwrap());
        assert!(!tx.claims().end("s1", 1, None, &ending).await.unwrap());
        assert!(tx.claims().record_progress("s1", 2, &progress, true).await.unwrap());
        assert!(tx.claims().end("s1", 2, None, &ending).await.unwrap());
        assert!(!tx.claims().end("s1", 2, None, &ending).await.unwrap(), "an end happens once");
        assert!(tx.claims().claim("s1").await.unwrap().is_none());
    })
    .await;
    let step = store.db.steps().find("s1").await.unwrap().unwrap();
    assert_eq!(
        (step.status, step.outputs, step.progress),
        (StepStatus::Succeeded, Some(json!({ "n": 1 })), Some(progress))
    );
    assert!(step.finished_at >= step.started_at && step.started_at.is_some());
}

async fn progress_resets_the_crash_count(database: Database) {
    let store = seeded(database).await;
    let crashes =
        async || within(&store.db, async |tx| tx.claims().claim("s1").await.unwrap().unwrap().step.crashes).await;
    assert_eq!([crashes().await, crashes().await, crashes().await], [0, 1, 2]);
    within(&store.db, async |tx| assert!(tx.claims().record_progress("s1", 3, &json!({}), false).await.unwrap())).await;
    assert_eq!(crashes().await, 3, "a report of what was there before is no progress");
    within(&store.db, async |tx| assert!(tx.claims().record_progress("s1", 4, &json!({}), true).await.unwrap())).await;
    assert_eq!(crashes().await, 1);
}

async fn parked_and_retried_steps_can_be_claimed_again(database: Database) {
    let store = seeded(database).await;
    within(&store.db, async |tx| {
        tx.claims().claim("s1").await.unwrap().unwrap();
        assert!(tx.claims().end("s1", 1, None, &AttemptEnd::Park { due_at: 5, error: None }).await.unwrap());
        assert!(tx.steps().lock_due("s1").await.unwrap().is_some());
        let parked = tx.claims().claim("s1").await.unwrap().unwrap();
        assert_eq!((parked.step.crashes, parked.step.failures), (0, 0));
        let retry = AttemptEnd::Retry { error: json!({ "code": "x" }), due_at: 7 };
        assert!(tx.claims().end("s1", 2, None, &retry).await.unwrap());
        let retried = tx.claims().claim("s1").await.unwrap().unwrap();
        assert_eq!((retried.step.crashes, retried.step.failures, retried.step.due_at), (0, 1, None));
        assert!(tx.steps().lock_due("s1").await.unwrap().is_none(), "what runs is not due");
    })
    .await;
}

async fn step_is_handed_over_unless_something_comes_first(database: Database) {
    const FIRST: &str = "01ARZ3NDEKTSV4RRFFQ69G5FA1";
    const NEXT: &str = "01ARZ3NDEKTSV4RRFFQ69G5FA2";
    const OTHER: &str = "01ARZ3NDEKTSV4RRFFQ69G5FA3";
    let store = seeded(database).await;
    let queue = JobQueue::open(store.db.clone(), Duration::from_secs(15)).await.unwrap();
    within(&store.db, async |tx| {
        tx.steps().insert(&StepRecord { step_id: "one".into(), ..step(FIRST, "r1") }).await.unwrap();
        let next = StepRecord { step_id: "two".into(), status: StepStatus::Waiting, ..step(NEXT, "r1") };
        tx.steps().insert(&next).await.unwrap();
        let job = NewJob { step_run: FIRST, queue: "default", priority: 0, due_at: None };
        queue.enqueue_jobs(tx, &[job]).await.unwrap();
    })
    .await;
    // A worker passes on its lease, and is busy until the end.
    let (stop, (sender, mut leases)) = (CancellationToken::new(), tokio::sync::mpsc::unbounded_channel());
    let busy = stop.clone();
    let handler: JobHandler = Arc::new(move |lease, _| {
        let (sender, busy) = (sender.clone(), busy.clone());
        Box::pin(async move {
            sender.send(lease).unwrap();
            busy.cancelled().await;
        })
    });
    let (_gate, gate) = PauseGate::new(true);
    let spec = QueueWorkerSpec { name: "default".into(), concurrency: 1, gate };
    let worker = tokio::spawn(queue.clone().run_queue_worker(spec, handler, stop.clone(), Duration::from_secs(5)));
    let lease = leases.recv().await.unwrap();
    let next = store.db.steps().find(NEXT).await.unwrap().unwrap();
    // Each try is rolled back.
    let can_hand_over = async |step: &StepRecord| {
        let mut tx = store.db.begin().await.unwrap();
        queue.hand_over(&mut tx, &lease, step).await.unwrap().is_some()
    };
    assert!(can_hand_over(&next).await);
    assert!(!can_hand_over(&StepRecord { queue: "other".into(), ..next.clone() }).await, "another queue");
    store.db.pauses().insert(PauseTarget::Queue, "default").await.unwrap();
    assert!(!can_hand_over(&next).await, "the queue is paused");
    store.db.pauses().delete(PauseTarget::Queue, "default").await.unwrap();
    for (priority, comes_first) in [(0, false), (1, true)] {
        let job = NewJob { step_run: OTHER, queue: "default", priority, due_at: None };
        within(&store.db, async |tx| queue.enqueue_jobs(tx, &[job]).await.unwrap()).await;
        assert_eq!(can_hand_over(&next).await, !comes_first, "priority {priority}");
        within(&store.db, async |tx| queue.delete_job(tx, OTHER).await.unwrap()).await;
    }
    let handed = within(&store.db, async |tx| queue.hand_over(tx, &lease, &next).await.unwrap().unwrap()).await;
    assert!(!can_hand_over(&next).await, "it is claimed");
    let (handed, claimed, _active) = handed.begin().unwrap();
    assert_eq!((claimed.step.status, claimed.step.claims, claimed.step.crashes), (StepStatus::Running, 1, 0));
    assert_eq!(queue.count_jobs().await.unwrap(), 2);
    within(&store.db, async |tx| {
        for lease in [&handed, &lease] {
            assert!(queue.acknowledge_job(tx, lease).await.unwrap(), "the job is locked under the lease");
        }
    })
    .await;
    stop.cancel();
    worker.await.unwrap();
}

async fn effect_log_keeps_finished_effects(database: Database) {
    let store = seeded(database).await;
    let begin = async || store.db.effect_log().begin("r1", "a", "mail:x").await.unwrap();
    assert_eq!(begin().await, None);
    assert_eq!(begin().await, Some(None), "the outcome is unknown");
    store.db.effect_log().delete("r1", "a", "mail:x").await.unwrap();
    assert_eq!(begin().await, None);
    store.db.effect_log().finish("r1", "a", "mail:x", &json!({ "id": 1 })).await.unwrap();
    store.db.effect_log().delete("r1", "a", "mail:x").await.unwrap();
    assert_eq!(begin().await, Some(Some(json!({ "id": 1 }))), "what is done is not forgotten");
}

async fn runs_are_listed_newest_first(database: Database) {
    let store = seeded(database).await;
    within(&store.db, async |tx| {
        for (id, pipeline) in [("r2", "q"), ("r3", "p")] {
            tx.runs().insert(&run(id, pipeline)).await.unwrap();
        }
        tx.runs().set_error("r3", &json!({ "code": "first" })).await.unwrap();
        tx.runs().set_error("r3", &json!({ "code": "second" })).await.unwrap();
        tx.runs().finish("r3", RunStatus::Failed).await.unwrap();
        assert_eq!(tx.runs().bump_revision("r3").await.unwrap().revision, 2);
    })
    .await;
    let ids = async |filter: RunFilter| -> Vec<String> {
        store.db.runs().list(&filter).await.unwrap().into_iter().map(|run| run.id).collect()
    };
    let all = RunFilter { limit: 10, ..RunFilter::default() };
    assert_eq!(ids(all.clone()).await, ["r3", "r2", "r1"]);
    assert_eq!(ids(RunFilter { before_id: Some("r3".into()), limit: 1, ..all.clone() }).await, ["r2"]);
    assert_eq!(ids(RunFilter { pipelines: Some(vec!["p".into()]), ..all.clone() }).await, ["r3", "r1"]);
    assert!(ids(RunFilter { pipelines: Some(vec![]), ..all.clone() }).await.is_empty());
    assert_eq!(ids(RunFilter { status: Some(RunStatus::Failed), ..all.clone() }).await, ["r3"]);
    let with_code =
        |code: &str| RunFilter { error_code: Some(code.into()), pipelines: Some(vec!["p".into()]), ..all.clone() };
    assert_eq!(ids(with_code("first")).await, ["r3"]);
    assert!(ids(with_code("second")).await.is_empty());
    let range = RunFilter { from_id: Some("r2".into()), to_id: Some("r2".into()), ..all.clone() };
    assert_eq!(ids(range).await, ["r2"]);
    assert_eq!(store.db.runs().count(&all).await.unwrap(), 3);
    assert_eq!(store.db.runs().count(&RunFilter { limit: 2, ..all.clone() }).await.unwrap(), 2, "counting stops");
    let failed = store.db.runs().find("r3").await.unwrap().unwrap();
    assert_eq!((failed.error, failed.params), (Some(json!({ "code": "first" })), json!({ "name": "Zoë" })));
    assert_eq!(store.db.runs().find("r1").await.unwrap().unwrap().error, None::<Value>);

    let ended_at = failed.finished_at.unwrap();
    let ended = async |since, before| store.db.runs().count_ended(since, before, 1_000).await.unwrap();
    let expected = EndedRunCount {
        span: ended_at / 1_000,
        pipeline: "p".into(),
        status: "failed".into(),
        error_code: Some("first".into()),
        number: 1,
    };
    assert_eq!(ended(ended_at, i64::MAX).await, [expected]);
    assert!(ended(0, ended_at).await.is_empty() && ended(ended_at + 1, i64::MAX).await.is_empty());
    within(&store.db, async |tx| tx.runs().reopen("r3", RunDeadlines::default()).await.unwrap()).await;
    assert!(ended(0, i64::MAX).await.is_empty() && ids(with_code("first")).await.is_empty(), "a retry takes it back");
}

async fn overdue_runs_are_listed_page_by_page(database: Database) {
    let store = seeded(database).await;
    within(&store.db, async |tx| {
        for (id, end) in [("r2", Some(7)), ("r3", Some(5)), ("r4", Some(7)), ("r5", Some(i64::MAX)), ("r6", Some(6))] {
            let deadlines = RunDeadlines { queue: None, end };
            tx.runs().insert(&RunRecord { deadlines, ..run(id, "p") }).await.unwrap();
        }
        tx.runs().finish("r6", RunStatus::Failed).await.unwrap();
    })
    .await;
    let (mut found, mut last) = (Vec::new(), None);
    loop {
        // A run that cannot be ended keeps its place, and hides none behind it.
        let page = store.db.deadlines().list_passed(last.as_ref(), 1).await.unwrap();
        let Some(run) = page.into_iter().next() else { break };
        found.push((run.id.clone(), run.deadline));
        last = Some(run);
    }
    assert_eq!(found, [("r3", 5_i64), ("r2", 7), ("r4", 7)].map(|(id, deadline)| (id.to_owned(), deadline)));
    assert_eq!(store.db.deadlines().list_passed(None, 10).await.unwrap().len(), 3);
}

async fn api_key_ids_are_unique(database: Database) {
    let store = store(database).await;
    let key = |id: &str, hash: &str| ApiKeyRecord {
        id: id.into(),
        hash: hash.into(),
        name: "web".into(),
        scopes: vec!["runs:read".into()],
        buckets: vec!["uploads".into()],
        created_at: 0,
    };
    assert!(store.db.api_keys().insert(&key("k1", "h1")).await.unwrap());
    assert!(!store.db.api_keys().insert(&key("k1", "h2")).await.unwrap());
    assert_eq!(store.db.api_keys().find("k1").await.unwrap().unwrap().hash, "h1");
    assert_eq!(store.db.api_keys().list().await.unwrap()[0].buckets, ["uploads"]);
    assert!(store.db.api_keys().delete("k1").await.unwrap() && !store.db.api_keys().delete("k1").await.unwrap());
}

async fn dropped_transaction_is_rolled_back(database: Database) {
    let store = seeded(database).await;
    let mut tx = store.db.begin().await.unwrap();
    tx.runs().insert(&run("r9", "p")).await.unwrap();
    drop(tx);
    assert!(store.db.runs().find("r9").await.unwrap().is_none());
    within(&store.db, async |tx| tx.runs().insert(&run("r9", "p")).await.unwrap()).await;
    assert!(store.db.runs().find("r9").await.unwrap().is_some());
}

async fn concurrent_opens_succeed(database: Database) {
    let store = store(database).await;
    let (one, two) = tokio::join!(Db::open(&store.url, Clock::system()), Db::open(&store.url, Clock::system()));
    one.unwrap().definitions().replace_live(&[definition("p", "d1")], &[]).await.unwrap();
    assert_eq!(two.unwrap().definitions().list_live_digests().await.unwrap(), ["d1"]);
}

async fn suppressions_are_found_by_list_and_kept_once(database: Database) {
    let Store { db, .. } = &store(database).await;
    let suppressions = db.mail_suppressions();
    let record = |id: u128, list: &str, address: &str, reason: SuppressionReason| SuppressionRecord {
        id: ulid::Ulid::from(id).to_string(),
        list: list.into(),
        address: address.into(),
        reason,
        detail: None,
        run_id: None,
        created_at: 1,
    };
    let first = [
        record(1, "news", "a@example.com", SuppressionReason::Unsubscribed),
        record(2, "*", "b@example.com", SuppressionReason::Bounced),
        record(3, "other", "c@example.com", SuppressionReason::Manual),
    ];
    assert_eq!(suppressions.insert(&first).await.unwrap(), 3);
    let again = record(4, "news", "a@example.com", SuppressionReason::Manual);
    assert_eq!(suppressions.insert(&[again]).await.unwrap(), 0);
    let kept = suppressions.find("news", "a@example.com").await.unwrap().unwrap();
    assert_eq!((kept.id, kept.reason), (first[0].id.clone(), SuppressionReason::Unsubscribed), "the first one stays");
    let all = ["a", "b", "c", "d"].map(|user| format!("{user}@example.com"));
    for (list, expected) in [(Some("news"), vec!["a", "b"]), (Some("other"), vec!["b", "c"]), (None, vec!["b"])] {
        let mut found = suppressions.find_suppressed(list, &all).await.unwrap();
        found.sort();
        assert_eq!(found, expected.iter().map(|user| format!("{user}@example.com")).collect::<Vec<_>>(), "{list:?}");
    }
    assert!(suppressions.find_suppressed(None, &[]).await.unwrap().is_empty());
    // More rows than a statement takes, in a transaction; each page ends where the next one begins.
    let many: Vec<_> =
        (10..1_211).map(|id| record(id, "many", &format!("{id}@example.com"), SuppressionReason::Manual)).collect();
    assert_eq!(suppressions.insert(&many).await.unwrap(), 1_201);
    let (mut pages, mut before_id) = (Vec::new(), None);
    loop {
        let filter =
            SuppressionFilter { list: Some("many".into()), before_id, limit: 500, ..SuppressionFilter::default() };
        let page = suppressions.list(&filter).await.unwrap();
        before_id = page.last().map(|record| record.id.clone());
        if page.is_empty() {
            break;
        }
        pages.extend(page.into_iter().map(|record| record.id));
    }
    assert!(pages.len() == 1_201 && pages.is_sorted_by(|a, b| a > b));
    assert_eq!(suppressions.delete(&first[1].id).await.unwrap().unwrap().address, "b@example.com");
    assert!(suppressions.delete(&first[1].id).await.unwrap().is_none());

    let link = |run: &str| UnsubscribeLinkRecord {
        id: "L".into(),
        list: "news".into(),
        address: "a@example.com".into(),
        run_id: run.into(),
    };
    for run in ["R1", "R2"] {
        suppressions.upsert_links(&[link(run)]).await.unwrap();
    }
    assert_eq!(suppressions.find_link("L").await.unwrap().unwrap().run_id, "R2", "the last run that sent it");
    assert!(suppressions.find_link("M").await.unwrap().is_none());
}
