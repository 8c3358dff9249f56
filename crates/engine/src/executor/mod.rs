//! Attempts: a worker claims a step, runs it under supervision, and stores its progress.

mod delivery_log;
mod download_links;
mod effect_log;
pub(crate) mod progress;
pub(crate) mod queue_workers;
pub(crate) mod run;
mod supervise;
