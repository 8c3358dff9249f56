//! The functions, tests and filters that calculate and compare exactly.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, State, filters};

use super::exact::{
    calculate_chain, calculate_exactly, classify_number, compare_chain, compare_exactly, operation_error, parse_number,
};
use super::rewrite::{ARITHMETIC_FUNCTION, COMPARE_FUNCTION};
use afterload_core::decimal::is_decimal_text;

/// The tests that compare, with their operators.
const COMPARING_TESTS: [(&str, &[&str]); 6] = [
    ("==", &["eq", "equalto", "=="]),
    ("!=", &["ne", "!="]),
    ("<", &["lt", "lessthan", "<"]),
    ("<=", &["le", "<="]),
    (">", &["gt", "greaterthan", ">"]),
    (">=", &["ge", ">="]),
];

/// Adds what a rewritten expression calls, and replaces the filters and tests that compare or add.
pub fn add_exact_numbers(language: &mut Environment<'static>) {
    language.add_function(ARITHMETIC_FUNCTION, |operands: Rest<Value>| calculate_chain(&operands));
    language.add_function(COMPARE_FUNCTION, |operands: Rest<Value>| compare_chain(&operands));
    for (operator, names) in COMPARING_TESTS {
        for name in names {
            language.add_test(*name, move |left: Value, right: Value| compare_exactly(&left, operator, &right));
        }
    }
    language.add_filter("sum", |values: Value, attribute: Option<String>, start: Option<Value>, kwargs: Kwargs| {
        sum_values(&values, attribute, start, &kwargs)
    });
    language.add_filter("sort", sort_filter);
    language.add_filter("min", min_filter);
    language.add_filter("max", max_filter);
}

fn read_attribute(item: &Value, attribute: Option<&str>) -> Result<Value, Error> {
    let Some(path) = attribute else { return Ok(item.clone()) };
    path.split('.').try_fold(item.clone(), |found, name| match found.is_undefined() {
        true => Ok(found),
        false => found.get_attr(name),
    })
}

/// The filter `sum`.
fn sum_values(
    values: &Value,
    attribute: Option<String>,
    start: Option<Value>,
    kwargs: &Kwargs,
) -> Result<Value, Error> {
    let attribute = attribute.map_or_else(|| kwargs.get::<Option<String>>("attribute"), |path| Ok(Some(path)))?;
    let start = start.map_or_else(|| kwargs.get::<Option<Value>>("start"), |start| Ok(Some(start)))?;
    kwargs.assert_all_used()?;
    let mut total = start.unwrap_or_else(|| Value::from(0));
    for item in values.try_iter()? {
        let item = read_attribute(&item, attribute.as_deref())?;
        if !item.is_undefined() {
            total = calculate_exactly(&total, "+", &item)?;
        }
    }
    Ok(total)
}

/// The filter `sort`.
fn sort_filter(state: &State<'_, '_>, value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let decimals = sort_decimals(&value, kwargs.get("attribute")?)?;
    let Some(mut sorted) = decimals else {
        return filters::sort(state, value, kwargs);
    };
    if kwargs.get::<Option<bool>>("reverse")?.unwrap_or_default() {
        sorted.reverse();
    }
    Ok(Value::from(sorted))
}

/// The filter `min`.
fn min_filter(state: &State<'_, '_>, value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let decimals = sort_decimals(&value, kwargs.get("attribute")?)?;
    match decimals {
        Some(sorted) => Ok(sorted.into_iter().next().unwrap_or_default()),
        None => filters::min(state, value, kwargs),
    }
}

/// The filter `max`.
fn max_filter(state: &State<'_, '_>, value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let decimals = sort_decimals(&value, kwargs.get("attribute")?)?;
    match decimals {
        Some(sorted) => Ok(sorted.into_iter().next_back().unwrap_or_default()),
        None => filters::max(state, value, kwargs),
    }
}

/// Sorts items by number if one of them is a decimal; `None` if none is.
fn sort_decimals(value: &Value, attribute: Option<&str>) -> Result<Option<Vec<Value>>, Error> {
    if matches!(value.kind(), ValueKind::String | ValueKind::Undefined) {
        return Ok(None);
    }
    let parts: Vec<Option<&str>> = match attribute {
        None => vec![None],
        Some(paths) => paths.split(',').map(|path| Some(path.trim())).collect(),
    };
    let items: Vec<Value> = value.try_iter()?.collect();
    let is_decimal = |value: &Value| value.as_str().is_some_and(is_decimal_text);
    let mut has_decimal = false;
    for (item, part) in items.iter().flat_map(|item| parts.iter().map(move |part| (item, part))) {
        has_decimal |= is_decimal(&read_attribute(item, *part)?);
    }
    if !has_decimal {
        return Ok(None);
    }
    let [part] = parts[..] else {
        return Err(operation_error("decimals cannot be sorted by several attributes; sort the rows in SQL"));
    };
    let mut keyed = Vec::with_capacity(items.len());
    for item in items {
        let Some((_, text)) = classify_number(&read_attribute(&item, part)?) else {
            return Err(operation_error("decimals cannot be sorted among other values; sort the rows in SQL"));
        };
        keyed.push((parse_number(&text)?, item));
    }
    keyed.sort_by(|left, right| left.0.cmp(&right.0));
    Ok(Some(keyed.into_iter().map(|(_, item)| item).collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::super::{ExprContext, evaluate_expression};

    fn evaluate(expression: &str) -> afterload_core::error::Result<Json> {
        let params = json!({
            "price": "19.90", "tenth": 0.1, "long": "123456789012345678.90", "odd": 9_007_199_254_740_993_i64,
            "most": u64::MAX, "least": i64::MIN, "nan": "NaN", "text": "abc", "none": null,
            "prices": ["100.00", "20.00", 3.5], "rows": [{ "p": "100.00" }, { "p": 9 }],
        });
        let scope = ExprContext::new().with_params(params.as_object().expect("a map"));
        evaluate_expression(&expression.replace('$', "params."), &scope)
    }

    #[test]
    fn numbers_are_calculated_and_compared_exactly() {
        for (expression, expected) in [
            ("$price + 0.1", json!("20.00")),
            ("$price * 2", json!("39.80")),
            ("$price - 19.90", json!("0.00")),
            ("0.1 + $price * 3", json!("59.80")),
            ("$long + 1", json!("123456789012345679.90")),
            ("$tenth + 0.2", json!(0.3)),
            ("1.5 + 1.5", json!(3.0)),
            ("$odd + 1", json!(9_007_199_254_740_994_i64)),
            ("$odd", json!(9_007_199_254_740_993_i64)),
            ("$most + 1", json!("18446744073709551616")),
            ("$least - 1", json!("-9223372036854775809")),
            ("1 / 3 * 3", json!(1.0)),
            ("10 - 4 - 3 * 2", json!(0)),
            ("7 // 2 + 7 % 4 + 2 ** 3", json!(14)),
            ("'a' + 'b' ~ 1", json!("ab1")),
            ("'5' + '6'", json!("56")),
            ("'ab' * 2", json!("abab")),
            ("[1] + [2]", json!([1, 2])),
            ("$price ~ ''", json!("19.90")),
            ("$prices | sum", json!("123.50")),
            ("$rows | sum(attribute='p')", json!("109.00")),
            ("[0.1, 0.2] | sum", json!(0.3)),
            ("$prices | max", json!("100.00")),
            ("$prices | min", json!(3.5)),
            ("$prices | sort(reverse=true)", json!(["100.00", "20.00", 3.5])),
            ("$rows | sort(attribute='p') | map(attribute='p') | list", json!([9, "100.00"])),
            ("['b', 'a'] | sort", json!(["a", "b"])),
            ("$prices | select('gt', 5) | list", json!(["100.00", "20.00"])),
        ] {
            assert_eq!(evaluate(expression).expect(expression), expected, "{expression}");
        }
        for expression in [
            "$price > 5",
            "$price < 100",
            "$price == 19.9",
            "$price == '19.900'",
            "$price != '19.9'",
            "'100.00' > '20.00'",
            "$price > '5'",
            "5 < $price < $long <= $long",
            "$long > 123456789012345678",
            "$long == 123456789012345678.90 and $long < 123456789012345678.95",
            "$odd != 9007199254740992",
            "$odd > 9007199254740992.0",
            "$most > $odd > $least",
            "20 in $prices and 19 not in $prices",
            "$price in [19.9]",
            "$price is gt 5 and $price is not lt(5)",
            "$nan == 'NaN' and $price != 'NaN'",
            "'1.1' != '1.10'",
            "$none == none and $text in ['abc'] and 'b' in $text",
        ] {
            assert_eq!(evaluate(expression).expect(expression), json!(true), "{expression}");
        }
    }

    #[test]
    fn long_chains_of_operators_are_calculated() {
        assert_eq!(evaluate(&format!("$price{}", " + 0.1".repeat(300))).expect("a chain"), json!("49.90"));
    }

    #[test]
    fn inexact_operation_on_a_decimal_is_refused() {
        for (expression, reason) in [
            ("$price / 2", "write `| float`"),
            ("$long % 2", "write `| float`"),
            ("$nan * 2", "`NaN` and `Infinity`"),
            ("$nan > 5", "`NaN` and `Infinity`"),
            ("$price > 'Infinity'", "`NaN` and `Infinity`"),
            ("$missing + 1", "is undefined"),
            ("['1.50', 'x'] | sort", "sort the rows in SQL"),
        ] {
            let error = evaluate(expression).expect_err(expression);
            assert!(error.message().contains(reason), "{expression}: {}", error.message());
        }
        assert_eq!(evaluate("$price | float / 2").expect("floats"), json!(9.95));
    }
}
