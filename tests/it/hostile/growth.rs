//! Parsers and matchers that outside input reaches: their work grows with the input and no faster. They count their
//! steps (`afterload_core::work`), because time proves nothing on a shared machine. Crates test their private parsers
//! themselves.

use std::collections::BTreeMap;

use afterload_core::work::{assert_linear, measure_steps};
use afterload_pipeline::params::{Param, ParamType, bind_params};
use serde_json::{Value, json};

/// A parser or matcher, the text that is repeated, and what comes before and after the repetitions.
type Case = (&'static str, fn(&str), &'static [(&'static str, &'static str, &'static str)]);

const CASES: &[Case] = &[
    ("name", suggest_name, &[("", "x", ""), ("", "tiemout", "")]),
    ("choices", suggest_choice, &[("", "timeuot ", ""), ("", "x ", "")]),
    ("nul in JSON", find_nul, &[("", "\\", ""), ("", "\\u000", ""), ("", "\\\\u0000", ""), ("", "x", "")]),
];

fn suggest_name(text: &str) {
    drop(afterload_spanned_yaml::suggestion_hint(text, ["timeout"; 100]));
    // Names that are too long for a typing error take no work at all.
    afterload_core::work::count_steps(1);
}

fn suggest_choice(text: &str) {
    drop(afterload_spanned_yaml::suggestion_hint("timeout", text.split(' ')));
}

fn find_nul(text: &str) {
    drop(afterload_core::text::refuse_nul_in_json("a text", text.as_bytes()));
}

#[test]
fn hostile_input_takes_linear_work() {
    for (name, parse, shapes) in CASES {
        for (before, repeated, after) in *shapes {
            let shape = |count: usize| format!("{before}{}{after}", repeated.repeat(count));
            assert_linear(&format!("{name}: {before:?} {repeated:?} {after:?}"), shape, parse);
        }
    }
}

/// A list of texts with a pattern.
fn codes(max_items: usize) -> BTreeMap<String, Param> {
    let items = json!({ "type": "string", "pattern": "^(a|b|[0-9])+$" });
    let kind = json!({ "type": "list", "items": items, "max_items": max_items });
    let kind: ParamType = serde_json::from_value(kind).unwrap();
    BTreeMap::from([("codes".to_owned(), Param { description: None, kind, required: true, default: None })])
}

#[test]
fn binding_a_list_takes_linear_work() {
    let params = codes(usize::MAX);
    for item in ["ab12", "ab12-"] {
        let shape = |count: usize| json!({ "codes": vec![item; count] }).to_string();
        assert_linear(item, shape, |text| {
            let given: Value = serde_json::from_str(text).unwrap();
            drop(bind_params(&params, given.as_object().cloned().unwrap()));
        });
    }
}

#[test]
fn refused_list_is_not_matched() {
    let given = json!({ "codes": vec!["ab12"; 100_000] });
    let given = given.as_object().cloned().unwrap();
    let steps = measure_steps(|| assert!(bind_params(&codes(10_000), given).is_err()));
    assert_eq!(steps, 0, "a list that is too long is refused before its items are looked at");
}
