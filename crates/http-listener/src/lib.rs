//! The HTTP/1.1 listener of the process: it limits connections and closes those of slow and idle peers.
//!
//! A peer can be slow in four places, and each has its own limit: before a request (`idle_timeout`), in the head of a
//! request (`header_timeout`), in its body (`body_rate`), and in reading the response (`write_timeout`).

mod activity;
mod config;
mod guarded_io;
mod request_body;
mod serve;

pub use config::{ConnectionLimits, HttpTimeouts};
pub use request_body::{RequestBody, SlowBodyError};
pub use serve::{ListenerOptions, PeerAddress, serve_connections};
