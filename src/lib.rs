//! afterload: everything that happens after the upload.
//!
//! The rooms of the house, top to bottom; each imports only from those below it.
//! `ARCHITECTURE.md` draws the way of a run through them.

#[macro_use]
pub mod crash;

pub mod app;
mod bell;
pub mod cli;
pub mod clock;
pub mod config;
pub mod connections;
pub mod dialect;
pub mod engine;
pub mod error;
pub mod file;
pub mod geo;
pub mod http;
pub mod mail;
pub mod media;
pub mod metrics;
pub mod object_names;
pub mod objects;
pub mod pipeline;
pub mod redact;
pub mod registry;
pub mod secret;
pub mod secrets;
pub mod steps;
pub mod store;
pub mod table_name;
pub mod triggers;
pub mod units;
pub mod web;
pub mod yaml;

pub use error::{Error, Result};
