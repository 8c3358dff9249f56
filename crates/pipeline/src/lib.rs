//! Compiles YAML files to checked pipelines: the language, diagnostics with spans, expressions, the plan.
//!
//! This crate knows no step kind by name. It receives them as a [`StepCatalog`].

pub mod ast;
pub mod codes;
mod compile;
pub mod expr;
pub mod folder;
pub mod params;
pub mod plan;
mod run_effect;
mod schedule;
mod schema;
mod sql_files;
pub mod step_kind;
pub mod templated;
mod trigger_graph;

pub use ast::{CatchUp, KeySuffix, OnRunConflict};
pub use compile::{CRON_EVENT_FIELDS, Pipeline, compile_definition};
pub use expr::{
    Condition, ExprContext, check_url_template, fill_html_template, referenced_names, resolve, resolve_except,
    resolve_html, resolve_to_text, resolve_url,
};
pub use params::{FileRule, Param, ParamType};
pub use plan::{
    Backoff, CronTrigger, EventTrigger, PipelinePlan, PlanStep, RetryPolicy, S3Trigger, Section, Sections, Trigger,
    TriggerBatching,
};
pub use run_effect::{CertainEffect, KeyShape, RunEffect};
pub use schedule::{CronSchedule, LocalTime};
pub use schema::pipeline_schema;
pub use sql_files::{compile_with_sql_files, list_sql_files};
pub use step_kind::{
    DeferredField, EncodedField, FieldPath, QueryVerifier, StepCatalog, StepKind, ValidationContext, Validator,
    ValueEncoding,
};
pub use templated::Templated;
pub use trigger_graph::{TriggerFlow, TriggerGraph};
