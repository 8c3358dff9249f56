//! The filters, tests and functions of the expression language.

use minijinja::value::Rest;
use minijinja::{Environment, Error, ErrorKind, Value};

use super::dates;
use super::safe_text::{SAFE_HTML_FILTER, SAFE_URL_FILTER, mark_safe_html, mark_safe_url};

/// What a name calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BuiltinKind {
    /// Called as `now()`.
    Function,
    /// Called as `value | upper`.
    Filter,
    /// Called as `value is none`.
    Test,
}

impl BuiltinKind {
    /// The word for it.
    pub fn label(self) -> &'static str {
        match self {
            Self::Function => "function",
            Self::Filter => "filter",
            Self::Test => "test",
        }
    }
}

/// A filter, test or function.
#[derive(Clone, Copy, Debug)]
pub struct Builtin {
    /// What it is.
    pub kind: BuiltinKind,
    /// Its name.
    pub name: &'static str,
    /// An expression that uses it.
    pub example: &'static str,
    /// The value of the example, as JSON.
    pub result: &'static str,
}

const fn function(name: &'static str, example: &'static str, result: &'static str) -> Builtin {
    Builtin { kind: BuiltinKind::Function, name, example, result }
}

const fn filter(name: &'static str, example: &'static str, result: &'static str) -> Builtin {
    Builtin { kind: BuiltinKind::Filter, name, example, result }
}

const fn test(name: &'static str, example: &'static str, result: &'static str) -> Builtin {
    Builtin { kind: BuiltinKind::Test, name, example, result }
}

/// The name of the function that gives the current time.
pub(super) const NOW_FUNCTION: &str = "now";

/// All filters, tests and functions. A name that is missing here cannot be used.
pub const BUILTINS: &[Builtin] = &[
    function("now", "now()", r#""2026-03-01T12:00:00.000Z""#),
    filter("abs", "(0 - 3) | abs", "3"),
    filter("add_months", "'2026-01-31' | add_months(1)", r#""2026-02-28T00:00:00Z""#),
    filter("add_time", "'2026-03-01T12:00:00Z' | add_time('-36h')", r#""2026-02-28T00:00:00Z""#),
    filter("attr", "{'a': 1} | attr('a')", "1"),
    filter("batch", "[1, 2, 3] | batch(2) | list", "[[1,2],[3]]"),
    filter("bool", "1 | bool", "true"),
    filter("capitalize", "'ada' | capitalize", r#""Ada""#),
    filter("chain", "[1] | chain([2]) | list", "[1,2]"),
    filter("count", "[1, 2] | count", "2"),
    filter("d", "none | d('a')", r#""a""#),
    filter("default", "none | default('a')", r#""a""#),
    filter("dictsort", "{'b': 1, 'a': 2} | dictsort", r#"[["a",2],["b",1]]"#),
    filter("first", "[1, 2] | first", "1"),
    filter("float", "'1.5' | float", "1.5"),
    filter(
        "format_time",
        "'2026-03-01T12:00:00Z' | format_time('%d.%m.%Y %H:%M', 'Europe/Paris')",
        r#""01.03.2026 13:00""#,
    ),
    filter("groupby", "[{'a': 1}, {'a': 2}] | groupby('a') | length", "2"),
    filter("in_zone", "'2026-03-01T12:00:00Z' | in_zone('Europe/Paris')", r#""2026-03-01T13:00:00+01:00""#),
    filter("indent", r#"'a\nb' | indent(2)"#, r#""a\n  b""#),
    filter("int", "'3' | int", "3"),
    filter("items", "{'a': 1} | items | list", r#"[["a",1]]"#),
    filter("join", "['a', 'b'] | join('-')", r#""a-b""#),
    filter("last", "[1, 2] | last", "2"),
    filter("length", "'abc' | length", "3"),
    filter("lines", r#"'a\nb' | lines"#, r#"["a","b"]"#),
    filter("list", "'ab' | list", r#"["a","b"]"#),
    filter("lower", "'Ada' | lower", r#""ada""#),
    filter("map", "[{'a': 1}] | map(attribute='a') | list", "[1]"),
    filter("max", "[1, 3, 2] | max", "3"),
    filter("min", "[2, 1, 3] | min", "1"),
    filter("parse_time", "'01.07.2026' | parse_time('%d.%m.%Y', 'Europe/Paris')", r#""2026-07-01T00:00:00+02:00""#),
    filter("reject", "[1, 2, 3] | reject('odd') | list", "[2]"),
    filter("rejectattr", "[{'on': true}, {'on': false}] | rejectattr('on') | list", r#"[{"on":false}]"#),
    filter("replace", "'a-b' | replace('-', '+')", r#""a+b""#),
    filter("reverse", "[1, 2] | reverse | list", "[2,1]"),
    filter("round", "1.26 | round(1)", "1.3"),
    filter("safe_html", "'<b>' | safe_html", r#""<b>""#),
    filter("safe_url", "'https://a.example' | safe_url", r#""https://a.example""#),
    filter("select", "[1, 2, 3] | select('odd') | list", "[1,3]"),
    filter("selectattr", "[{'on': true}, {'on': false}] | selectattr('on') | list", r#"[{"on":true}]"#),
    filter("slice", "[1, 2, 3, 4] | slice(2) | list", "[[1,2],[3,4]]"),
    filter("sort", "[2, 1] | sort", "[1,2]"),
    filter("split", "'a,b' | split(',') | list", r#"["a","b"]"#),
    filter("start_of", "'2026-07-15T12:00:00Z' | start_of('month', 'Europe/Paris')", r#""2026-07-01T00:00:00+02:00""#),
    filter("string", "3 | string", r#""3""#),
    filter("sum", "[1, 2] | sum", "3"),
    filter("title", "'ada lovelace' | title", r#""Ada Lovelace""#),
    filter("tojson", "{'a': 1} | tojson", r#""{\"a\": 1}""#),
    filter("trim", "' a ' | trim", r#""a""#),
    filter("unique", "[1, 1, 2] | unique | list", "[1,2]"),
    filter("upper", "'Ada' | upper", r#""ADA""#),
    filter("zip", "[1] | zip(['a']) | list", r#"[[1,"a"]]"#),
    test("boolean", "true is boolean", "true"),
    test("defined", "params.missing is defined", "false"),
    test("divisibleby", "4 is divisibleby(2)", "true"),
    test("endingwith", "'abc' is endingwith('c')", "true"),
    test("eq", "1 is eq(1)", "true"),
    test("equalto", "1 is equalto(1)", "true"),
    test("even", "2 is even", "true"),
    test("false", "false is false", "true"),
    test("float", "1.5 is float", "true"),
    test("ge", "1 is ge(2)", "false"),
    test("greaterthan", "2 is greaterthan(1)", "true"),
    test("gt", "2 is gt(1)", "true"),
    test("in", "1 is in([1, 2])", "true"),
    test("int", "1 is int", "true"),
    test("integer", "1.5 is integer", "false"),
    test("iterable", "[1] is iterable", "true"),
    test("le", "1 is le(1)", "true"),
    test("lessthan", "1 is lessthan(2)", "true"),
    test("lower", "'ada' is lower", "true"),
    test("lt", "1 is lt(1)", "false"),
    test("mapping", "{'a': 1} is mapping", "true"),
    test("ne", "1 is ne(2)", "true"),
    test("none", "none is none", "true"),
    test("number", "'1' is number", "false"),
    test("odd", "2 is odd", "false"),
    test("sameas", "1 is sameas(1)", "true"),
    test("sequence", "[1] is sequence", "true"),
    test("startingwith", "'abc' is startingwith('a')", "true"),
    test("string", "'a' is string", "true"),
    test("true", "true is true", "true"),
    test("undefined", "params.missing is undefined", "true"),
    test("upper", "'ADA' is upper", "true"),
];

/// Parts of minijinja that are not of this language: they are about the HTML of templates, or show values as Rust does.
const REMOVED_FILTERS: [&str; 5] = ["e", "escape", "format", "pprint", "safe"];
const REMOVED_TESTS: [&str; 4] = ["escaped", "filter", "safe", "test"];

/// True if this name exists.
pub(super) fn is_builtin(kind: BuiltinKind, name: &str) -> bool {
    builtin_names(kind).any(|known| known == name)
}

/// The names of one kind, sorted.
pub(super) fn builtin_names(kind: BuiltinKind) -> impl Iterator<Item = &'static str> + Clone {
    BUILTINS.iter().filter(move |builtin| builtin.kind == kind).map(|builtin| builtin.name)
}

/// Makes the environment that of this language. The function `now` belongs to the context, which has a clock.
pub(super) fn register_builtins(language: &mut Environment<'_>) {
    let functions: Vec<String> = language.globals().map(|(name, _)| name.to_owned()).collect();
    functions.iter().for_each(|name| language.remove_global(name));
    REMOVED_FILTERS.iter().for_each(|name| language.remove_filter(name));
    REMOVED_TESTS.iter().for_each(|name| language.remove_test(name));
    language.add_filter("default", replace_missing);
    language.add_filter("d", replace_missing);
    language.add_filter(SAFE_URL_FILTER, mark_safe_url);
    language.add_filter(SAFE_HTML_FILTER, mark_safe_html);
    language.add_filter("parse_time", dates::parse_time);
    language.add_filter("format_time", dates::format_time);
    language.add_filter("in_zone", dates::convert_zone);
    language.add_filter("add_time", dates::add_time);
    language.add_filter("add_months", dates::add_months);
    language.add_filter("start_of", dates::find_start_of);
}

/// The filter `default`. A field that exists without a value is as good as a missing one.
fn replace_missing(value: &Value, args: Rest<Value>) -> Result<Value, Error> {
    if args.len() > 2 {
        return Err(Error::from(ErrorKind::TooManyArguments));
    }
    let mut args = args.0.into_iter();
    let (other, replaces_empty) = (args.next(), args.next().is_some_and(|lax| lax.is_true()));
    let is_missing = value.is_undefined() || value.is_none() || (replaces_empty && !value.is_true());
    Ok(if is_missing { other.unwrap_or_else(|| Value::from("")) } else { value.clone() })
}
