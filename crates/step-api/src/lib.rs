//! The [`Step`] trait, the context of a running step, and the registration of kinds.
//!
//! A new kind is one file (or crate), one `mod` line and one line of the registry in the binary.

pub mod codes;
mod context;
mod files;

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use context::{
    BoxFuture, DeliveryRecord, DeliveryRecorder, EffectRecorder, EffectState, FileLinks, ProgressCounts,
    ProgressReporter, ProgressUpdate, Resumed, RunInfo, StepContext, StepInfo, SuspendRequest, SuspendSlot,
};
pub use files::{ArtifactLocation, FileSink, KeyTemplate, OutputDestination, ProducedFiles, StepFiles};

use afterload_core::error::{Error, Result};
use afterload_pipeline::{DeferredField, StepKind, ValidationContext, Validator};
use afterload_spanned_yaml::{self as yaml, Diagnostic, YamlNode};

/// A step kind. The type *is* the `with:` block: its fields' doc comments are the reference and the JSON Schema.
///
/// Fields that may hold a `${{ }}` expression are `Dynamic<T>` (or `serde_json::Value`); by the time of [`Step::run`]
/// every expression has been resolved but those of [`Step::DEFERRED_FIELDS`].
pub trait Step: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The name after `uses:`.
    const KIND: &'static str;
    /// An example of the `with:` block, as YAML; checked by a test.
    const EXAMPLE: &'static str;
    /// Examples of other ways to use it.
    const MORE_EXAMPLES: &'static [&'static str] = &[];
    /// Whether it makes files, so that `output` may say where they go.
    const MAKES_FILES: bool = false;
    /// The parts of `with:` that it resolves itself with [`StepContext::expr_context`], because they are about each of
    /// many things.
    const DEFERRED_FIELDS: &'static [DeferredField] = &[];
    /// What `steps.ID.…` offers to later steps.
    type Outputs: Serialize + JsonSchema;
    /// What it needs of the outside world, such as a mailer; `()` for nothing.
    type Deps: Clone + Send + Sync + 'static;

    /// Checks what types cannot say, before anything runs.
    fn check(&self, check: &mut Validator<'_>) {
        let _ = check;
    }

    /// Does the work. It may be called again with the same `ctx.step.key` after a crash or a failure.
    fn run(self, ctx: StepContext, deps: Self::Deps) -> impl Future<Output = Result<Self::Outputs>> + Send;
}

/// A step kind that can run: what the language knows of it, and its code with the dependencies it was registered with.
#[derive(Clone)]
pub struct RegisteredStep {
    /// What the language knows of it.
    pub kind: Arc<dyn StepKind>,
    run: Arc<dyn Fn(serde_json::Value, StepContext) -> StepFuture + Send + Sync>,
}

/// The outputs of a step, in time.
pub type StepFuture = Pin<Box<dyn Future<Output = Result<serde_json::Value>> + Send>>;

impl RegisteredStep {
    /// Reads the resolved `with:` block and runs the step.
    pub fn run(&self, with: serde_json::Value, ctx: StepContext) -> StepFuture {
        (self.run)(with, ctx)
    }
}

/// A step kind as the language sees it: its fields, outputs and examples.
pub fn describe<S: Step>() -> Arc<dyn StepKind> {
    Arc::new(Described::<S>(PhantomData))
}

/// A step kind that runs with `deps`: the one place where a type becomes an entry of the registry.
pub fn register<S: Step>(deps: S::Deps) -> RegisteredStep {
    let run = move |with: serde_json::Value, ctx: StepContext| -> StepFuture {
        let deps = deps.clone();
        Box::pin(async move {
            let step: S = yaml::read_resolved(&with).map_err(|faults| {
                let message = format!("the resolved `with:` of `{}` is not valid: {}", S::KIND, faults.join("; "));
                Error::new(codes::WITH_INVALID, message)
            })?;
            let outputs = step.run(ctx, deps).await?;
            serde_json::to_value(outputs).map_err(|error| Error::new(codes::OUTPUTS_INVALID, error.to_string()))
        })
    };
    RegisteredStep { kind: describe::<S>(), run: Arc::new(run) }
}

struct Described<S>(PhantomData<fn() -> S>);

impl<S: Step> StepKind for Described<S> {
    fn name(&self) -> &'static str {
        S::KIND
    }

    fn input_schema(&self) -> schemars::Schema {
        schemars::schema_for!(S)
    }

    fn output_schema(&self) -> schemars::Schema {
        schemars::schema_for!(S::Outputs)
    }

    fn example_input(&self) -> &'static str {
        S::EXAMPLE
    }

    fn more_example_inputs(&self) -> &'static [&'static str] {
        S::MORE_EXAMPLES
    }

    fn makes_files(&self) -> bool {
        S::MAKES_FILES
    }

    fn deferred_fields(&self) -> &'static [DeferredField] {
        S::DEFERRED_FIELDS
    }

    fn validate(&self, with: &YamlNode, around: &ValidationContext) -> Vec<Diagnostic> {
        let (step, mut problems) = yaml::read_partial::<S>(with);
        if let Some(step) = step {
            let mut check = Validator::new(with, around).with_unread(&problems);
            step.check(&mut check);
            let found = check.finish();
            problems.extend(found);
        }
        yaml::sort_diagnostics(problems)
    }
}
