//! Checks the expressions of a node and everything below it, each at its place.

use super::super::expr::check::{Known, check};
use super::super::expr::{Condition, Piece, dynamic, only, pieces};
use super::super::kind::Repeated;
use super::Faults;
use afterload_spanned_yaml::{Node, Value};

/// Checks every expression in the text leaves of a node.
pub fn check_all(node: &Node, known: &Known<'_>, faults: &mut Faults) {
    check_parts(node, known, &[], faults);
}

/// The same for a `with:` block, of which some parts can name more.
pub fn check_parts(node: &Node, known: &Known<'_>, parts: &[Repeated], faults: &mut Faults) {
    match &node.value {
        Value::Str(text) if dynamic(text) => check_text(node, text, known, faults),
        Value::Seq(items) => items.iter().for_each(|item| check_all(item, known, faults)),
        Value::Map(entries) => {
            for (key, value) in entries {
                if dynamic(&key.text) {
                    faults.invalid(key.span, "a key cannot hold an expression", "");
                }
                match Repeated::at(parts, &key.text) {
                    Ok(more) => check_all(value, &Known { more, ..known.clone() }, faults),
                    Err(below) => check_parts(value, known, &below, faults),
                }
            }
        }
        _ => {}
    }
}

/// Checks the expression of an `if`, which may go without `${{ }}`.
pub fn check_condition(node: &Node, text: &str, known: &Known<'_>, faults: &mut Faults) {
    if dynamic(text) && only(text).is_none() {
        return match pieces(text) {
            Err(_) => check_text(node, text, known, faults),
            Ok(_) => faults.invalid(node.span, "`if` must be one expression", "join the parts with `and` or `or`"),
        };
    }
    let condition = Condition::new(text);
    let at = text.find(condition.expression()).unwrap_or(0);
    report(node, at, condition.expression(), known, faults);
}

fn check_text(node: &Node, text: &str, known: &Known<'_>, faults: &mut Faults) {
    match pieces(text) {
        Err(unclosed) => {
            let hint = "write `${{ … }}`";
            faults.invalid(node.part(unclosed.0, 3), "the expression does not end with `}}`", hint);
        }
        Ok(pieces) => {
            for piece in pieces {
                if let Piece::Expression(range) = piece {
                    report(node, range.start, &text[range], known, faults);
                }
            }
        }
    }
}

fn report(node: &Node, at: usize, expression: &str, known: &Known<'_>, faults: &mut Faults) {
    for finding in check(expression, known) {
        let span = node.part(at + finding.range.start, finding.range.len());
        faults.invalid(span, finding.message, finding.hint);
    }
}
