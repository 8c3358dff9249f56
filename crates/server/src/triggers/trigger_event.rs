//! What a trigger saw.

use serde_json::Value;

use afterload_core::file::File;

/// What a trigger saw.
pub struct TriggerEvent {
    /// The `event` of expressions.
    pub data: Value,
    /// The object that a store reported. The runs of the trigger may read it.
    pub object: Option<File>,
}

impl From<Value> for TriggerEvent {
    fn from(data: Value) -> Self {
        Self { data, object: None }
    }
}
