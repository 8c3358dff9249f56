//! `afterload schema`: the JSON Schema of a pipeline file, for editors.

use std::io::{self, Write};
use std::process::ExitCode;

use clap::Args;

use afterload_pipeline::{StepCatalog, pipeline_schema};

/// Prints the JSON Schema of pipeline files, for editors.
#[derive(Clone, Debug, Args)]
pub struct SchemaArgs {}

/// Writes the schema to `out`.
pub fn run(_: &SchemaArgs, kinds: &StepCatalog, out: &mut impl Write) -> io::Result<ExitCode> {
    serde_json::to_writer_pretty(&mut *out, &pipeline_schema(kinds))?;
    writeln!(out)?;
    Ok(ExitCode::SUCCESS)
}
