//! Reads a typed value and collects every problem. After each error, the node that caused it is skipped and the value
//! is read again, until it reads or the root itself fails.

use std::collections::HashSet;

use serde::de::DeserializeOwned;

use super::de::NodeDeserializer;
use super::read_error::{NodePtr, YamlReadError};
use super::skipped::SkippedNodes;
use super::{Diagnostic, YamlNode, YamlValue, suggest};
use afterload_core::codes;

/// The number of attempts, and so of problems, after which reading stops.
const MAX_READ_ROUNDS: usize = 100;

/// Reads a typed value from a node and returns all problems, sorted by position.
///
/// # Errors
/// The diagnostics, at least one.
pub fn read<T: DeserializeOwned>(node: &YamlNode) -> Result<T, Vec<Diagnostic>> {
    match read_partial(node) {
        (Some(value), problems) if problems.is_empty() => Ok(value),
        (_, problems) => Err(problems),
    }
}

/// Same as [`read`], but also returns the value without the parts that have problems, so that it can be validated
/// further. Its missing fields hold placeholders.
pub fn read_partial<T: DeserializeOwned>(node: &YamlNode) -> (Option<T>, Vec<Diagnostic>) {
    read_skipping(node, SkippedNodes::default())
}

/// Same as [`read_partial`], with nodes that are already skipped.
pub fn read_skipping<T: DeserializeOwned>(node: &YamlNode, mut gone: SkippedNodes) -> (Option<T>, Vec<Diagnostic>) {
    let mut problems = Vec::new();
    for _ in 0..MAX_READ_ROUNDS {
        match T::deserialize(NodeDeserializer::new(node, &gone)) {
            Ok(value) => return (Some(value), sort_diagnostics(problems)),
            Err(fault) => {
                if !skip_and_record(fault, node, &mut gone, &mut problems) {
                    break;
                }
            }
        }
    }
    (None, sort_diagnostics(problems))
}

/// Records a problem and skips the node that caused it. Returns false if that is the root: then nothing more can be
/// read.
fn skip_and_record(
    fault: YamlReadError,
    root: &YamlNode,
    gone: &mut SkippedNodes,
    problems: &mut Vec<Diagnostic>,
) -> bool {
    let (span, id) = fault.location.unwrap_or((root.span, std::ptr::from_ref(root)));
    let lost = fault.fault.missing_field().is_some_and(|field| is_field_skipped(root, id, field, gone));
    // Record the first problem even if it follows from another one, so that a failure never comes without a diagnostic.
    if problems.is_empty() || !(lost || fault.follow_up) {
        let problem = Diagnostic::new(codes::DEFINITION_INVALID, span, fault.message).with_hint(fault.hint);
        problems.push(Diagnostic { fault: fault.fault.clone(), ..problem });
    }
    match fault.fault.missing_field() {
        Some(field) if !gone.placeholder_fields.get(&id).is_some_and(|fields| fields.contains(&field)) => {
            gone.placeholder_fields.entry(id).or_default().push(field);
            true
        }
        _ => !std::ptr::eq(id, root) && gone.nodes.insert(id),
    }
}

/// True if `field` of the map `id` is present but skipped, maybe under a misspelled name.
fn is_field_skipped(root: &YamlNode, id: NodePtr, field: &str, gone: &SkippedNodes) -> bool {
    let Some(YamlValue::Map(entries)) = node_by_ptr(root, id).map(|map| &map.value) else { return false };
    let mut left_out = entries.iter().filter(|(_, node)| gone.nodes.contains(&std::ptr::from_ref(node)));
    left_out.any(|(key, _)| suggest::closest_name(&key.text, [field]).is_some())
}

fn node_by_ptr(node: &YamlNode, id: NodePtr) -> Option<&YamlNode> {
    if std::ptr::eq(node, id) {
        return Some(node);
    }
    match &node.value {
        YamlValue::Seq(items) => items.iter().find_map(|item| node_by_ptr(item, id)),
        YamlValue::Map(entries) => entries.iter().find_map(|(_, item)| node_by_ptr(item, id)),
        _ => None,
    }
}

/// Sorts diagnostics by position and removes duplicates.
pub fn sort_diagnostics(mut problems: Vec<Diagnostic>) -> Vec<Diagnostic> {
    problems.sort_by_key(|problem| (problem.span.line, problem.span.col));
    let mut seen = HashSet::new();
    problems.retain(|problem| seen.insert((problem.span.line, problem.span.col, problem.message.clone())));
    problems
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::parse;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        text: String,
        number: i64,
        #[serde(default)]
        maybe: Option<bool>,
        #[serde(default)]
        list: Vec<Inner>,
        #[serde(default)]
        map: BTreeMap<String, Choice>,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        a: u32,
        b: f64,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Choice {
        Plain,
        With { value: i32 },
        Of(String),
    }

    fn faults(text: &str) -> Vec<String> {
        let problems = read::<Sample>(&parse(text).expect("valid YAML")).expect_err("not a sample");
        problems
            .iter()
            .map(|problem| format!("{}:{} {}", problem.span.line, problem.span.col, problem.message))
            .collect()
    }

    #[test]
    fn every_problem_is_reported_once() {
        let text = "text: [1]\nnumbr: 1\nlist:\n  - { a: x }\n  - { a: -1, b: 1, c: 2 }\nmap: { k: plan, l: { with: { value: z } } }\n";
        insta::assert_snapshot!(faults(text).join("\n"), @r"
        1:7 expected text, found a list
        2:1 unknown field `numbr`
        4:5 missing field `b`
        4:10 expected a whole number from 0 on, found the text `x`
        5:10 expected a whole number from 0 on, found the number -1
        5:20 unknown field `c`
        6:11 unknown value `plan`
        6:37 expected a whole number, found the text `z`
        ");
    }

    #[test]
    fn numbers_and_booleans_read_as_text_keep_their_source_text() {
        let sample: Sample =
            read(&parse("{ text: 1.10, number: 1, map: { a: { of: true } } }").expect("valid")).expect("read");
        assert_eq!((sample.text.as_str(), &sample.map["a"]), ("1.10", &Choice::Of("true".into())));
    }

    #[test]
    fn numbers_keep_every_digit() {
        let yaml = "{ a: 123456789012345678.95, b: 18446744073709551615, c: 1.10, d: 99999999999999999999 }";
        let node = parse(yaml).expect("valid");
        let expected = serde_json::json!({
            "a": "123456789012345678.95", "b": u64::MAX, "c": 1.1, "d": "99999999999999999999",
        });
        assert_eq!(node.to_json(), expected);
        assert_eq!(read::<serde_json::Value>(&node).expect("read"), expected);
        assert_eq!(crate::read_resolved::<serde_json::Value>(&expected).expect("read"), expected);
        // A field of a number type takes the nearest number.
        let float = read::<f64>(&parse("99999999999999999999").expect("valid")).expect("a float");
        assert_eq!(float, 1e20);
    }

    #[test]
    fn all_missing_fields_are_reported() {
        assert_eq!(faults("{}"), ["1:1 missing field `text`", "1:1 missing field `number`"]);
    }

    proptest! {
        #[test]
        fn serialized_values_read_back_unchanged(
            text in "\\PC{0,20}", number: i64, maybe: Option<bool>, list in prop::collection::vec((any::<u32>(), -1e9..1e9), 0..4)
        ) {
            let list = list.into_iter().map(|(a, b)| Inner { a, b }).collect();
            let map = [("a".to_owned(), Choice::Plain), ("b".to_owned(), Choice::With { value: 3 })].into();
            let sample = Sample { text, number, maybe, list, map };
            let yaml = serde_json::to_string(&sample).expect("JSON");
            prop_assert_eq!(read::<Sample>(&parse(&yaml).expect("JSON is YAML")).expect("the same"), sample);
        }
    }
}
