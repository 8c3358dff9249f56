//! The HTTP API and the triggers.

pub mod api;
pub mod triggers;
