//! What expressions give, and how they fail.

use serde_json::json;

use super::*;
use afterload_core::clock::{Clock, parse_rfc3339};

fn scope() -> ExprContext {
    let params = json!({ "name": "Ada", "list": [1, 2], "none": null, "price": 1.5 });
    ExprContext::new()
        .with_params(params.as_object().expect("a map"))
        .with_run(&json!({ "id": "r1" }))
        .with_step("import", &json!({ "rows": 3 }), "succeeded", &Value::Null)
        .with_step("skipped", &Value::Null, "skipped", &Value::Null)
        .with_secrets(|name| (name == "KEY").then(|| "canary".to_owned()))
}

fn one(text: &str) -> Result<Value> {
    resolve(&json!({ "a": [text] }), &scope()).map(|value| value["a"][0].clone())
}

#[test]
fn sole_expression_keeps_its_type() {
    for (text, expected) in [
        ("${{ params.list }}", json!([1, 2])),
        (" ${{ steps.import.rows + 1 }} ", json!(4)),
        ("${{ params.none }}", json!(null)),
        ("${{ steps.skipped.anything }}", json!(null)),
        ("${{ steps.skipped.state }}", json!("skipped")),
        ("${{ {'a': {'b': params.name}} }}", json!({ "a": { "b": "Ada" } })),
        (
            "Hi ${{ params.name | upper }}: ${{ steps.import.rows }} ${{ params.list }} ${{ true }}",
            json!("Hi ADA: 3 [1,2] true"),
        ),
        ("${{ params.price }} ${{ '}}' }}", json!("1.5 }}")),
        ("${{ params.missing | default('x') }}", json!("x")),
        ("${{ params.none | default('x') }}", json!("x")),
        ("${{ params.none | d('x') ~ 'y' }}", json!("xy")),
        ("${{ params.none | default }}", json!("")),
        ("${{ '' | default('x') }}", json!("")),
        ("${{ 0 | default('x', true) }}", json!("x")),
        ("${{ steps.skipped.anything | default(2) }}", json!(2)),
        ("${{ params.none or 'x' }}", json!("x")),
        ("${{ 'https://a.example/' | safe_url }}", json!("https://a.example/")),
        ("${{ ('https://a.example' | safe_url) ~ '/x' }}", json!("https://a.example/x")),
        ("${{ secrets.KEY }}", json!("canary")),
        ("$ {{ x }}", json!("$ {{ x }}")),
    ] {
        assert_eq!(one(text).expect(text), expected, "{text}");
    }
}

#[test]
fn unresolvable_expression_fails_and_is_named() {
    for text in [
        "${{ params.missing }}",
        "${{ params.missing.more }}",
        "x ${{ params.none }}",
        "${{ steps.nobody.rows }}",
        "${{ 1 / 0 }}",
        "${{ 'x' * 100000000 }}",
        "${{ secrets.OTHER }}",
    ] {
        let error = one(text).expect_err(text);
        assert_eq!(error.code(), codes::EXPRESSION_FAILED);
        let inner = text.trim_start_matches("x ").trim_start_matches("${{ ").trim_end_matches(" }}");
        assert!(error.message().contains(inner), "{}", error.message());
    }
}

#[test]
fn expression_errors_never_show_a_secret() {
    for text in [
        "${{ secrets.KEY | int }}",
        "${{ secrets.KEY.more.more }}",
        "${{ secrets.KEY + 1 }}",
        "${{ (secrets.KEY ~ 'x') | abs }}",
    ] {
        let error = one(text).expect_err(text);
        assert!(!format!("{error} {error:?}").contains("canary"), "{error}");
    }
}

#[test]
fn every_builtin_is_registered_and_its_example_is_true() {
    let (clock, _) = Clock::manual(parse_rfc3339("2026-03-01T12:00:00Z").expect("a time"));
    let scope = ExprContext::new().with_params(&serde_json::Map::new()).with_clock(&clock);
    let mut wrong = Vec::new();
    for builtin in BUILTINS {
        let expected: Value = serde_json::from_str(builtin.result).expect(builtin.name);
        match evaluate_expression(builtin.example, &scope) {
            Ok(result) if result == expected => {}
            other => wrong.push((builtin.example, other)),
        }
        assert!(builtin.example.contains(builtin.name), "{}", builtin.example);
        assert!(find_unknown_calls(builtin.example).is_empty(), "{}", builtin.example);
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}

#[test]
fn unknown_calls_name_the_closest_and_all() {
    for (text, message, hint) in [
        ("${{ params.name | uper }}", "unknown filter `uper`", "did you mean `upper`? the filters are `abs`, "),
        ("${{ params.name is nome }}", "unknown test `nome`", "did you mean `none`? the tests are `boolean`, "),
        ("${{ today() }}", "unknown function `today`", "the functions are `now`"),
        ("${{ params.list | map(params.name) | list }}", "an unknown filter", "the filters are `abs`, "),
        ("${{ params.name | safe }}", "unknown filter `safe`", "the filters are "),
    ] {
        let error = one(text).expect_err(text);
        let told = error.hint_text().unwrap_or_default();
        assert!(error.message().contains(message) && told.contains(hint), "{error}: {told}");
    }
}

#[test]
fn urls_keep_their_structure() {
    let params = json!({ "id": "../../admin", "dots": "..", "whole": "https://a.example/../x?y=1", "n": 7 });
    let scope = ExprContext::new().with_params(params.as_object().expect("a map"));
    for (text, expected) in [
        ("https://b.example/u/${{ params.id }}/${{ params.n }}", "https://b.example/u/..%2F..%2Fadmin/7"),
        ("https://b.example/u?q=${{ params.whole }}", "https://b.example/u?q=https%3A%2F%2Fa.example%2F..%2Fx%3Fy%3D1"),
        (" ${{ params.whole }} ", "https://a.example/../x?y=1"),
        ("${{ params.whole | safe_url }}&z=${{ params.id }}", "https://a.example/../x?y=1&z=..%2F..%2Fadmin"),
        ("https://b.example/u/${{ params.id | safe_url }}", "https://b.example/u/../../admin"),
        ("https://b.example/u", "https://b.example/u"),
    ] {
        assert_eq!(resolve_url(text, &scope).expect(text), expected);
        check_url_template(text).expect(text);
    }
    for text in ["${{ params.whole }}/x", "https://${{ params.id }}.example/"] {
        assert_eq!(resolve_url(text, &scope).expect_err(text).code(), codes::EXPRESSION_FAILED);
        let error = check_url_template(text).expect_err(text);
        assert!(error.hint_text().is_some_and(|hint| hint.contains("safe_url")), "{error}");
    }
    let error = resolve_url("https://b.example/u/${{ params.dots }}/x", &scope).expect_err("another path");
    assert!(error.message().contains("`params.dots`"), "{error}");

    let with = json!({ "url": "https://b.example/${{ params.id }}", "deep": { "url": "x${{ params.id }}" } });
    let found = resolve_except(&with, &scope, &[], &[EncodedField::url(&["url"])]).expect("resolved");
    let expected = json!({ "url": "https://b.example/..%2F..%2Fadmin", "deep": { "url": "x../../admin" } });
    assert_eq!(found, expected);
    assert_eq!(
        resolve_except(&with, &scope, &[], &[EncodedField::url(&["deep", "url"])]).expect_err("no host").code(),
        codes::EXPRESSION_FAILED
    );
}

#[test]
fn values_in_html_are_escaped_unless_marked() {
    let evil = "\"><script>x</script>&'";
    let params = json!({ "evil": evil, "n": 7, "none": null, "bold": "<b>b</b>" });
    let scope = ExprContext::new().with_params(params.as_object().expect("a map"));
    let escaped = "&quot;&gt;&lt;script&gt;x&lt;&#x2f;script&gt;&amp;&#x27;";
    for (text, expected) in [
        ("<p title=\"${{ params.evil }}\">${{ params.n }}</p>", format!("<p title=\"{escaped}\">7</p>")),
        ("${{ params.evil }}", escaped.to_owned()),
        (" ${{ params.bold | safe_html }}${{ params.bold }}", " <b>b</b>&lt;b&gt;b&lt;&#x2f;b&gt;".to_owned()),
        ("${{ (params.bold | safe_html) ~ params.bold }}", "&lt;b&gt;b&lt;&#x2f;b&gt;".repeat(2)),
        ("${{ params.bold | safe_url }}", "&lt;b&gt;b&lt;&#x2f;b&gt;".to_owned()),
        ("<i>&amp;</i>", "<i>&amp;</i>".to_owned()),
    ] {
        assert_eq!(resolve_html(text, &scope).expect(text), expected, "{text}");
        let with = json!({ "html": text, "body": text });
        let found = resolve_except(&with, &scope, &[], &[EncodedField::html(&["html"])]).expect("resolved");
        assert_eq!(found["html"], expected, "{text}");
    }
    let with = json!({ "html": "${{ params.evil }}", "body": "${{ params.evil }}" });
    let found = resolve_except(&with, &scope, &[], &[EncodedField::html(&["html"])]).expect("resolved");
    assert_eq!(found, json!({ "html": escaped, "body": evil }));
    for text in ["<p>${{ params.none }}</p>", "${{ params.n | safe_html }}", "<p>${{ params.missing }}</p>"] {
        assert_eq!(resolve_html(text, &scope).expect_err(text).code(), codes::EXPRESSION_FAILED, "{text}");
    }
    assert_eq!(fill_html_template("<p>${{ params.n }}</p>", "?"), ("<p>?</p>".to_owned(), false));
    assert_eq!(fill_html_template("${{ params.n | safe_html }}", ""), (String::new(), true));
}

#[test]
fn condition_must_be_a_boolean() {
    for (text, expected) in [("steps.import.rows > 2", true), ("${{ params.name == 'Bob' }}", false), ("false", false)]
    {
        assert_eq!(Condition::new(text).is_met(&scope()).expect(text), expected, "{text}");
    }
    let error = Condition::new("params.name").is_met(&scope()).expect_err("text");
    assert_eq!(error.message(), "the expression `params.name` failed: `if` must give true or false, but it gives text");
}
