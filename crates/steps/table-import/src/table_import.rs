//! `table.import`: the import of any kind of file that holds a table.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde::Deserialize;

use super::{CsvImport, CsvImportOutputs};
use afterload_core::error::Result;
use afterload_pipeline::Validator;
use afterload_step_api::{Step, StepContext};
use afterload_target_db::Connections;

/// Imports a file into a table: CSV, JSON Lines or a workbook (XLSX), also packed with gzip or zip. It has the fields and the
/// promise of `csv.import`.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct TableImport(pub CsvImport);

/// The schema of `csv.import` itself. A derived one would only refer to it, and editors would show no fields.
impl JsonSchema for TableImport {
    fn schema_name() -> Cow<'static, str> {
        "TableImport".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        CsvImport::json_schema(generator)
    }
}

impl Step for TableImport {
    const KIND: &'static str = "table.import";
    const EXAMPLE: &'static str = r#"source: "${{ params.workbook }}"
connection: app
sheet: 1
into:
  table: contacts
  on_conflict: { keys: [email], action: update }
columns:
  email: { match: [Email, E-mail], type: email, required: true, case: lower }
  name: { max_length: 200 }
  joined: { type: date, formats: ["%Y-%m-%d", "%d.%m.%Y"] }
  country: { type: enum, values: [DE, FR, IT], case: upper }
  amount: { type: decimal, min: 0, default: 0 }
tolerate: 20%
errors: { file: rejected.csv, max: 10000 }
"#;
    const MAKES_FILES: bool = true;
    type Outputs = CsvImportOutputs;
    type Deps = Connections;

    fn check(&self, check: &mut Validator<'_>) {
        self.0.check_options(check);
    }

    async fn run(self, ctx: StepContext, connections: Connections) -> Result<CsvImportOutputs> {
        let spec = CsvImport { any_format: true, ..self.0 };
        spec.run(ctx, connections).await
    }
}
