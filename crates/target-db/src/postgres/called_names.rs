//! The names in a statement that may call functions.
//!
//! PostgreSQL shows no parse tree, so every place counts where the grammar allows a call. Most of the names that stand
//! there are functions, keywords or types. The catalog says which.

use crate::read_only::Lexeme;

/// A name that may call a function.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct CalledName {
    pub(super) schema: Option<String>,
    pub(super) name: String,
    pub(super) syntax: CallSyntax,
}

/// How the call is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CallSyntax {
    /// `name(…)`.
    Call,
    /// `(…).name`, which calls a function of one argument if there is no such field.
    Field,
    /// `table.name`, which calls a function of a row if there is no such column.
    Column,
}

impl CallSyntax {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Call => "call",
            Self::Field => "field",
            Self::Column => "column",
        }
    }
}

/// Finds the names that may call functions.
pub(super) fn find_called_names(lexemes: &[Lexeme]) -> Vec<CalledName> {
    let names = lexemes.iter().enumerate().filter_map(|(at, lexeme)| Some((at, lexeme.as_name()?)));
    names.filter_map(|(at, name)| called_name(lexemes, at, name)).collect()
}

fn called_name(lexemes: &[Lexeme], at: usize, name: &str) -> Option<CalledName> {
    let behind = |count: usize| at.checked_sub(count).and_then(|place| lexemes.get(place));
    let is_dot = |lexeme: Option<&Lexeme>| lexeme.is_some_and(|lexeme| lexeme.is_sign('.'));
    let qualified = is_dot(behind(1));
    let called = |schema: Option<&str>, syntax| {
        Some(CalledName { schema: schema.map(str::to_owned), name: name.to_owned(), syntax })
    };
    if lexemes.get(at + 1).is_some_and(|next| next.is_sign('(')) {
        // An alias, a type or the name of a query stands behind these.
        let before_other_names = ["as", "with", "recursive"];
        let other = !qualified && behind(1).is_some_and(|word| word.is_word(&before_other_names)) && !is_dot(behind(2));
        let schema = behind(2).filter(|_| qualified).and_then(Lexeme::as_name);
        return if other { None } else { called(schema, CallSyntax::Call) };
    }
    match (qualified, starts_with_name(lexemes, at)) {
        (false, _) => None,
        (true, false) => called(None, CallSyntax::Field),
        // The name of a schema or table, as in `schema.table.column`.
        (true, true) if is_dot(lexemes.get(at + 1)) => None,
        (true, true) => called(None, CallSyntax::Column),
    }
}

/// Whether the names that dots join with this one begin with a name, and not with a value such as `(…)`.
fn starts_with_name(lexemes: &[Lexeme], at: usize) -> bool {
    let mut place = at;
    while place >= 2 && lexemes[place - 1].is_sign('.') {
        place -= 2;
        if lexemes[place].as_name().is_none() {
            return false;
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bind::ParameterizedSql;
    use crate::read_only::split_lexemes;
    use afterload_core::dialect::Dialect;

    fn called(text: &str) -> Vec<String> {
        let lexemes = split_lexemes(&ParameterizedSql::parse(text, Dialect::Postgres).unwrap()).unwrap();
        let show = |call: CalledName| {
            let schema = call.schema.map(|schema| format!("{schema}.")).unwrap_or_default();
            format!("{} {schema}{}", call.syntax.as_str(), call.name)
        };
        find_called_names(&lexemes).into_iter().map(show).collect()
    }

    #[test]
    fn every_place_of_a_call_is_found() {
        for (text, expected) in [
            ("SELECT f (1), G/* x */(2), \"H\"(3), a . \"b\" ( 4 )", &["call f", "call g", "call H", "call a.b"][..]),
            ("SELECT x.y.f(1)", &["call y.f"]),
            (
                "SELECT 1, ('a'::text).f, (t).f.g, a[1].f, (:x).f",
                &["field f", "field f", "field g", "field f", "field f"],
            ),
            ("SELECT t.f FROM s.t", &["column f", "column t"]),
            ("SELECT s.t.c FROM t AS x(a, b)", &["column c"]),
            ("SELECT DISTINCT ON (a) f(b) FROM t", &["call on", "call f"]),
            ("WITH f(a) AS (SELECT CAST(1 AS numeric(3, 1))) SELECT 'g(' FROM f -- h(", &["call as", "call cast"]),
            ("WITH RECURSIVE f(a) AS (SELECT 1) SELECT x AS f, 1 IN (1) FROM f", &["call as", "call in"]),
            ("SELECT t.as f(1)", &["column as", "call f"]),
        ] {
            assert_eq!(called(text), expected, "{text}");
        }
    }
}
