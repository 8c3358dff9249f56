//! Table formats in and out. Nothing here knows a kind of step.

pub mod codes;
pub mod formula;
pub mod read;
pub mod write;
