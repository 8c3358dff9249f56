//! Watchers of one run share its readings.

use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::join_all;
use serde_json::json;

use super::stage::Stage;
use crate::api::run_feed::WatchKind;
use afterload_engine::RunView;

const WATCHERS: usize = 300;

#[tokio::test]
async fn each_revision_is_read_and_rendered_once() {
    let stage = Stage::new().await;
    let run = stage.run(&stage.admin, json!({})).await.json();
    let id = run["id"].as_str().unwrap();
    let reads = AtomicUsize::new(0);
    let read = || async {
        reads.fetch_add(1, Ordering::SeqCst);
        Ok(RunView::read(&stage.db, id, "http://x").await?.unwrap())
    };
    let watch = |kind| stage.app.run_feeds().watch(stage.app.engine(), id, kind).unwrap();
    let watchers: Vec<_> = (0..WATCHERS).map(|_| watch(WatchKind::KeyEvents)).collect();
    let first = join_all(watchers.iter().map(|watcher| watcher.next(i64::MIN, read))).await;
    assert_eq!(reads.load(Ordering::SeqCst), 1);
    let first: Vec<_> = first.into_iter().map(Result::unwrap).collect();
    assert!(first.iter().all(|run| run.event().as_ptr() == first[0].event().as_ptr()), "they share the bytes");

    // Those who come later get what is there, while the others wait.
    let revision = first[0].view.revision;
    let late = watch(WatchKind::KeyEvents);
    let mut waiting: Vec<_> = watchers.iter().map(|watcher| Box::pin(watcher.next(revision, read))).collect();
    assert!(futures::poll!(waiting[0].as_mut()).is_pending() && futures::poll!(waiting[1].as_mut()).is_pending());
    assert_eq!(late.next(i64::MIN, read).await.unwrap().view.revision, revision);
    assert_eq!(reads.load(Ordering::SeqCst), 1);

    // The one that reads for all goes away, and another one continues.
    drop(waiting.remove(0));
    let change = async {
        stage.app.engine().cancel_run(id).await.unwrap();
    };
    let (next, ()) = tokio::join!(join_all(waiting), change);
    let next: Vec<_> = next.into_iter().map(|run| run.unwrap().view.revision).collect();
    assert!(next.iter().all(|seen| *seen > revision), "{next:?}");
    let revisions = usize::try_from(next.iter().max().unwrap() - revision).unwrap();
    assert!(
        reads.load(Ordering::SeqCst) <= 1 + revisions,
        "{} reads of {revisions} changes",
        reads.load(Ordering::SeqCst)
    );

    // Another kind has its own view.
    assert_eq!(watch(WatchKind::TokenEvents).next(i64::MIN, read).await.unwrap().view.id, id);
}
