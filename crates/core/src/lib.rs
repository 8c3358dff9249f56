//! What every crate uses: errors, the clock, units, secrets, identifiers, failpoints.

pub mod clock;
pub mod codes;
pub mod dialect;
pub mod error;
mod error_code;
pub mod failpoint;
pub mod file;
pub mod identifier;
pub mod object_names;
pub mod redactor;
pub mod secret;
pub mod secrets;
pub mod shortage;
pub mod units;

pub use error::{Error, Result};
