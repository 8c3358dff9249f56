//! Who can be asked where an address is.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Who can be asked where an address is.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GeoConfig {
    /// The folder of the files that `mmdb:NAME` names; default `data/geo`.
    pub folder: Option<PathBuf>,
}
