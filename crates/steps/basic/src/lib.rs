//! Small step kinds that share one crate.

pub mod codes;
pub mod email_send;
pub mod file_check;
pub mod geo_lookup;
pub mod http_request;
pub mod sql;
pub mod wait;
