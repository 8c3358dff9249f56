//! The list of queues, and the queues that a process works.

use crate::codes;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ulid::Ulid;

use crate::Engine;
use crate::config::EngineConfig;
use crate::plan_cache::PlanCache;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::text::shorten_text;
use afterload_core::units::is_queue_name;
use afterload_spanned_yaml::suggestion_hint;
use afterload_state::{Db, PauseTarget};

/// The queues that a process works.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum QueueSelection {
    /// Every queue that is configured, that a live pipeline names or that has open steps.
    #[default]
    All,
    /// These queues; other processes work the rest.
    Named(BTreeSet<String>),
}

/// How much of an unknown name a message repeats.
const MAX_QUOTED_NAME_CHARS: usize = 63;
/// The text for no queues.
const NO_QUEUES: &str = "none";

impl QueueSelection {
    /// True if no queue is selected.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Named(names) if names.is_empty())
    }
}

impl FromStr for QueueSelection {
    type Err = Error;

    /// Parses names separated by commas, or `none`.
    fn from_str(text: &str) -> Result<Self> {
        if text.trim() == NO_QUEUES {
            return Ok(Self::Named(BTreeSet::new()));
        }
        let invalid = |message: String| Error::new(codes::QUEUES_INVALID, message);
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

/// The current state of a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueueState {
    /// Its name.
    pub name: String,
    /// Steps that wait for a worker or for their next attempt.
    pub waiting: i64,
    /// Steps that workers run.
    pub running: i64,
    /// When the run of the oldest waiting step was accepted.
    pub oldest_waiting_at: Option<UnixMillis>,
    /// Since when the queue is paused.
    pub paused_at: Option<UnixMillis>,
}

impl QueueState {
    /// A queue without steps.
    pub fn empty(name: impl Into<String>) -> Self {
        Self { name: name.into(), waiting: 0, running: 0, oldest_waiting_at: None, paused_at: None }
    }
}

impl Engine {
    /// The queues of the configuration, live pipelines, open steps and pauses, sorted by name.
    pub async fn list_queues(&self) -> Result<Vec<QueueState>> {
        self.0.queues.list_queues().await
    }

    /// The queues that have a worker in this process at the moment, sorted by name.
    pub fn worked_queues(&self) -> Vec<String> {
        self.0.queue.worked_queues()
    }
}

/// Lists queues.
pub(crate) struct QueueList {
    pub(crate) db: Db,
    pub(crate) config: Arc<EngineConfig>,
    pub(crate) plans: Arc<PlanCache>,
}

impl QueueList {
    async fn list_queues(&self) -> Result<Vec<QueueState>> {
        let mut queues: BTreeMap<String, QueueState> =
            self.list_named_queues().await?.into_iter().map(|name| (name.clone(), QueueState::empty(name))).collect();
        for count in self.db.steps().count_by_queue().await? {
            let state = queues.entry(count.queue.clone()).or_insert_with(|| QueueState::empty(count.queue));
            (state.waiting, state.running) = (count.waiting, count.running);
            state.oldest_waiting_at = count.oldest_waiting.as_deref().and_then(created_at);
        }
        for (name, since) in self.db.pauses().list(PauseTarget::Queue).await? {
            queues.entry(name.clone()).or_insert_with(|| QueueState::empty(name)).paused_at = Some(since);
        }
        Ok(queues.into_values().collect())
    }

    /// The names of the queues to work.
    pub(crate) async fn select_queues(&self, queues: &QueueSelection) -> Result<BTreeSet<String>> {
        match queues {
            QueueSelection::Named(names) => Ok(names.clone()),
            QueueSelection::All => self.list_named_queues().await,
        }
    }

    /// Refuses a queue that nothing names. Any process works every known queue, so a caller who may invent names could
    /// start any number of workers.
    ///
    /// # Errors
    /// `queue_unknown`
    pub(crate) async fn ensure_queue_exists(&self, name: &str) -> Result<()> {
        let known = self.list_named_queues().await?;
        if known.contains(name) {
            return Ok(());
        }
        let message = format!("there is no queue `{}`", shorten_text(name, MAX_QUOTED_NAME_CHARS));
        Err(Error::new(codes::QUEUE_UNKNOWN, message)
            .with_hint(suggestion_hint(name, known.iter().map(String::as_str))))
    }

    /// The queues that the configuration, live pipelines and open steps name.
    async fn list_named_queues(&self) -> Result<BTreeSet<String>> {
        let configured = self.config.queues.keys().cloned();
        Ok(configured.chain(self.plans.list_active_queues().await?).collect())
    }
}

/// When a step was created, by its id.
fn created_at(id: &str) -> Option<UnixMillis> {
    let id = Ulid::from_string(id).ok()?;
    i64::try_from(id.timestamp_ms()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_id_of_a_step_tells_its_age() {
        assert_eq!(created_at(&Ulid::from_parts(1_700_000_000_123, 5).to_string()), Some(1_700_000_000_123));
        assert_eq!(created_at("x"), None);
    }

    #[test]
    fn queue_selection_parses_comma_separated_names() {
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
            assert_eq!((error.code().name(), error.message()), ("queues_invalid", message));
            assert!(error.hint_text().is_some());
        }
    }
}
