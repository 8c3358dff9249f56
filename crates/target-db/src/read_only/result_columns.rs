//! The columns that a query certainly returns.

use sqlparser::ast::{Expr, SelectItem, SetExpr, Statement};

use super::parse_text;
use crate::bind::ParameterizedSql;

/// Returns the names of the columns, if the text decides them. A `*` and an expression without an alias leave them open,
/// and so does SQL that the parser does not know.
pub(crate) fn find_result_columns(statement: &ParameterizedSql) -> Option<Vec<String>> {
    match parse_text(statement).ok()?.as_slice() {
        [Statement::Query(query)] => columns_of_body(&query.body),
        _ => None,
    }
}

fn columns_of_body(body: &SetExpr) -> Option<Vec<String>> {
    match body {
        SetExpr::Select(select) => select.projection.iter().map(column_name).collect(),
        SetExpr::Query(query) => columns_of_body(&query.body),
        // The first query gives the names.
        SetExpr::SetOperation { left, .. } => columns_of_body(left),
        _ => None,
    }
}

fn column_name(item: &SelectItem) -> Option<String> {
    let ident = match item {
        SelectItem::ExprWithAlias { alias, .. } => alias,
        SelectItem::UnnamedExpr(Expr::Identifier(ident)) => ident,
        SelectItem::UnnamedExpr(Expr::CompoundIdentifier(parts)) => parts.last()?,
        _ => return None,
    };
    Some(ident.value.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::dialect::Dialect;

    #[test]
    fn columns_are_known_only_where_the_text_decides_them() {
        for (text, columns) in [
            ("SELECT id, u.name, lower(mail) AS mail FROM users AS u WHERE a = :a", Some("id name mail")),
            ("SELECT DISTINCT \"Id\" FROM t ORDER BY 1 LIMIT 3", Some("Id")),
            ("SELECT a IS DISTINCT FROM b AS differs FROM t", Some("differs")),
            ("SELECT a FROM t UNION SELECT b AS c FROM u", Some("a")),
            ("(SELECT a FROM t)", Some("a")),
            ("WITH w AS (SELECT 1 AS x) SELECT x AS id FROM w -- all", Some("id")),
            ("SELECT * FROM t", None),
            ("SELECT t.*, 1 AS id FROM t", None),
            ("SELECT lower(id) FROM t", None),
            ("SELECT 1", None),
            ("VALUES (1)", None),
        ] {
            for dialect in Dialect::ALL {
                let found = find_result_columns(&ParameterizedSql::parse(text, dialect).unwrap());
                assert_eq!(found.map(|found| found.join(" ")).as_deref(), columns, "{text}");
            }
        }
    }
}
