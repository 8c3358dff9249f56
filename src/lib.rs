//! The `afterload` binary: its commands, its configuration, the step kinds it knows, and how a process is put together.
//!
//! Everything else lives in the crates under `crates/`; `ARCHITECTURE.md` draws the life of a run through them.

pub mod app;
pub mod cli;
pub mod codes;
pub mod config;
pub mod error_codes;
pub mod registry;
