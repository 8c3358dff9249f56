//! The lifecycle of a run: it starts, advances and finishes, and can be retried or cancelled.

pub(crate) mod admit;
pub(crate) mod advance;
pub(crate) mod cancel;
pub(crate) mod deadlines;
pub(crate) mod file_grants;
pub(crate) mod finish;
pub(crate) mod follow_up;
pub(crate) mod reconcile;
pub(crate) mod retry;
mod retry_live;
mod retry_steps;
pub(crate) mod run_notifications;
pub(crate) mod start;
