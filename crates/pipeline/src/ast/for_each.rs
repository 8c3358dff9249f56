//! `for_each` as written in the file.

use schemars::JsonSchema;
use serde::Deserialize;

/// Runs a step once per item.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ForEachAst {
    /// A list, or an expression that gives one; at most 10,000 items. The step sees each as `item`, with its `index` from 0.
    pub items: serde_json::Value,
    /// How many items are worked on at the same time; default 8.
    #[serde(default)]
    #[schemars(range(min = 1, max = 1000))]
    pub max_concurrency: Option<u32>,
}
