//! The step kinds: the [`Step`] trait, the list, and one file or folder per kind.
//!
//! A new kind is one file, one `mod` line and one line in [`kinds`].

mod context;
pub mod csv_import;
pub mod email_send;

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use context::{Begun, Context, Counts, Effects, FileLinks, FileSink, Files, Progress, Report, RunFacts, StepFacts};

use crate::error::{Error, Result};
use crate::pipeline::{Check, Kind, Kinds, Surroundings};
use crate::yaml::{self, Node, Problem};

/// A step kind. The type *is* the `with:` block: its fields' doc comments are the reference and the JSON Schema.
///
/// Fields that may hold a `${{ }}` expression are `Dynamic<T>` (or `serde_json::Value`); by the time of [`Step::run`]
/// every expression has been resolved.
pub trait Step: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The name after `uses:`.
    const KIND: &'static str;
    /// An example of the `with:` block, as YAML; checked by a test.
    const EXAMPLE: &'static str;
    /// What `steps.ID.…` offers to later steps.
    type Outputs: Serialize + JsonSchema;

    /// Checks what types cannot say, before anything runs.
    fn check(&self, check: &mut Check<'_>) {
        let _ = check;
    }

    /// Does the work. It may be called again with the same `ctx.step.key` after a crash or a failure.
    fn run(self, ctx: Context) -> impl Future<Output = Result<Self::Outputs>> + Send;
}

/// A step kind with its type erased, as the engine calls it.
pub trait AnyStep: Kind {
    /// Reads the resolved `with:` block and runs the step.
    fn run(
        &self,
        with: serde_json::Value,
        ctx: Context,
    ) -> Pin<Box<dyn Future<Output = Result<serde_json::Value>> + Send>>;
}

/// The step kinds that run.
pub fn kinds() -> Vec<Arc<dyn AnyStep>> {
    vec![erase::<csv_import::CsvImport>(), erase::<email_send::EmailSend>()]
}

/// The kinds of the language that this version does not run yet.
pub const PLANNED: &[&str] = &[
    "image.resize",
    "report.query",
    "geo.lookup",
    "notify.fanout",
    "http.request",
    "sql.execute",
    "sql.batch",
    "wait",
    "file.check",
];

/// The kinds as the language sees them.
pub fn language(kinds: &[Arc<dyn AnyStep>]) -> Kinds {
    Kinds { ready: kinds.iter().map(|kind| kind.clone() as Arc<dyn Kind>).collect(), planned: PLANNED }
}

/// Erases the type of a step kind: the one place where types become a list.
pub fn erase<S: Step>() -> Arc<dyn AnyStep> {
    Arc::new(Erased::<S>(PhantomData))
}

struct Erased<S>(PhantomData<fn() -> S>);

impl<S: Step> Kind for Erased<S> {
    fn name(&self) -> &'static str {
        S::KIND
    }

    fn schema(&self) -> schemars::Schema {
        schemars::schema_for!(S)
    }

    fn outputs(&self) -> schemars::Schema {
        schemars::schema_for!(S::Outputs)
    }

    fn example(&self) -> &'static str {
        S::EXAMPLE
    }

    fn check(&self, with: &Node, around: &Surroundings) -> Vec<Problem> {
        match yaml::read::<S>(with) {
            Err(problems) => problems,
            Ok(step) => {
                let mut check = Check::new(with, around);
                step.check(&mut check);
                check.finish()
            }
        }
    }
}

impl<S: Step> AnyStep for Erased<S> {
    fn run(
        &self,
        with: serde_json::Value,
        ctx: Context,
    ) -> Pin<Box<dyn Future<Output = Result<serde_json::Value>> + Send>> {
        Box::pin(async move {
            let step: S = serde_json::from_value(with).map_err(|error| {
                Error::permanent("with_invalid", format!("the resolved `with:` of `{}` is not valid: {error}", S::KIND))
            })?;
            let outputs = step.run(ctx).await?;
            serde_json::to_value(outputs).map_err(|error| Error::permanent("outputs_invalid", error.to_string()))
        })
    }
}
