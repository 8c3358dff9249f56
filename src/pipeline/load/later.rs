//! Checks the parts that this version does not execute, and then refuses them: a slip inside is told as well.

use std::collections::BTreeMap;

use super::super::expr::check::{EventRoot, Fields, Known};
use super::super::raw::{Concurrency, RawStep};
use super::{Faults, expressions};
use crate::yaml::Node;

/// `concurrency`.
pub fn check_pipeline(root: &Node, concurrency: &Option<Concurrency>, faults: &mut Faults) {
    if concurrency.as_ref().is_some_and(|concurrency| concurrency.limit == Some(0)) {
        faults.invalid(root.nearest(&["concurrency", "limit"]).span, "`limit` must be at least 1", "");
    }
    if let Some(key) = root.key("concurrency") {
        faults.later(key.span, "`concurrency`");
    }
}

/// The fields of a step that are not executed yet.
pub fn check_step(node: &Node, raw: &RawStep, known: &Known<'_>, faults: &mut Faults) {
    if raw.rate_limit.as_ref().is_some_and(|limit| limit.per_second <= 0.0) {
        faults.invalid(node.nearest(&["rate_limit", "per_second"]).span, "`per_second` must be more than 0", "");
    }
    if let (Some(key), Some(value)) = (node.key("rate_limit"), node.get("rate_limit")) {
        expressions::check_all(value, known, faults);
        faults.later(key.span, "`rate_limit`");
    }
}

/// `concurrency.key` may name params and the event.
pub fn check_concurrency_key(
    root: &Node,
    params: &BTreeMap<String, Fields>,
    event: EventRoot<'_>,
    faults: &mut Faults,
) {
    let Some(key) = root.get("concurrency").and_then(|node| node.get("key")) else { return };
    expressions::check_all(key, &Known { params, event, ..Known::default() }, faults);
}
