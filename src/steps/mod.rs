//! The step kinds: the [`Step`] trait, and one file or folder per kind.
//!
//! A new kind is one file, one `mod` line and one line in `registry.rs`.

mod context;
pub mod csv_import;
pub mod email_send;
pub mod file_check;
mod files;
mod formula;
pub mod geo_lookup;
pub mod http_request;
pub mod image_resize;
pub mod notify_fanout;
pub mod report_query;
pub mod sql;
pub mod wait;

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use context::{
    Answer, Bed, Begun, Context, Counts, Deliveries, Delivery, Effects, FileLinks, Progress, Report, RunFacts, Slept,
    StepFacts, Suspension,
};
pub use files::{Destination, FileSink, Files, KeyOf, Made};

use crate::error::{Error, Result};
use crate::pipeline::{Check, Kind, Repeated, Surroundings};
use crate::yaml::{self, Node, Problem};

/// A step kind. The type *is* the `with:` block: its fields' doc comments are the reference and the JSON Schema.
///
/// Fields that may hold a `${{ }}` expression are `Dynamic<T>` (or `serde_json::Value`); by the time of [`Step::run`]
/// every expression has been resolved but those of [`Step::REPEATED`].
pub trait Step: DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The name after `uses:`.
    const KIND: &'static str;
    /// An example of the `with:` block, as YAML; checked by a test.
    const EXAMPLE: &'static str;
    /// Examples of other ways to use it.
    const MORE_EXAMPLES: &'static [&'static str] = &[];
    /// Whether it makes files, so that `output` may say where they go.
    const MAKES_FILES: bool = false;
    /// The parts of `with:` that it resolves itself with [`Context::scope`], because they are about each of many things.
    const REPEATED: &'static [Repeated] = &[];
    /// What `steps.ID.…` offers to later steps.
    type Outputs: Serialize + JsonSchema;
    /// What it needs of the outside world, such as a mailer; `()` for nothing.
    type Deps: Clone + Send + Sync + 'static;

    /// Checks what types cannot say, before anything runs.
    fn check(&self, check: &mut Check<'_>) {
        let _ = check;
    }

    /// Does the work. It may be called again with the same `ctx.step.key` after a crash or a failure.
    fn run(self, ctx: Context, deps: Self::Deps) -> impl Future<Output = Result<Self::Outputs>> + Send;
}

/// A step kind that can run: what the language knows of it, and its code with the dependencies it was registered with.
#[derive(Clone)]
pub struct RegisteredStep {
    /// What the language knows of it.
    pub kind: Arc<dyn Kind>,
    run: Arc<dyn Fn(serde_json::Value, Context) -> StepFuture + Send + Sync>,
}

/// The outputs of a step, in time.
pub type StepFuture = Pin<Box<dyn Future<Output = Result<serde_json::Value>> + Send>>;

impl RegisteredStep {
    /// Reads the resolved `with:` block and runs the step.
    pub fn run(&self, with: serde_json::Value, ctx: Context) -> StepFuture {
        (self.run)(with, ctx)
    }
}

/// A step kind as the language sees it: its fields, outputs and examples.
pub fn describe<S: Step>() -> Arc<dyn Kind> {
    Arc::new(Described::<S>(PhantomData))
}

/// A step kind that runs with `deps`: the one place where a type becomes an entry of the registry.
pub fn register<S: Step>(deps: S::Deps) -> RegisteredStep {
    let run = move |with: serde_json::Value, ctx: Context| -> StepFuture {
        let deps = deps.clone();
        Box::pin(async move {
            let step: S = yaml::read_resolved(&with).map_err(|faults| {
                let message = format!("the resolved `with:` of `{}` is not valid: {}", S::KIND, faults.join("; "));
                Error::permanent("with_invalid", message)
            })?;
            let outputs = step.run(ctx, deps).await?;
            serde_json::to_value(outputs).map_err(|error| Error::permanent("outputs_invalid", error.to_string()))
        })
    };
    RegisteredStep { kind: describe::<S>(), run: Arc::new(run) }
}

struct Described<S>(PhantomData<fn() -> S>);

impl<S: Step> Kind for Described<S> {
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

    fn more_examples(&self) -> &'static [&'static str] {
        S::MORE_EXAMPLES
    }

    fn makes_files(&self) -> bool {
        S::MAKES_FILES
    }

    fn repeated(&self) -> &'static [Repeated] {
        S::REPEATED
    }

    fn check(&self, with: &Node, around: &Surroundings) -> Vec<Problem> {
        let (step, mut problems) = yaml::read_most::<S>(with);
        if let Some(step) = step {
            let mut check = Check::new(with, around).without(&problems);
            step.check(&mut check);
            let found = check.finish();
            problems.extend(found);
        }
        yaml::sorted(problems)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found<S: Step>(text: &str) -> Vec<String> {
        let around = Surroundings {
            connections: Some(["app".to_owned()].into()),
            templates: Some(["import_done".to_owned()].into()),
            broken_templates: [("broken".to_owned(), "it has no `subject.txt`".to_owned())].into(),
            ..Surroundings::default()
        };
        let with = yaml::parse(text).expect("valid YAML");
        let place = |problem: &Problem| format!("{}:{} {}", problem.span.line, problem.span.col, problem.message);
        describe::<S>().check(&with, &around).iter().map(place).collect()
    }

    #[test]
    fn a_field_that_cannot_be_read_hides_no_other_fault() {
        let text = "source: abc\nconnection: nowhere\ninto: { table: t, on_conflict: { keys: [id, a, c], action: skip } }\n\
                    columns:\n  a: { type: enm, values: [x] }\n  b: { type: enum }\n  c: 5\ntolerate: 120%\nchunk: 0\nencoding: klingon\n";
        insta::assert_snapshot!(found::<csv_import::CsvImport>(text).join("\n"), @r"
        1:9 expected a file such as `${{ … }}`, found the text `abc`
        2:13 unknown connection `nowhere`
        3:40 key `id` is not imported
        5:14 unknown value `enm`
        6:14 a column of type `enum` needs `values`
        7:6 expected a map, found the number 5
        8:11 `120%` is not a share; expected a percentage such as `5%`
        9:8 `chunk` must be from 1 to 100000
        10:11 unknown encoding `klingon`
        ");
        let text = "to: [nobody, ok@example.com]\ntemplate: welcom\nvars: [1]\nlinks: { file: abc }\nfrom: me\n";
        insta::assert_snapshot!(found::<email_send::EmailSend>(text).join("\n"), @r"
        1:6 `nobody` is not an e-mail address: it has no `@`
        2:11 unknown mail template `welcom`
        3:7 expected a map, found a list
        4:16 expected a file such as `${{ … }}`, found the text `abc`
        5:7 `me` is not an e-mail address: it has no `@`
        ");
    }

    #[test]
    fn styles_are_checked_each_at_its_place() {
        let text = "source: '${{ params.file }}'\nquality: 0\nbackground: blau\nanimated: keep\nstyles:\n  small: 100x100##\n  \
                    Big: 100\n  odd: { geometry: 5x, format: gif }\n  more: { geometry: '!', quality: 101, backgroud: '#fff' }\n  \
                    none: { format: webp }\n  list: [1]\n  later: '${{ params.size }}'\n";
        insta::assert_snapshot!(found::<image_resize::ImageResize>(text).join("\n"), @r"
        2:10 `quality` must be from 1 to 100
        3:13 `blau` is not a colour
        4:11 `animated` is not supported yet
        6:10 `100x100##` is not a geometry: `#` stands there twice
        7:8 `Big` is not a name for a style
        8:32 unknown value `gif`
        9:21 `!` is not a geometry: it names neither a width nor a height
        9:35 `quality` must be from 1 to 100
        9:40 unknown field `backgroud`
        10:9 missing field `geometry`
        11:9 expected a geometry such as `800x600>`, or a map with `geometry`, found a list
        ");
        assert_eq!(found::<image_resize::ImageResize>("source: '${{ params.file }}'\nstyles: {}\n").len(), 1);
    }

    #[test]
    fn what_follows_from_an_unreadable_field_is_not_told() {
        assert_eq!(
            found::<csv_import::CsvImport>("source: '${{ params.f }}'\ninto: { table: t }\n"),
            ["1:1 missing field `columns`"]
        );
        let faults =
            found::<csv_import::CsvImport>("source: '${{ params.f }}'\ninto: 3\ncolumns: { a: 5 }\nconnection: [1]\n");
        assert_eq!(faults.len(), 3, "{faults:?}");
        for text in ["to: a@example.com\ntemplate: [1]\n", "to: a@example.com\nsubject: [1]\nbody: x\n"] {
            assert_eq!(found::<email_send::EmailSend>(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_broken_template_is_a_fault_of_the_pipelines_that_use_it() {
        let faults = found::<email_send::EmailSend>("to: a@example.com\ntemplate: broken\n");
        assert_eq!(faults, ["2:11 the mail template `broken` cannot be used: it has no `subject.txt`"]);
    }
}
