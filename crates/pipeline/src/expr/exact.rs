//! Arithmetic and comparisons that change no digit of a whole number or a decimal.
//!
//! A decimal that JSON cannot hold as a number is text, such as `19.90`. Here such text counts as a number.

use std::cmp::Ordering;
use std::sync::LazyLock;

use bigdecimal::BigDecimal;
use minijinja::value::{Serde, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use afterload_core::decimal::{FLOAT_DIGITS, decimal_to_json, is_decimal_text, is_non_finite_text, is_number_text};

/// Bounds the work of one operation. The numbers of databases are far shorter.
const MAX_NUMBER_LENGTH: usize = 2_000;

/// What a value means as a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NumberKind {
    /// Text as outputs hold a decimal.
    Decimal,
    /// Other text that reads as a number, such as `5`. It counts as one only beside a decimal.
    Text,
    Integer,
    Float,
}

pub(super) fn classify_number(value: &Value) -> Option<(NumberKind, String)> {
    if let Some(text) = value.as_str() {
        let kind = if is_decimal_text(text) { NumberKind::Decimal } else { NumberKind::Text };
        return is_number_text(text).then(|| (kind, text.to_owned()));
    }
    if !value.is_number() {
        return None;
    }
    if value.is_integer() {
        return Some((NumberKind::Integer, value.to_string()));
    }
    let float = f64::try_from(value.clone()).ok().filter(|float| float.is_finite())?;
    Some((NumberKind::Float, float.to_string()))
}

pub(super) fn parse_number(text: &str) -> Result<BigDecimal, Error> {
    if text.len() > MAX_NUMBER_LENGTH {
        return Err(operation_error(format!("a number has more than {MAX_NUMBER_LENGTH} digits")));
    }
    text.parse().map_err(|_| operation_error("a number cannot be read"))
}

pub(super) fn operation_error(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// Refuses what would silently be text: `"NaN" * 2` is not `NaNNaN`.
fn check_finite(left: &Value, right: &Value) -> Result<(), Error> {
    let is_non_finite = |value: &Value| value.as_str().is_some_and(is_non_finite_text);
    let is_number = |value: &Value| classify_number(value).is_some_and(|(kind, _)| kind != NumberKind::Text);
    if (is_non_finite(left) && is_number(right)) || (is_number(left) && is_non_finite(right)) {
        return Err(operation_error("`NaN` and `Infinity` cannot be calculated with or ordered; ask with `==` first"));
    }
    Ok(())
}

fn check_defined(left: &Value, right: &Value) -> Result<(), Error> {
    for value in [left, right] {
        if value.is_undefined() {
            // This error knows where the value comes from. One of our own would not.
            value.get_attr("")?;
        }
    }
    Ok(())
}

/// Calculates `operands`, a value, an operator, a value, and so on, from left to right.
pub(super) fn calculate_chain(operands: &[Value]) -> Result<Value, Error> {
    let (first, steps) = operands.split_first().ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    steps.chunks_exact(2).try_fold(first.clone(), |total, step| {
        calculate_exactly(&total, step[0].as_str().unwrap_or_default(), &step[1])
    })
}

/// Calculates `left operator right`.
pub(super) fn calculate_exactly(left: &Value, operator: &str, right: &Value) -> Result<Value, Error> {
    check_defined(left, right)?;
    check_finite(left, right)?;
    let (Some((left_kind, left_text)), Some((right_kind, right_text))) =
        (classify_number(left), classify_number(right))
    else {
        return apply_native(left, operator, right);
    };
    let kinds = [left_kind, right_kind];
    let has_decimal = kinds.contains(&NumberKind::Decimal);
    let is_exact = matches!(operator, "+" | "-" | "*");
    match is_exact {
        false if has_decimal => {
            let advice = format!("write `| float` after it to calculate with about {FLOAT_DIGITS} digits");
            return Err(operation_error(format!("`{operator}` of a decimal is not exact; {advice}")));
        }
        true if has_decimal || !kinds.contains(&NumberKind::Text) => {}
        _ => return apply_native(left, operator, right),
    }
    let (first, second) = (parse_number(&left_text)?, parse_number(&right_text)?);
    // A float with more digits is a rounded result already, such as that of a division.
    let is_rounded = |kind, number: &BigDecimal| kind == NumberKind::Float && has_many_digits(number);
    if !has_decimal && (is_rounded(left_kind, &first) || is_rounded(right_kind, &second)) {
        return apply_native(left, operator, right);
    }
    let result = match operator {
        "+" => first + second,
        // A difference from zero would lose the trailing zeros.
        "-" => first + -second,
        _ => first * second,
    };
    Ok(number_to_value(&result, kinds))
}

fn has_many_digits(number: &BigDecimal) -> bool {
    number.normalized().digits() > FLOAT_DIGITS as u64
}

/// The result of decimals keeps its trailing zeros. That of floats has none, and stays a float if that is exact.
fn number_to_value(number: &BigDecimal, kinds: [NumberKind; 2]) -> Value {
    let plain = number.to_plain_string();
    if kinds == [NumberKind::Integer; 2] {
        let integer = plain.parse::<i64>().map(Value::from).or_else(|_| plain.parse::<u64>().map(Value::from));
        return integer.unwrap_or_else(|_| Value::from(plain));
    }
    if kinds.contains(&NumberKind::Decimal) {
        return Value::from(Serde(decimal_to_json(&plain)));
    }
    match plain.parse::<f64>() {
        Ok(float) if float.is_finite() && !has_many_digits(number) => Value::from(float),
        _ => Value::from(number.normalized().to_plain_string()),
    }
}

/// Compares `operands`: a value, an operator, a value, and so on.
pub(super) fn compare_chain(operands: &[Value]) -> Result<bool, Error> {
    for step in operands.windows(3).step_by(2) {
        if !compare_exactly(&step[0], step[1].as_str().unwrap_or_default(), &step[2])? {
            return Ok(false);
        }
    }
    Ok(true)
}

pub(super) fn compare_exactly(left: &Value, operator: &str, right: &Value) -> Result<bool, Error> {
    if operator == "in" || operator == "not in" {
        return Ok(is_in(left, right)? == (operator == "in"));
    }
    check_defined(left, right)?;
    let is_equality = matches!(operator, "==" | "!=");
    if !is_equality {
        check_finite(left, right)?;
    }
    let Some(order) = compare_decimals(left, right, is_equality)? else {
        return Ok(apply_native(left, operator, right)?.is_true());
    };
    Ok(match operator {
        "==" => order == Ordering::Equal,
        "!=" => order != Ordering::Equal,
        "<" => order == Ordering::Less,
        "<=" => order != Ordering::Greater,
        ">" => order == Ordering::Greater,
        _ => order != Ordering::Less,
    })
}

/// Compares two numbers if one of them is a decimal. For equality, other text stays text: `"1.10"` is not `"1.1"`.
fn compare_decimals(left: &Value, right: &Value, is_equality: bool) -> Result<Option<Ordering>, Error> {
    let (Some((left_kind, left_text)), Some((right_kind, right_text))) =
        (classify_number(left), classify_number(right))
    else {
        return Ok(None);
    };
    let kinds = [left_kind, right_kind];
    if !kinds.contains(&NumberKind::Decimal) || (is_equality && kinds.contains(&NumberKind::Text)) {
        return Ok(None);
    }
    Ok(Some(parse_number(&left_text)?.cmp(&parse_number(&right_text)?)))
}

fn is_in(value: &Value, container: &Value) -> Result<bool, Error> {
    if container.kind() != ValueKind::Seq || classify_number(value).is_none() {
        return Ok(apply_native(value, "in", container)?.is_true());
    }
    for item in container.try_iter()? {
        if !item.is_undefined() && compare_exactly(value, "==", &item)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Applies the operator of minijinja itself.
fn apply_native(left: &Value, operator: &str, right: &Value) -> Result<Value, Error> {
    static NATIVE_ENV: LazyLock<Environment<'static>> = LazyLock::new(super::new_environment);
    let expression = format!("left {operator} right");
    let compiled = NATIVE_ENV.compile_expression(&expression)?;
    compiled.eval(minijinja::context! { left, right })
}
