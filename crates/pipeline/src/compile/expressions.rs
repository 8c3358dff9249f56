//! Checks the expressions of a node and of its children, and reports each error at its span.

use super::super::expr::check::{NameScope, check_expression};
use super::super::expr::{Condition, TemplateSegment, has_expression, sole_expression, split_template};
use super::super::step_kind::DeferredField;
use super::Diagnostics;
use afterload_spanned_yaml::{YamlNode, YamlValue};

/// Checks every expression in the text leaves of a node.
pub fn check_expressions(node: &YamlNode, known: &NameScope<'_>, faults: &mut Diagnostics) {
    check_with_block(node, known, &[], faults);
}

/// Checks a `with:` block. Its deferred fields may use additional names.
pub fn check_with_block(node: &YamlNode, known: &NameScope<'_>, parts: &[DeferredField], faults: &mut Diagnostics) {
    match &node.value {
        YamlValue::Str(text) if has_expression(text) => check_template(node, text, known, faults),
        YamlValue::Seq(items) => items.iter().for_each(|item| check_expressions(item, known, faults)),
        YamlValue::Map(entries) => {
            for (key, value) in entries {
                if has_expression(&key.text) {
                    faults.report_invalid(key.span, "a key cannot hold an expression", "");
                }
                match DeferredField::match_key(parts, &key.text) {
                    Ok(more) => check_expressions(value, &NameScope { extra_roots: more, ..known.clone() }, faults),
                    Err(below) => check_with_block(value, known, &below, faults),
                }
            }
        }
        _ => {}
    }
}

/// Checks the expression of `if`, which may omit `${{ }}`.
pub fn check_condition(node: &YamlNode, text: &str, known: &NameScope<'_>, faults: &mut Diagnostics) {
    if has_expression(text) && sole_expression(text).is_none() {
        return match split_template(text) {
            Err(_) => check_template(node, text, known, faults),
            Ok(_) => {
                faults.report_invalid(node.span, "`if` must be one expression", "join the parts with `and` or `or`");
            }
        };
    }
    let condition = Condition::new(text);
    let at = text.find(condition.expression_text()).unwrap_or(0);
    check_and_report(node, at, condition.expression_text(), known, faults);
}

fn check_template(node: &YamlNode, text: &str, known: &NameScope<'_>, faults: &mut Diagnostics) {
    match split_template(text) {
        Err(unclosed) => {
            let hint = "write `${{ … }}`";
            faults.report_invalid(node.text_span(unclosed.0, 3), "the expression does not end with `}}`", hint);
        }
        Ok(pieces) => {
            for piece in pieces {
                if let TemplateSegment::Expression(range) = piece {
                    check_and_report(node, range.start, &text[range], known, faults);
                }
            }
        }
    }
}

fn check_and_report(node: &YamlNode, at: usize, expression: &str, known: &NameScope<'_>, faults: &mut Diagnostics) {
    for finding in check_expression(expression, known) {
        let span = node.text_span(at + finding.range.start, finding.range.len());
        faults.report_invalid(span, finding.message, finding.hint);
    }
}
