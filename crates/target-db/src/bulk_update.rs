//! Columns of many rows, each found by its keys, in one transaction.

use std::borrow::Cow;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::bind::push_array_item;
use super::{
    BindValues, CheckpointFn, Connection, DbColumnType, Fence, ParsedStatement, ResultMode, StatementArgs,
    StatementResult, TableColumn, checkpoint,
};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_core::identifier::quote_identifier;

/// A value on its way into a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Scalar<'a> {
    /// Nothing.
    Null,
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Float(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// Any other value of JSON.
    Json(&'a Value),
}

impl<'a> From<&'a Value> for Scalar<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::String(text) => Self::Text(text.into()),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Self::Integer(number),
                (None, Some(real)) if number.is_f64() => Self::Float(real),
                // Whole numbers beyond 64 bits with a sign keep all their digits.
                _ => Self::Json(value),
            },
            other => Self::Json(other),
        }
    }
}

/// Rows whose values are asked for one by one, where they are written.
pub trait RowSource: Send + Sync + 'static {
    /// How many there are.
    fn row_count(&self) -> usize;
    /// A value of a row, both counted from 0.
    fn value_at(&self, row: usize, column: usize) -> Scalar<'_>;
}

/// A table of which columns are to be filled.
#[derive(Clone, Debug)]
pub struct BulkUpdate {
    statement: ParsedStatement,
    key_count: usize,
    /// Of each column, keys first, whether it holds JSON.
    json_columns: Vec<bool>,
    /// On PostgreSQL: a key whose order we know, and the statement that also says between which values it lies. Without that,
    /// each chunk may read the whole table, which the planner takes for cheaper than to look for every row.
    key_range: Option<(usize, DbColumnType, ParsedStatement)>,
}

impl Connection {
    /// Makes ready to fill `columns` of the rows that `keys` find.
    ///
    /// # Errors
    /// `table_not_found`, `column_not_found`, `table_reserved`, `connection_read_only`.
    pub async fn prepare_bulk_update(&self, table: &str, keys: &[String], columns: &[String]) -> Result<BulkUpdate> {
        self.ensure_writable()?;
        let table = self.describe_table(table).await?;
        checkpoint::refuse_reserved_table(&table.name)?;
        let all = keys.iter().chain(columns).map(|name| table.find_column(name)).collect::<Result<Vec<_>>>()?;
        let given = |place: usize| match self.dialect() {
            Dialect::Sqlite => format!(":c{place}"),
            Dialect::Postgres => format!("given.c{place}"),
        };
        let pairs: Vec<_> =
            all.iter().enumerate().map(|(place, column)| (quote_identifier(&column.name), given(place))).collect();
        let (found, set) = pairs.split_at(keys.len());
        let set: Vec<_> = set.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let found: Vec<_> = found.iter().map(|(name, value)| format!("target.{name} = {value}")).collect();
        let from = match self.dialect() {
            Dialect::Sqlite => String::new(),
            Dialect::Postgres => {
                let list =
                    |(place, column): (usize, &&TableColumn)| format!("CAST(:c{place} AS {}[])", column.type_name);
                let lists = all.iter().enumerate().map(list).collect::<Vec<_>>().join(", ");
                let names = (0..all.len()).map(|place| format!("c{place}")).collect::<Vec<_>>().join(", ");
                format!("FROM unnest({lists}) AS given ({names}) ")
            }
        };
        let sql = format!(
            "UPDATE {} AS target SET {} {from}WHERE {}",
            table.name.to_quoted_sql(),
            set.join(", "),
            found.join(" AND ")
        );
        let ordered = |column: &&TableColumn| {
            matches!(
                column.column_type,
                DbColumnType::Int2 | DbColumnType::Int4 | DbColumnType::Int8 | DbColumnType::Uuid
            )
        };
        let ordered = all[..keys.len()].iter().position(ordered).filter(|_| self.dialect() == Dialect::Postgres);
        let between = |place: usize| {
            let (name, kind) = (&pairs[place].0, &all[place].type_name);
            let sql = format!("{sql} AND target.{name} BETWEEN CAST(:first AS {kind}) AND CAST(:last AS {kind})");
            Ok::<_, Error>((place, all[place].column_type, ParsedStatement::parse(&sql, self.dialect())?))
        };
        let json =
            all.iter().map(|column| matches!(column.column_type, DbColumnType::Json | DbColumnType::Jsonb)).collect();
        let between = ordered.map(between).transpose()?;
        Ok(BulkUpdate {
            statement: ParsedStatement::parse(&sql, self.dialect())?,
            key_count: keys.len(),
            json_columns: json,
            key_range: between,
        })
    }
}

impl BulkUpdate {
    /// Fills rows, each given as its keys and then its values, in one transaction with what `note` makes of it.
    ///
    /// # Errors
    /// Those of [`Connection::write`].
    pub async fn write_rows(
        &self,
        connection: &Connection,
        rows: impl RowSource,
        stop: &CancellationToken,
        (fence, note): (Option<&Fence>, CheckpointFn),
    ) -> Result<(StatementResult, String)> {
        let call = |values| StatementArgs { values, result_mode: ResultMode::Discard, stop: stop.clone() };
        let (effect, (noted, _)) = match connection.dialect() {
            Dialect::Sqlite => {
                let rows = Box::new(ParameterOrderedRows {
                    rows,
                    key_count: self.key_count,
                    column_count: self.json_columns.len(),
                });
                connection.write_each_row(&self.statement, (rows, call(BindValues::new())), fence, note).await?
            }
            Dialect::Postgres => {
                let list = |(column, json): (usize, &bool)| {
                    (format!("c{column}"), column_array_literal(&rows, column, *json).into())
                };
                let mut values: BindValues = self.json_columns.iter().enumerate().map(list).collect();
                let between = self.key_range.as_ref();
                let between =
                    between.and_then(|(key, kind, command)| Some((command, min_and_max(&rows, *key, *kind)?)));
                let command = match between {
                    Some((command, [first, last])) => {
                        values.extend([("first".to_owned(), first), ("last".to_owned(), last)]);
                        command
                    }
                    None => &self.statement,
                };
                connection.write_statement(command, call(values), fence, note).await?
            }
        };
        Ok((effect, noted))
    }
}

/// Rows whose values come in the order in which the statement names them: before the keys.
struct ParameterOrderedRows<G> {
    rows: G,
    key_count: usize,
    column_count: usize,
}

impl<G: RowSource> RowSource for ParameterOrderedRows<G> {
    fn row_count(&self) -> usize {
        self.rows.row_count()
    }

    fn value_at(&self, row: usize, column: usize) -> Scalar<'_> {
        self.rows.value_at(row, (column + self.key_count) % self.column_count)
    }
}

/// The least and the greatest value of a column of whole numbers or UUIDs; none where a value is written in another way, whose
/// order only the database knows.
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

/// As PostgreSQL writes them: then they are in order as texts, too.
fn is_uuid(text: &str) -> bool {
    let sound = |(place, byte)| match place {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => matches!(byte, b'0'..=b'9' | b'a'..=b'f'),
    };
    text.len() == 36 && text.bytes().enumerate().all(sound)
}

/// A column of all rows as PostgreSQL writes an array. What goes into a column of JSON is JSON itself.
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
    fn columns_are_written_as_arrays() {
        let text = |values: &[Value], json| column_array_literal(&Column(values.to_vec()), 0, json);
        assert_eq!(text(&[], false), "{}");
        assert_eq!(text(&[json!(null), json!(-7), json!(0.25), json!(true)], false), r#"{NULL,-7,0.25,"true"}"#);
        assert_eq!(text(&[json!("a\"b\\c"), json!([1])], false), r#"{"a\"b\\c","[1]"}"#);
        assert_eq!(text(&[json!(u64::MAX)], false), r#"{"18446744073709551615"}"#, "with all its digits");
        assert_eq!(text(&[json!("a\"b"), json!(1)], true), r#"{"\"a\\\"b\"",1}"#);
    }

    #[test]
    fn the_ends_of_keys_are_known_where_their_order_is() {
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
