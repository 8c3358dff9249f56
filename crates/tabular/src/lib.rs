//! Table formats in and out.

pub mod formula;
