//! Finds calls of filters, tests and functions that do not exist.

use std::ops::Range;

use super::builtins::{BuiltinKind, builtin_names, is_builtin};
use afterload_spanned_yaml::closest_name;

/// Words before a `(` that call nothing.
const KEYWORDS: [&str; 6] = ["and", "or", "not", "in", "if", "else"];
/// Filters that take the name of a filter or of a test as an argument: its kind and its position.
const NAMING_FILTERS: [(&str, BuiltinKind, usize); 5] = [
    ("map", BuiltinKind::Filter, 0),
    ("select", BuiltinKind::Test, 0),
    ("reject", BuiltinKind::Test, 0),
    ("selectattr", BuiltinKind::Test, 1),
    ("rejectattr", BuiltinKind::Test, 1),
];

/// A call of something that does not exist.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownCall {
    /// The byte range in the expression.
    pub range: Range<usize>,
    pub message: String,
    pub hint: String,
}

/// Returns all calls of unknown filters (after `|`), tests (after `is`) and functions (before `(`).
pub(super) fn find_unknown_calls(expression: &str) -> Vec<UnknownCall> {
    let tokens = split_tokens(expression);
    let named = (0..tokens.len()).filter_map(|at| Some((called_kind(&tokens, at)?, &tokens[at])));
    let direct = named.map(|(kind, (range, word))| (kind, range.clone(), *word));
    let indirect = (0..tokens.len()).filter_map(|at| find_named_argument(&tokens, at));
    let unknown = direct.chain(indirect).filter(|(kind, _, name)| !is_builtin(*kind, name));
    unknown
        .map(|(kind, range, name)| UnknownCall {
            range,
            message: format!("unknown {} `{name}`", kind.label()),
            hint: suggest_builtin(kind, name),
        })
        .collect()
}

/// Returns the names that are called as functions.
pub(super) fn called_functions(expression: &str) -> Vec<&str> {
    let tokens = split_tokens(expression);
    let functions = (0..tokens.len()).filter(|at| called_kind(&tokens, *at) == Some(BuiltinKind::Function));
    functions.map(|at| tokens[at].1).collect()
}

/// Names the closest one, and all that exist.
pub(super) fn suggest_builtin(kind: BuiltinKind, name: &str) -> String {
    let names = builtin_names(kind).map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
    let all = format!("the {}s are {names}", kind.label());
    match closest_name(name, builtin_names(kind)) {
        Some(meant) => format!("did you mean `{meant}`? {all}"),
        None => all,
    }
}

type Token<'a> = (Range<usize>, &'a str);

fn called_kind(tokens: &[Token<'_>], at: usize) -> Option<BuiltinKind> {
    let word_before = |count: usize| at.checked_sub(count).map_or("", |at| tokens[at].1);
    let word = tokens[at].1;
    if !is_identifier(word) {
        return None;
    }
    match (word_before(1), word_before(2)) {
        ("|", _) => Some(BuiltinKind::Filter),
        ("is", _) if word == "not" => None,
        ("is", _) | ("not", "is") => Some(BuiltinKind::Test),
        _ => {
            let is_call = tokens.get(at + 1).is_some_and(|(_, next)| *next == "(");
            (is_call && !word.contains('.') && !KEYWORDS.contains(&word)).then_some(BuiltinKind::Function)
        }
    }
}

/// Returns the name that a filter such as `map` gets as quoted text.
fn find_named_argument<'a>(tokens: &[Token<'a>], at: usize) -> Option<(BuiltinKind, Range<usize>, &'a str)> {
    if called_kind(tokens, at) != Some(BuiltinKind::Filter) || tokens.get(at + 1)?.1 != "(" {
        return None;
    }
    let (_, kind, position) = NAMING_FILTERS.into_iter().find(|(name, ..)| *name == tokens[at].1)?;
    // Each argument before it is one quoted text and a comma.
    let argument = at + 2 + 2 * position;
    if position > 0 && tokens.get(argument - 1)?.1 != "," {
        return None;
    }
    let (range, quoted) = tokens.get(argument)?;
    let name = ['\'', '"'].into_iter().find_map(|quote| quoted.strip_prefix(quote)?.strip_suffix(quote))?;
    Some((kind, range.clone(), name))
}

fn is_identifier(word: &str) -> bool {
    word.starts_with(|first: char| first.is_ascii_alphabetic() || first == '_')
}

/// Splits into words (including dots), quoted texts and single punctuation characters.
fn split_tokens(expression: &str) -> Vec<Token<'_>> {
    let bytes = expression.as_bytes();
    let part = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.');
    let (mut words, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let start = at;
        let byte = bytes[at];
        at += 1;
        if matches!(byte, b'"' | b'\'') {
            while at < bytes.len() && bytes[at] != byte {
                at += if bytes[at] == b'\\' { 2 } else { 1 };
            }
            at += 1;
        } else if part(byte) {
            while at < bytes.len() && part(bytes[at]) {
                at += 1;
            }
        } else if byte.is_ascii_whitespace() || !byte.is_ascii() {
            continue;
        }
        words.push((start..at.min(bytes.len()), expression.get(start..at).unwrap_or_default()));
    }
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(expression: &str) -> Vec<String> {
        find_unknown_calls(expression).into_iter().map(|call| call.message).collect()
    }

    #[test]
    fn every_kind_of_unknown_call_is_found() {
        for (expression, message) in [
            ("params.a | uper", "unknown filter `uper`"),
            ("params.a is emty", "unknown test `emty`"),
            ("params.a is not emty", "unknown test `emty`"),
            ("today() | format_time('%Y')", "unknown function `today`"),
            ("params.a | map('uper') | list", "unknown filter `uper`"),
            ("params.a | select(\"od\") | list", "unknown test `od`"),
            ("params.a | selectattr('x', 'od') | list", "unknown test `od`"),
        ] {
            assert_eq!(messages(expression), [message], "{expression}");
        }
        for expression in [
            "now()",
            "not (params.a or (params.b))",
            "1 in (params.a)",
            "params.a | map(attribute='x') | list",
            "params.a | selectattr('x') | join('|uper')",
            "'x | uper' if (params.a is not none) else (2)",
        ] {
            assert_eq!(messages(expression), [""; 0], "{expression}");
        }
    }

    #[test]
    fn hint_names_the_closest_and_all() {
        let found = find_unknown_calls("params.a | uper");
        assert!(found[0].hint.starts_with("did you mean `upper`? the filters are `abs`, "), "{}", found[0].hint);
        assert_eq!(suggest_builtin(BuiltinKind::Function, "something_else"), "the functions are `now`");
        assert_eq!(found[0].range, 11..15);
    }
}
