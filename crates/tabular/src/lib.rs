//! Readers and writers of table formats. This crate knows no step kind.

pub mod codes;
mod column_letters;
pub mod formula;
pub mod read;
pub mod write;
