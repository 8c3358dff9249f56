//! The settings of connections.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::clock::Clock;
use afterload_core::secret::Secret;

/// A database that pipelines work on.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectionConfig {
    /// `sqlite://PATH` or `postgres://…`.
    pub url: Secret,
    /// The PostgreSQL schema of unqualified tables and of `afterload_checkpoints`.
    #[serde(default)]
    pub schema: Option<String>,
    /// Refuses every step that writes.
    #[serde(default)]
    pub read_only: bool,
    /// Whether `afterload_checkpoints` may be created there.
    #[serde(default)]
    pub checkpoints: CheckpointMode,
    /// Functions that SQL which must only read may call beside the built-in ones that only read: `name` or `schema.name`.
    #[serde(default)]
    pub functions: Vec<String>,
}

/// Whether chunked work may keep its cursor in the target database.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckpointMode {
    /// The table is created when first needed; each row takes effect once.
    #[default]
    Table,
    /// No table; only steps that may safely repeat are allowed.
    None,
}

/// The settings of a connection without its address.
#[derive(Debug)]
pub(crate) struct ConnectionOptions {
    pub(crate) name: String,
    pub(crate) clock: Clock,
    pub(crate) read_only: bool,
    pub(crate) checkpoints: bool,
    /// See [`ConnectionConfig::functions`].
    pub(crate) functions: Vec<String>,
}
