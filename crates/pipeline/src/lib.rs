//! From a YAML file to a checked pipeline: the language, its faults with their places, expressions, the plan.
//!
//! This room knows no step kind by name: it receives them as [`Kinds`].

pub mod catalogue;
pub mod dynamic;
pub mod expr;
mod inline;
pub mod kind;
mod load;
pub mod params;
pub mod plan;
pub mod raw;
mod schedule;
mod schema;

pub use dynamic::Templated;
pub use expr::{Condition, ExprContext, referenced_names, resolve, resolve_except, resolve_to_text};
pub use inline::{compile_with_sql_files, list_sql_files};
pub use kind::{DeferredField, StepCatalog, StepKind, ValidationContext, Validator};
pub use load::{Pipeline, compile_definition};
pub use params::{FileRule, Param, ParamType};
pub use plan::{
    Backoff, CronTrigger, EventTrigger, PipelinePlan, PlanStep, RetryPolicy, S3Trigger, Section, Sections, Trigger,
};
pub use raw::{CatchUp, OnRunConflict};
pub use schedule::CronSchedule;
pub use schema::pipeline_schema;
