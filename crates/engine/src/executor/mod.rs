//! Attempts: a worker claims a step, runs it under supervision, and stores its progress.

mod attempt_worker;
pub(crate) mod claim;
mod delivery_log;
pub(crate) mod download_links;
mod effect_log;
pub(crate) mod job;
mod outcome;
pub(crate) mod progress;
pub(crate) mod queue_workers;
pub(crate) mod run;
pub(crate) mod step_files;
mod step_owner;
pub(crate) mod supervise;
