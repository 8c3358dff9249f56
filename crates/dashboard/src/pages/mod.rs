//! The pages that show data.

pub(crate) mod now;
pub(crate) mod pipeline;
pub(crate) mod pipelines;
pub(crate) mod run;
pub(crate) mod run_files;
pub(crate) mod run_steps;
pub(crate) mod runs;
mod shared;
