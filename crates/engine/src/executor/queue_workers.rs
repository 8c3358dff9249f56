//! Which queues a process works, and what there is to see of all of them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::config::QueueConfig;
use crate::executor::run as execute;
use crate::{Engine, EngineCore};
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::units::is_queue_name;
use afterload_state::PauseTarget;
use afterload_state::queue::{JobHandler, PauseGate, QueueWorkerSpec};

/// How often it is looked for queues of newly published pipelines and for pauses.
const QUEUE_POLL_INTERVAL: std::time::Duration = std::time::Duration::from_secs(1);

/// The queues that a process works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum QueueSelection {
    /// Every queue that is configured, that a live pipeline names or that has open steps.
    #[default]
    All,
    /// These, and whatever they are sent; the others are left to other processes.
    Named(BTreeSet<String>),
}

/// Says that no queue is worked.
const NO_QUEUES: &str = "none";

impl QueueSelection {
    /// True if there is none.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Named(names) if names.is_empty())
    }
}

impl FromStr for QueueSelection {
    type Err = Error;

    /// Names with commas between them, or `none`.
    fn from_str(text: &str) -> Result<Self> {
        if text.trim() == NO_QUEUES {
            return Ok(Self::Named(BTreeSet::new()));
        }
        let invalid = |message: String| Error::permanent("queues_invalid", message);
        let mut names = BTreeSet::new();
        for name in text.split(',').map(str::trim) {
            if name.is_empty() {
                return Err(invalid(format!("`{text}` lacks the name of a queue"))
                    .with_hint("write names with commas between them, such as `images,imports`, or `none`"));
            }
            if name == NO_QUEUES {
                return Err(invalid("`none` stands alone".into()).with_hint("name the queues to work, or none"));
            }
            if !is_queue_name(name) {
                let hint =
                    "start with a small letter, go on with small letters, digits, `-` and `_`, at most 63 characters";
                return Err(invalid(format!("`{name}` is not a name for a queue")).with_hint(hint));
            }
            names.insert(name.to_owned());
        }
        Ok(Self::Named(names))
    }
}

impl fmt::Display for QueueSelection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all queues"),
            Self::Named(names) if names.is_empty() => f.write_str("no queue"),
            Self::Named(names) => f.write_str(&names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")),
        }
    }
}

/// A queue as it is now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Steps that wait for a worker, or for the time of their next attempt.
    pub waiting: i64,
    /// Steps that workers hold.
    pub running: i64,
    /// Since when it is paused.
    pub paused_at: Option<UnixMillis>,
}

impl Engine {
    /// The queues that the configuration, the live pipelines, open steps or pauses name, in the order of their names.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn list_queues(&self) -> Result<Vec<QueueState>> {
        let inner = &self.0;
        let fresh = |name: &String| QueueState { name: name.clone(), waiting: 0, running: 0, paused_at: None };
        let configured = inner.config.queues.keys().cloned();
        let mut queues: BTreeMap<String, QueueState> =
            configured.chain(inner.list_active_queues().await?).map(|name| (name.clone(), fresh(&name))).collect();
        for count in inner.db.count_steps_by_queue().await? {
            let state = queues.entry(count.queue.clone()).or_insert_with(|| fresh(&count.queue));
            (state.waiting, state.running) = (count.waiting, count.running);
        }
        for (name, since) in inner.db.list_paused(PauseTarget::Queue).await? {
            queues.entry(name.clone()).or_insert_with(|| fresh(&name)).paused_at = Some(since);
        }
        Ok(queues.into_values().collect())
    }
}

impl EngineCore {
    /// Runs a worker for each of the queues, also for those that come later. While one is paused, nothing of it is
    /// fetched; its jobs in hand go on.
    pub(crate) async fn run_queue_workers(self: Arc<Self>, queues: &QueueSelection, stop: &CancellationToken) {
        let inner = self.clone();
        let handler: JobHandler = Arc::new(move |lease| Box::pin(execute::run_job(inner.clone(), lease)));
        let drain = self.config.drain;
        let (mut gates, mut workers) = (HashMap::<String, watch::Sender<bool>>::new(), JoinSet::new());
        let mut paused = BTreeSet::new();
        while !stop.is_cancelled() {
            match self.db.list_paused(PauseTarget::Queue).await {
                Ok(now) => paused = now.into_iter().map(|(name, _)| name).collect(),
                // A claim asks for itself.
                Err(error) => warn!(error.code = error.code(), "the pauses could not be read: {error}"),
            }
            for name in self.select_queues(queues).await {
                if gates.contains_key(&name) {
                    continue;
                }
                let concurrency = self.config.queues.get(&name).copied().unwrap_or(QueueConfig::default()).concurrency;
                let (sender, gate) = PauseGate::new(!paused.contains(&name));
                info!(queue = name, concurrency, "working a queue");
                gates.insert(name.clone(), sender);
                let queue = QueueWorkerSpec { name, concurrency, gate };
                workers.spawn(self.queue.clone().run_queue_worker(queue, handler.clone(), stop.clone(), drain));
            }
            for (name, gate) in &gates {
                let open = !paused.contains(name);
                if gate.send_if_modified(|now| std::mem::replace(now, open) != open) {
                    info!(queue = name, paused = !open, "a queue was paused or goes on");
                }
            }
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.pause_signals.wait_for_change() => {}
                () = tokio::time::sleep(QUEUE_POLL_INTERVAL) => {}
            }
        }
        while workers.join_next().await.is_some() {}
    }

    async fn select_queues(&self, queues: &QueueSelection) -> BTreeSet<String> {
        let named = match queues {
            QueueSelection::Named(names) => return names.clone(),
            QueueSelection::All => self.list_active_queues().await,
        };
        let mut all: BTreeSet<String> = self.config.queues.keys().cloned().collect();
        match named {
            Ok(named) => all.extend(named),
            Err(error) => warn!(error.code = error.code(), "the queues could not be read: {error}"),
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_named_with_commas() {
        let shown = |text: &str| text.parse::<QueueSelection>().map(|queues| queues.to_string());
        assert_eq!(shown("imports, images,imports").expect("names"), "images, imports");
        assert_eq!(shown("none").expect("none"), "no queue");
        assert_eq!(QueueSelection::default().to_string(), "all queues");
        for (text, message) in [
            ("", "`` lacks the name of a queue"),
            ("images,,imports", "`images,,imports` lacks the name of a queue"),
            ("images,", "`images,` lacks the name of a queue"),
            ("images,none", "`none` stands alone"),
            ("Images", "`Images` is not a name for a queue"),
            ("two words", "`two words` is not a name for a queue"),
        ] {
            let error = shown(text).expect_err(text);
            assert_eq!((error.code(), error.message()), ("queues_invalid", message));
            assert!(error.hint_text().is_some());
        }
    }
}
