//! Checks for the fields of step kinds that use a target database: the connection, the statement and its values.

use crate::codes;
use serde::de::DeserializeOwned;

use crate::bind::BindValues;
use crate::recipients::{is_statement_error, select_column_sql};
use crate::statement::{ParsedStatement, missing_column_error};
use afterload_core::error::{Error, Result};
use afterload_pipeline::Validator;

/// Parses and checks a statement at the path `at` of `with`. `own` names the parameters that the step fills itself.
pub fn check_sql(
    check: &mut Validator<'_>,
    connection: &str,
    at: &[&str],
    text: &str,
    bind: &BindValues,
    own: &[&str],
) -> Option<ParsedStatement> {
    if text.contains("${{") {
        let hint = "write `:name` there, and `bind: { name: \"${{ … }}\" }` beside it";
        check.report_invalid(at, "SQL cannot hold an expression", hint);
        return None;
    }
    let statement = match check.ctx.dialects.get(connection) {
        Some(dialect) => ParsedStatement::parse(text, *dialect),
        None => ParsedStatement::parse_any(text),
    };
    let statement = match statement {
        Ok(statement) => statement,
        Err(error) => {
            check.report_invalid(at, error.message(), error.hint_text().unwrap_or_default());
            return None;
        }
    };
    for name in statement.parameter_names().iter().filter(|name| !own.contains(&name.as_str())) {
        if !bind.contains_key(name.as_str()) {
            check.report_invalid(at, format!("nothing fills `:{name}`"), format!("add `{name}` to `bind`"));
        }
    }
    Some(statement)
}

/// Reports a statement, at the path `at` of `with`, that certainly does more than read. `what` says what it must be.
pub fn check_reads(
    check: &mut Validator<'_>,
    connection: &str,
    at: &[&str],
    statement: Option<&ParsedStatement>,
    what: &str,
) {
    let Some(statement) = statement else { return };
    let allowed = check.ctx.functions.get(connection).map(Vec::as_slice).unwrap_or_default();
    match statement.check_read_only(allowed) {
        Err(_) if !statement.is_read_only() => check.report_invalid(at, what, ""),
        Err(error) => check.report_refused(at, &error),
        Ok(()) => check.verify_query(at, connection, &statement.sql.to_named_sql()),
    }
}

/// Reports a column, named at the path `at` of `with`, that the query does not return. The text decides where it can, and
/// else the database, if databases are asked.
pub fn check_result_column(
    check: &mut Validator<'_>,
    connection: &str,
    at: &[&str],
    statement: Option<&ParsedStatement>,
    column: &str,
) {
    let Some(statement) = statement.filter(|statement| statement.is_read_only()) else { return };
    if let Err(error) = statement.check_result_column(column) {
        return check.report_refused(at, &error);
    }
    let sql = statement.sql.to_named_sql();
    // A query that the database refuses as it is has its problem elsewhere.
    if check.find_query_error(connection, &sql).is_some() {
        return;
    }
    let refused = check.find_query_error(connection, &select_column_sql(&sql, column));
    if refused.is_some_and(|error| is_statement_error(&error)) {
        check.report_refused(at, &missing_column_error(column));
    }
}

/// Reports values, at the path `at` of `with`, that no statement uses.
pub fn check_bind(check: &mut Validator<'_>, at: &[&str], bind: &BindValues, statements: &[Option<ParsedStatement>]) {
    // A statement that could not be parsed may use any parameter, so an unused value is not certain.
    let Some(statements) = statements.iter().map(Option::as_ref).collect::<Option<Vec<_>>>() else { return };
    for name in bind.keys() {
        if !statements.iter().any(|statement| statement.has_parameter(name)) {
            check.report_invalid(&[at, &[name]].concat(), format!("the SQL has no `:{name}`"), "");
        }
    }
}

/// Parses the cursor that an earlier attempt committed.
pub fn read_checkpoint<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| Error::new(codes::CHECKPOINT_INVALID, format!("the checkpoint cannot be read: {error}")))
}

/// The connection of a step that does not name one.
pub fn default_connection() -> String {
    "app".into()
}
