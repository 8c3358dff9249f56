//! Bulk updates on PostgreSQL: one statement joins the table with one array per column.

use serde_json::Value;

use super::bind::push_array_item;
use crate::bind::BindValues;
use crate::bulk_update::{BoundUpdate, BulkUpdate, KeyRangeUpdate, UpdatePlan};
use crate::row_source::{RowSource, Scalar};
use crate::statement::ParsedStatement;
use crate::table::{DbColumnType, TableColumn};
use afterload_core::dialect::Dialect;
use afterload_core::error::Result;
use afterload_core::identifier::quote_identifier;

pub(super) fn plan(plan: &UpdatePlan<'_>) -> Result<BulkUpdate> {
    let list = |(place, column): (usize, &&TableColumn)| format!("CAST(:c{place} AS {}[])", column.type_name);
    let lists = plan.columns.iter().enumerate().map(list).collect::<Vec<_>>().join(", ");
    let names = (0..plan.columns.len()).map(|place| format!("c{place}")).collect::<Vec<_>>().join(", ");
    let from = format!("FROM unnest({lists}) AS given ({names}) ");
    let sql = plan.update_sql(&from, |place| format!("given.c{place}"));
    let is_ordered = |column: &&TableColumn| {
        matches!(column.column_type, DbColumnType::Int2 | DbColumnType::Int4 | DbColumnType::Int8 | DbColumnType::Uuid)
    };
    let ordered = plan.columns[..plan.key_count].iter().position(is_ordered);
    let between = |place: usize| {
        let (name, kind) = (quote_identifier(&plan.columns[place].name), &plan.columns[place].type_name);
        let sql = format!("{sql} AND target.{name} BETWEEN CAST(:first AS {kind}) AND CAST(:last AS {kind})");
        let statement = ParsedStatement::parse(&sql, Dialect::Postgres)?;
        Ok::<_, afterload_core::error::Error>(KeyRangeUpdate {
            column: place,
            column_type: plan.columns[place].column_type,
            statement,
        })
    };
    let key_range = ordered.map(between).transpose()?;
    Ok(plan.to_bulk_update(ParsedStatement::parse(&sql, Dialect::Postgres)?, key_range))
}

pub(super) fn bind(update: &BulkUpdate, rows: &impl RowSource) -> BoundUpdate {
    let list =
        |(column, json): (usize, &bool)| (format!("c{column}"), column_array_literal(rows, column, *json).into());
    let mut values: BindValues = update.json_columns.iter().enumerate().map(list).collect();
    let range = update.key_range.as_ref();
    let range = range.and_then(|range| Some((range, min_and_max(rows, range.column, range.column_type)?)));
    let statement = match range {
        Some((range, [first, last])) => {
            values.extend([("first".to_owned(), first), ("last".to_owned(), last)]);
            &range.statement
        }
        None => &update.statement,
    };
    BoundUpdate { statement: statement.clone(), values, row_source: None }
}

/// The smallest and the greatest value of a column of integers or UUIDs.
///
/// `None` if any value has another form, because only the database knows its order.
fn min_and_max(rows: &impl RowSource, column: usize, kind: DbColumnType) -> Option<[Value; 2]> {
    let mut ends: Option<[Scalar<'_>; 2]> = None;
    for value in (0..rows.row_count()).map(|row| rows.value_at(row, column)) {
        match (&value, kind) {
            (Scalar::Integer(_), DbColumnType::Int2 | DbColumnType::Int4 | DbColumnType::Int8) => {}
            (Scalar::Text(text), DbColumnType::Uuid) if is_uuid(text) => {}
            _ => return None,
        }
        ends = Some(match ends {
            None => [value.clone(), value],
            Some([first, last]) if is_less(&value, &first) => [value, last],
            Some([first, last]) if is_less(&last, &value) => [first, value],
            ends @ Some(_) => ends?,
        });
    }
    let json = |plain| match plain {
        Scalar::Integer(number) => Value::from(number),
        Scalar::Text(text) => Value::from(text.into_owned()),
        _ => Value::Null,
    };
    ends.map(|ends| ends.map(json))
}

fn is_less(one: &Scalar<'_>, other: &Scalar<'_>) -> bool {
    match (one, other) {
        (Scalar::Integer(one), Scalar::Integer(other)) => one < other,
        (Scalar::Text(one), Scalar::Text(other)) => one < other,
        _ => false,
    }
}

/// Whether this is a UUID as PostgreSQL writes it. Such UUIDs sort as text in the order of the database.
fn is_uuid(text: &str) -> bool {
    let sound = |(place, byte)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    text.len() == 36 && text.bytes().enumerate().all(sound)
}

/// Renders one column of all rows as an array literal. Texts for a JSON column become JSON strings.
fn column_array_literal(rows: &impl RowSource, column: usize, json: bool) -> String {
    let (mut text, mut digits) = (String::with_capacity(16 * rows.row_count()), itoa::Buffer::new());
    text.push('{');
    for row in 0..rows.row_count() {
        text.push_str(if row == 0 { "" } else { "," });
        match rows.value_at(row, column) {
            Scalar::Null => text.push_str("NULL"),
            Scalar::Integer(number) => text.push_str(digits.format(number)),
            Scalar::Float(number) => text.push_str(&number.to_string()),
            Scalar::Text(value) if json => push_array_item(&Value::from(value).to_string(), &mut text),
            Scalar::Text(value) => push_array_item(&value, &mut text),
            Scalar::Json(value) => push_array_item(&value.to_string(), &mut text),
        }
    }
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    struct Column(Vec<Value>);

    impl RowSource for Column {
        fn row_count(&self) -> usize {
            self.0.len()
        }

        fn value_at(&self, row: usize, _: usize) -> Scalar<'_> {
            (&self.0[row]).into()
        }
    }

    #[test]
    fn columns_become_array_literals() {
        let text = |values: &[Value], json| column_array_literal(&Column(values.to_vec()), 0, json);
        assert_eq!(text(&[], false), "{}");
        assert_eq!(text(&[json!(null), json!(-7), json!(0.25), json!(true)], false), r#"{NULL,-7,0.25,"true"}"#);
        assert_eq!(text(&[json!("a\"b\\c"), json!([1])], false), r#"{"a\"b\\c","[1]"}"#);
        assert_eq!(text(&[json!(u64::MAX)], false), r#"{"18446744073709551615"}"#, "with all its digits");
        assert_eq!(text(&[json!("a\"b"), json!(1)], true), r#"{"\"a\\\"b\"",1}"#);
    }

    #[test]
    fn key_range_is_known_for_integers_and_uuids_only() {
        let ends = |values: &[Value], kind| min_and_max(&Column(values.to_vec()), 0, kind);
        let numbers = [json!(9), json!(-10), json!(10), json!(0)];
        assert_eq!(ends(&numbers, DbColumnType::Int8), Some([json!(-10), json!(10)]));
        assert_eq!(ends(&numbers, DbColumnType::Numeric), None);
        let (low, high) = ("0a000000-0000-4000-8000-000000000000", "f1000000-0000-4000-8000-000000000000");
        assert_eq!(ends(&[json!(high), json!(low)], DbColumnType::Uuid), Some([json!(low), json!(high)]));
        assert_eq!(ends(&[json!(high), json!(low)], DbColumnType::Text), None);
        let grouped = "a0ee-bc99-9c0b-4ef8-bb6d6bb9bd380a11";
        for other in [json!("9"), json!(null), json!(high.to_uppercase()), json!(grouped), json!(1.5)] {
            assert_eq!(ends(&[json!(9), other.clone()], DbColumnType::Int2), None);
            assert_eq!(ends(&[json!(high), other], DbColumnType::Uuid), None);
        }
        assert_eq!(ends(&[], DbColumnType::Int4), None);
    }
}
