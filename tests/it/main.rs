//! The one integration binary: everything here drives the real thing.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test may panic, and is the outside world")]

mod admission;
mod api;
mod check;
mod crash;
mod csv_import;
mod engine;
mod fan_out;
mod geo;
mod house;
mod http;
mod image_resize;
mod life;
mod links;
mod mail;
mod main_job;
mod notify;
mod objects;
mod openapi;
mod operations;
mod pages;
mod pauses;
mod rate;
mod reload;
mod retention;
mod smtp;
mod soak;
mod sql;
mod store;
mod support;
mod sweep;
mod terminal;
mod triggers;
mod waiting;
mod watching;
mod workers;
