//! Checks `for_each`.

use super::super::expr::{self, check::Known};
use super::super::plan::ForEach;
use super::super::raw::RawStep;
use super::{Faults, expressions};
use afterload_spanned_yaml::Node;

/// Items that are worked on at the same time where the step does not say.
const SIDE_BY_SIDE: u32 = 8;

/// The settled `for_each` of a step. `known` is what the step could name without it: the items are not yet there.
pub fn check(node: &Node, raw: &RawStep, known: &Known<'_>, faults: &mut Faults) -> Option<ForEach> {
    let (place, for_each) = (node.get("for_each")?, raw.for_each.as_ref()?);
    if for_each.max_concurrency.is_some_and(|most| !(1..=1000).contains(&most)) {
        faults.invalid(place.nearest(&["max_concurrency"]).span, "`max_concurrency` must be from 1 to 1000", "");
    }
    let items = &for_each.items;
    let most = ForEach::MOST_ITEMS;
    match items.as_array() {
        None if !items.as_str().is_some_and(expr::dynamic) => {
            faults.invalid(place.nearest(&["items"]).span, "`items` must be a list or an expression", "");
        }
        Some(list) if list.len() > most => {
            let hint = "what is larger is one step that works in chunks";
            faults.invalid(place.nearest(&["items"]).span, format!("`items` may have at most {most} entries"), hint);
        }
        _ => {}
    }
    expressions::check_all(place, known, faults);
    Some(ForEach { items: items.clone(), max_concurrency: for_each.max_concurrency.unwrap_or(SIDE_BY_SIDE) })
}
