//! Compiles `for_each`.

use super::super::ast::StepAst;
use super::super::expr::{self, check::NameScope};
use super::super::plan::ForEach;
use super::{Diagnostics, expressions};
use afterload_spanned_yaml::YamlNode;

const DEFAULT_MAX_CONCURRENCY: u32 = 8;

/// Compiles the `for_each` of a step. `known` holds the names that exist before there are items.
pub fn compile_for_each(
    node: &YamlNode,
    raw: &StepAst,
    known: &NameScope<'_>,
    faults: &mut Diagnostics,
) -> Option<ForEach> {
    let (place, for_each) = (node.get("for_each")?, raw.for_each.as_ref()?);
    if for_each.max_concurrency.is_some_and(|most| !(1..=1000).contains(&most)) {
        faults.report_invalid(
            place.closest_node(&["max_concurrency"]).span,
            "`max_concurrency` must be from 1 to 1000",
            "",
        );
    }
    let items = &for_each.items;
    let most = ForEach::MAX_ITEMS;
    match items.as_array() {
        None if !items.as_str().is_some_and(expr::has_expression) => {
            faults.report_invalid(place.closest_node(&["items"]).span, "`items` must be a list or an expression", "");
        }
        Some(list) if list.len() > most => {
            let hint = "what is larger is one step that works in chunks";
            faults.report_invalid(
                place.closest_node(&["items"]).span,
                format!("`items` may have at most {most} entries"),
                hint,
            );
        }
        _ => {}
    }
    expressions::check_expressions(place, known, faults);
    Some(ForEach { items: items.clone(), max_concurrency: for_each.max_concurrency.unwrap_or(DEFAULT_MAX_CONCURRENCY) })
}
