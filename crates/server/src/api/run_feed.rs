//! Watchers of a run share its readings: each revision is read and rendered once, whoever watches.
//!
//! There is no task for it. The watchers of a run elect one of them, which waits for the next revision and reads it for
//! all. If it goes away, another one continues.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use super::config::WatcherLimits;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_engine::{Engine, RunView, RunWatch};

/// The minimum interval between two events. Changes within it are sent together.
const MIN_EVENT_INTERVAL: Duration = Duration::from_millis(200);
const WATCHER_RETRY_AFTER: Duration = Duration::from_secs(5);

/// Who watches. The view differs, so readings are never shared between these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum WatchKind {
    /// An event stream for an API key.
    KeyEvents,
    /// An event stream for the token of the run. Its view holds URLs that permit the files.
    TokenEvents,
    /// A response that waits for the run. It sees every change at once.
    Response,
}

impl WatchKind {
    fn min_interval(self) -> Duration {
        match self {
            Self::KeyEvents | Self::TokenEvents => MIN_EVENT_INTERVAL,
            Self::Response => Duration::ZERO,
        }
    }
}

/// A run at one revision.
pub(super) struct RenderedRun {
    pub view: RunView,
    event: OnceLock<Bytes>,
}

impl RenderedRun {
    /// The server-sent event, rendered at its first use. Clones share its bytes.
    pub(super) fn event(&self) -> Bytes {
        let render = || {
            let data = serde_json::to_string(&self.view).unwrap_or_default();
            format!("id: {}\ndata: {data}\n\n", self.view.revision).into()
        };
        self.event.get_or_init(render).clone()
    }
}

/// The watched runs of this process.
pub(super) struct RunFeeds {
    max_watchers: usize,
    max_run_watchers: usize,
    watched: Arc<Mutex<WatchedRuns>>,
}

#[derive(Default)]
struct WatchedRuns {
    watchers: usize,
    runs: HashMap<String, WatchedRun>,
}

#[derive(Default)]
struct WatchedRun {
    watchers: usize,
    feeds: HashMap<WatchKind, Arc<RunFeed>>,
}

impl RunFeeds {
    pub(super) fn new(limits: &WatcherLimits) -> Self {
        let most = |limit: u32| usize::try_from(limit).unwrap_or(usize::MAX);
        Self { max_watchers: most(limits.total), max_run_watchers: most(limits.per_run), watched: Arc::default() }
    }

    /// Starts to watch the run with this id.
    ///
    /// # Errors
    /// `too_many_watchers`, `too_many_run_watchers`
    pub(super) fn watch(&self, engine: &Engine, id: &str, kind: WatchKind) -> Result<RunWatcher> {
        let mut watched = lock_watched(&self.watched);
        if watched.watchers >= self.max_watchers {
            let message = format!("{} clients watch runs", self.max_watchers);
            return Err(Error::new(codes::TOO_MANY_WATCHERS, message).with_retry_after(WATCHER_RETRY_AFTER));
        }
        if watched.runs.get(id).is_some_and(|run| run.watchers >= self.max_run_watchers) {
            let message = format!("{} clients watch this run", self.max_run_watchers);
            return Err(Error::new(codes::TOO_MANY_RUN_WATCHERS, message).with_retry_after(WATCHER_RETRY_AFTER));
        }
        watched.watchers += 1;
        let run = watched.runs.entry(id.to_owned()).or_default();
        run.watchers += 1;
        let feed = run.feeds.entry(kind).or_insert_with(|| Arc::new(RunFeed::new(engine.watch_run(id), kind))).clone();
        Ok(RunWatcher { id: id.to_owned(), feed, watched: self.watched.clone() })
    }
}

fn lock_watched(watched: &Mutex<WatchedRuns>) -> MutexGuard<'_, WatchedRuns> {
    watched.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One watcher of a run.
pub(super) struct RunWatcher {
    id: String,
    feed: Arc<RunFeed>,
    watched: Arc<Mutex<WatchedRuns>>,
}

impl RunWatcher {
    /// Waits for a revision later than `seen`, or for the end of the run. `read` reads the run in the view of this
    /// kind of watcher. This may be given up at any time.
    ///
    /// # Errors
    /// Those of `read`, for the watcher that has read for all.
    pub(super) async fn next<F>(&self, seen: i64, read: impl Fn() -> F) -> Result<Arc<RenderedRun>>
    where
        F: Future<Output = Result<RunView>>,
    {
        let mut latest = self.feed.latest.subscribe();
        let published = async {
            let found = latest.wait_for(|run| run.as_ref().is_some_and(|run| self.feed.is_news(run, seen))).await;
            found.ok().and_then(|run| run.clone())
        };
        tokio::select! {
            biased;
            Some(run) = published => Ok(run),
            read = self.feed.read_next(seen, read) => read,
        }
    }
}

impl Drop for RunWatcher {
    fn drop(&mut self) {
        let mut watched = lock_watched(&self.watched);
        watched.watchers -= 1;
        if let Some(run) = watched.runs.get_mut(&self.id) {
            run.watchers -= 1;
            if run.watchers == 0 {
                watched.runs.remove(&self.id);
            }
        }
    }
}

/// The latest reading of a run for one kind of watcher.
struct RunFeed {
    watch: RunWatch,
    latest: watch::Sender<Option<Arc<RenderedRun>>>,
    min_interval: Duration,
    /// Held by the watcher that reads for all.
    reader: tokio::sync::Mutex<FeedReader>,
}

#[derive(Default)]
struct FeedReader {
    last_read: Option<Instant>,
}

impl RunFeed {
    fn new(watch: RunWatch, kind: WatchKind) -> Self {
        Self { watch, latest: watch::channel(None).0, min_interval: kind.min_interval(), reader: Default::default() }
    }

    /// True if a watcher that has seen the revision `seen` has to see this one. The end of a run is no news once a retry
    /// has resumed it.
    fn is_news(&self, run: &RenderedRun, seen: i64) -> bool {
        match run.view.is_final() {
            true => run.view.revision >= self.watch.latest_revision(),
            false => run.view.revision > seen,
        }
    }

    async fn read_next<F>(&self, seen: i64, read: impl Fn() -> F) -> Result<Arc<RenderedRun>>
    where
        F: Future<Output = Result<RunView>>,
    {
        let mut reader = self.reader.lock().await;
        loop {
            let latest = self.latest.borrow().clone();
            if let Some(latest) = latest {
                if self.is_news(&latest, seen) {
                    return Ok(latest);
                }
                self.watch.clone().wait_past(latest.view.revision).await;
            }
            if let Some(last) = reader.last_read {
                sleep_until(last + self.min_interval).await;
            }
            let run = RenderedRun { view: read().await?, event: OnceLock::new() };
            reader.last_read = Some(Instant::now());
            self.latest.send_replace(Some(Arc::new(run)));
        }
    }
}
