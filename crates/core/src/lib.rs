//! What every crate uses: errors, the clock, units, secrets, names, failpoints.

pub mod clock;
pub mod dialect;
pub mod error;
pub mod failpoint;
pub mod file;
pub mod object_names;
pub mod redact;
pub mod secret;
pub mod secrets;
pub mod table_name;
pub mod units;

pub use error::{Error, Result};
