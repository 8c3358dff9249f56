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

pub use dynamic::Dynamic;
pub use expr::{Condition, Scope, names, resolve, resolve_but, resolve_to_text};
pub use inline::{load_whole, sql_files};
pub use kind::{Check, Kind, Kinds, Repeated, Surroundings};
pub use load::{Pipeline, load};
pub use params::{FileRule, Param, ParamType};
pub use plan::{Backoff, CronTrigger, EventTrigger, Plan, Retry, S3Trigger, Section, Sections, Step, Trigger};
pub use raw::{CatchUp, OnConflict};
pub use schedule::Schedule;
pub use schema::schema;
