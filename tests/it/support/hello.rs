//! `hello`: greets somebody. CONTRIBUTING.md shows this file as the example of a new step kind.

use afterload_core::error::Result;
use afterload_pipeline::{Templated, Validator};
use afterload_step_api::{Step, StepContext};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Greets somebody.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Hello {
    /// The name to greet.
    name: Templated<String>,
}

/// What later steps can use.
#[derive(Debug, Serialize, JsonSchema)]
pub struct HelloOutputs {
    /// The greeting.
    text: String,
}

/// What the kind needs of the outside world: here a word, elsewhere a mailer or a database.
#[derive(Clone)]
pub struct HelloDeps {
    /// The word before the name.
    pub greeting: String,
}

impl Step for Hello {
    const KIND: &'static str = "hello";
    const EXAMPLE: &'static str = "name: Ada\n";
    type Outputs = HelloOutputs;
    type Deps = HelloDeps;

    fn check(&self, check: &mut Validator<'_>) {
        if self.name.as_literal().is_some_and(String::is_empty) {
            check.report_invalid(&["name"], "`name` is empty", "name somebody");
        }
    }

    async fn run(self, ctx: StepContext, deps: HelloDeps) -> Result<HelloOutputs> {
        ctx.check_stopped()?;
        Ok(HelloOutputs { text: format!("{} {}", deps.greeting, self.name.into_value()?) })
    }
}
