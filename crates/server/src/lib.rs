//! The HTTP API and the triggers.

pub mod api;
pub mod codes;
pub mod triggers;
mod whole_number;
