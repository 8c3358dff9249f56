//! What every crate uses: errors, the clock, units, secrets, identifiers, texts, IP ranges, counts of work,
//! failpoints.

pub mod blocking;
pub mod clock;
pub mod codes;
pub mod decimal;
pub mod dialect;
pub mod error;
mod error_code;
pub mod exact_decimal;
pub mod failpoint;
pub mod file;
pub mod file_seals;
pub mod identifier;
pub mod ip_ranges;
pub mod keyring;
pub mod object_names;
pub mod percent;
pub mod redactor;
pub mod secret;
pub mod secrets;
pub mod shortage;
pub mod text;
pub mod units;
pub mod work;

pub use error::{Error, Result};
