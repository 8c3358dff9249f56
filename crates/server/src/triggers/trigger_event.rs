//! What a trigger saw.

use serde_json::Value;

use afterload_core::file::File;

/// What a trigger saw.
pub struct TriggerEvent {
    /// The `event` of expressions.
    pub data: Value,
    /// The object that a store reported. The runs of the trigger may read it.
    pub object: Option<File>,
    /// How many runs came before the runs that it starts: each wrote or sent what started the next one.
    pub hops: u32,
}

impl From<Value> for TriggerEvent {
    fn from(data: Value) -> Self {
        Self { data, object: None, hops: 0 }
    }
}
