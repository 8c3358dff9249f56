//! The `afterload` binary: its commands, its configuration, its step kinds, and the assembly of a process.
//!
//! Everything else is in the crates under `crates/`. `ARCHITECTURE.md` describes the life of a run through them.

pub mod app;
pub mod cli;
pub mod codes;
pub mod config;
pub mod error_codes;
pub mod registry;
