//! The HTTP API, and what starts runs beside it.

pub mod api;
pub mod codes;
pub mod triggers;
