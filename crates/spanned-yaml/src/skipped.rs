//! What is left out when a tree is read again.

use std::collections::{HashMap, HashSet};

use super::read_error::NodePtr;

/// What is left out of a tree, and which missing fields are filled, while it is read again.
#[derive(Default)]
pub struct SkippedNodes {
    /// Nodes that could not be read.
    pub nodes: HashSet<NodePtr>,
    /// Fields that were missing from a map.
    pub placeholder_fields: HashMap<NodePtr, Vec<&'static str>>,
    /// No text is an expression any more.
    pub expressions_resolved: bool,
}
