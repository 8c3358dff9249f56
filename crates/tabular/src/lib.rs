//! Readers and writers of table formats. This crate knows no step kind.

pub mod codes;
pub mod formula;
pub mod read;
pub mod write;
