//! The API of step kinds: the [`Step`] trait, its context, and their registration.

pub mod codes;
mod context;
mod file_verifier;
mod files;
mod retry_schedule;
mod waits;

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use context::{
    BoxFuture, DeliveryRecord, DeliveryRecorder, EffectRecorder, EffectState, FileLinks, ProgressCounts,
    ProgressReporter, ProgressUpdate, Resumed, RunInfo, StepContext, StepInfo, SuspendRequest, SuspendSlot,
};
pub use file_verifier::{FileVerifier, VerifiedFile, file_not_authorized};
pub use files::{ArtifactLocation, FileSink, KeyTemplate, OutputDestination, ProducedFiles, StepFiles};
pub use waits::{StepWaits, WorkerSlot};

pub use afterload_object_store::ObjectBody;

use afterload_core::error::{Error, Result};
use afterload_pipeline::{DeferredField, EncodedField, StepKind, ValidationContext, Validator};
use afterload_spanned_yaml::{self as yaml, Diagnostic, ResolvedFault, YamlNode};

/// A step kind. The type *is* the `with:` block. Its doc comments are the reference and the JSON Schema.
///
/// A field that may hold a `${{ }}` expression is a `Templated<T>` (or `serde_json::Value`). Before [`Step::run`],
/// every expression is resolved except those of [`Step::DEFERRED_FIELDS`].
pub trait Step: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The name after `uses:`.
    const KIND: &'static str;
    /// An example of the `with:` block as YAML. A test compiles it.
    const EXAMPLE: &'static str;
    /// Examples of other uses.
    const MORE_EXAMPLES: &'static [&'static str] = &[];
    /// True if the kind creates files, so that a step may set `output`.
    const MAKES_FILES: bool = false;
    /// The fields that the step resolves itself with [`StepContext::expr_context`], once per record.
    const DEFERRED_FIELDS: &'static [DeferredField] = &[];
    /// The fields that encode the values in their text: URLs and HTML. A deferred field is resolved with
    /// [`afterload_pipeline::resolve_url`] or [`afterload_pipeline::resolve_html`] instead.
    const ENCODED_FIELDS: &'static [EncodedField] = &[];
    /// The outputs. Later steps read them as `steps.ID.…`.
    type Outputs: Serialize + JsonSchema;
    /// The dependencies, such as a mailer; `()` for none.
    type Deps: Clone + Send + Sync + 'static;

    /// Checks what the types cannot express, before a run starts.
    fn check(&self, check: &mut Validator<'_>) {
        let _ = check;
    }

    /// True if each success of the step creates a file, whatever its expressions give. `check` finds loops of triggers
    /// by it.
    fn always_makes_files(&self) -> bool {
        false
    }

    /// The URL to which each success of the step sends a `POST` request; `None` if an expression decides, or if it sends
    /// none. The field must be `url`. `check` finds loops of triggers by it.
    fn certain_post(&self) -> Option<String> {
        None
    }

    /// Runs the step. It may run again with the same `ctx.step.key` after a crash or a failure.
    fn run(self, ctx: StepContext, deps: Self::Deps) -> impl Future<Output = Result<Self::Outputs>> + Send;
}

/// A step kind with its code and its dependencies.
#[derive(Clone)]
pub struct RegisteredStep {
    /// The kind as the language sees it.
    pub kind: Arc<dyn StepKind>,
    run: Arc<dyn Fn(serde_json::Value, StepContext) -> StepFuture + Send + Sync>,
}

/// Resolves to the outputs of a step.
pub type StepFuture = Pin<Box<dyn Future<Output = Result<serde_json::Value>> + Send>>;

impl RegisteredStep {
    /// Deserializes the resolved `with:` block and runs the step.
    pub fn run(&self, with: serde_json::Value, ctx: StepContext) -> StepFuture {
        (self.run)(with, ctx)
    }
}

/// Describes a kind to the language: its fields, outputs and examples.
pub fn describe<S: Step>() -> Arc<dyn StepKind> {
    Arc::new(Described::<S> {
        input_schema: LazyLock::new(|| schemars::schema_for!(S)),
        output_schema: LazyLock::new(|| schemars::schema_for!(S::Outputs)),
        kind: PhantomData,
    })
}

/// Creates an entry of the registry. This function is the only place that erases the type of a step.
pub fn register<S: Step>(deps: S::Deps) -> RegisteredStep {
    let run = move |with: serde_json::Value, ctx: StepContext| -> StepFuture {
        let deps = deps.clone();
        Box::pin(async move {
            let step: S = yaml::read_resolved(&with).map_err(|faults| with_invalid_error(S::KIND, &faults))?;
            let outputs = step.run(ctx, deps).await?;
            serde_json::to_value(outputs).map_err(|error| Error::new(codes::OUTPUTS_INVALID, error.to_string()))
        })
    };
    RegisteredStep { kind: describe::<S>(), run: Arc::new(run) }
}

fn with_invalid_error(kind: &str, faults: &[ResolvedFault]) -> Error {
    let messages: Vec<_> = faults.iter().map(|fault| fault.message.as_str()).collect();
    let hints: Vec<_> = faults.iter().filter_map(|fault| fault.hint.as_deref()).collect();
    let message = format!("the resolved `with:` of `{kind}` is not valid: {}", messages.join("; "));
    let error = Error::new(codes::WITH_INVALID, message);
    if hints.is_empty() { error } else { error.with_hint(hints.join("; ")) }
}

/// The description of a kind. Each step of each pipeline is checked against its schemas, so they are made once.
struct Described<S> {
    input_schema: LazyLock<schemars::Schema>,
    output_schema: LazyLock<schemars::Schema>,
    kind: PhantomData<fn() -> S>,
}

impl<S: Step> StepKind for Described<S> {
    fn name(&self) -> &'static str {
        S::KIND
    }

    fn input_schema(&self) -> &schemars::Schema {
        &self.input_schema
    }

    fn output_schema(&self) -> &schemars::Schema {
        &self.output_schema
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

    fn always_makes_files(&self, with: &YamlNode) -> bool {
        yaml::read_partial::<S>(with).0.is_some_and(|step| step.always_makes_files())
    }

    fn certain_post(&self, with: &YamlNode) -> Option<String> {
        yaml::read_partial::<S>(with).0.and_then(|step| step.certain_post())
    }

    fn deferred_fields(&self) -> &'static [DeferredField] {
        S::DEFERRED_FIELDS
    }

    fn encoded_fields(&self) -> &'static [EncodedField] {
        S::ENCODED_FIELDS
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
