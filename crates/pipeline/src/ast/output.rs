//! `mode` and `output` as written in the file.

use schemars::JsonSchema;
use serde::Deserialize;

/// Whether the answer to the request waits for a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepMode {
    /// The answer waits, so that the step's result is in it.
    Inline,
    /// The answer is given at once.
    Background,
}

/// Where the files that a step makes are written. They belong to the user and stay until somebody deletes them.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct OutputAst {
    /// The bucket; the embedded store makes it when it is first written.
    pub bucket: String,
    /// The key, usually with expressions. `file.name`, `file.stem`, `file.extension` and `file.step` (the step's id) are
    /// those of the file at hand; default `PIPELINE/RUN/STEP/NAME`.
    #[serde(default)]
    pub key: Option<String>,
    /// The `Cache-Control` header of the objects.
    #[serde(default)]
    pub cache_control: Option<String>,
}
