//! Columns of many rows, each found by its keys, in one transaction.

use std::borrow::Cow;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::bind::quoted;
use super::{Bind, Call, Column, Command, Connection, Effect, Fence, Keep, Kind, Note, checkpoints};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_core::table_name::identifier;

/// A value on its way into a column.
#[derive(Clone, Debug, PartialEq)]
pub enum Plain<'a> {
    /// Nothing.
    Null,
    /// A whole number.
    Whole(i64),
    /// Any other number.
    Real(f64),
    /// A text.
    Text(Cow<'a, str>),
    /// Any other value of JSON.
    Json(&'a Value),
}

impl<'a> From<&'a Value> for Plain<'a> {
    fn from(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::String(text) => Self::Text(text.into()),
            Value::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(number), _) => Self::Whole(number),
                (None, Some(real)) if number.is_f64() => Self::Real(real),
                // Whole numbers beyond 64 bits with a sign keep all their digits.
                _ => Self::Json(value),
            },
            other => Self::Json(other),
        }
    }
}

/// Rows whose values are asked for one by one, where they are written.
pub trait Given: Send + Sync + 'static {
    /// How many there are.
    fn rows(&self) -> usize;
    /// A value of a row, both counted from 0.
    fn value(&self, row: usize, column: usize) -> Plain<'_>;
}

/// A table of which columns are to be filled.
#[derive(Clone, Debug)]
pub struct Filling {
    command: Command,
    keys: usize,
    /// Of each column, keys first, whether it holds JSON.
    json: Vec<bool>,
    /// On PostgreSQL: a key whose order we know, and the statement that also says between which values it lies. Without that,
    /// each chunk may read the whole table, which the planner takes for cheaper than to look for every row.
    between: Option<(usize, Kind, Command)>,
}

impl Connection {
    /// Makes ready to fill `columns` of the rows that `keys` find.
    ///
    /// # Errors
    /// `table_not_found`, `column_not_found`, `table_reserved`, `connection_read_only`.
    pub async fn filling(&self, table: &str, keys: &[String], columns: &[String]) -> Result<Filling> {
        self.writable()?;
        let table = self.table(table).await?;
        checkpoints::refuse_ours(&table.name)?;
        let all = keys.iter().chain(columns).map(|name| table.column(name)).collect::<Result<Vec<_>>>()?;
        let given = |place: usize| match self.dialect() {
            Dialect::Sqlite => format!(":c{place}"),
            Dialect::Postgres => format!("given.c{place}"),
        };
        let pairs: Vec<_> =
            all.iter().enumerate().map(|(place, column)| (identifier(&column.name), given(place))).collect();
        let (found, set) = pairs.split_at(keys.len());
        let set: Vec<_> = set.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let found: Vec<_> = found.iter().map(|(name, value)| format!("target.{name} = {value}")).collect();
        let from = match self.dialect() {
            Dialect::Sqlite => String::new(),
            Dialect::Postgres => {
                let list = |(place, column): (usize, &&Column)| format!("CAST(:c{place} AS {}[])", column.type_name);
                let lists = all.iter().enumerate().map(list).collect::<Vec<_>>().join(", ");
                let names = (0..all.len()).map(|place| format!("c{place}")).collect::<Vec<_>>().join(", ");
                format!("FROM unnest({lists}) AS given ({names}) ")
            }
        };
        let sql = format!(
            "UPDATE {} AS target SET {} {from}WHERE {}",
            table.name.quoted(),
            set.join(", "),
            found.join(" AND ")
        );
        let ordered = |column: &&Column| matches!(column.kind, Kind::Int2 | Kind::Int4 | Kind::Int8 | Kind::Uuid);
        let ordered = all[..keys.len()].iter().position(ordered).filter(|_| self.dialect() == Dialect::Postgres);
        let between = |place: usize| {
            let (name, kind) = (&pairs[place].0, &all[place].type_name);
            let sql = format!("{sql} AND target.{name} BETWEEN CAST(:first AS {kind}) AND CAST(:last AS {kind})");
            Ok::<_, Error>((place, all[place].kind, Command::parse(&sql, self.dialect())?))
        };
        let json = all.iter().map(|column| matches!(column.kind, Kind::Json | Kind::Jsonb)).collect();
        let between = ordered.map(between).transpose()?;
        Ok(Filling { command: Command::parse(&sql, self.dialect())?, keys: keys.len(), json, between })
    }
}

impl Filling {
    /// Fills rows, each given as its keys and then its values, in one transaction with what `note` makes of it.
    ///
    /// # Errors
    /// Those of [`Connection::write`].
    pub async fn write(
        &self,
        connection: &Connection,
        rows: impl Given,
        stop: &CancellationToken,
        (fence, note): (Option<&Fence>, Note),
    ) -> Result<(Effect, String)> {
        let call = |values| Call { values, keep: Keep::Nothing, stop: stop.clone() };
        let (effect, (noted, _)) = match connection.dialect() {
            Dialect::Sqlite => {
                let rows = Box::new(InOrder { rows, keys: self.keys, width: self.json.len() });
                connection.write_each(&self.command, (rows, call(Bind::new())), fence, note).await?
            }
            Dialect::Postgres => {
                let list = |(column, json): (usize, &bool)| (format!("c{column}"), list(&rows, column, *json).into());
                let mut values: Bind = self.json.iter().enumerate().map(list).collect();
                let between = self.between.as_ref();
                let between = between.and_then(|(key, kind, command)| Some((command, ends(&rows, *key, *kind)?)));
                let command = match between {
                    Some((command, [first, last])) => {
                        values.extend([("first".to_owned(), first), ("last".to_owned(), last)]);
                        command
                    }
                    None => &self.command,
                };
                connection.write(command, call(values), fence, note).await?
            }
        };
        Ok((effect, noted))
    }
}

/// Rows whose values come in the order in which the statement names them: before the keys.
struct InOrder<G> {
    rows: G,
    keys: usize,
    width: usize,
}

impl<G: Given> Given for InOrder<G> {
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn value(&self, row: usize, column: usize) -> Plain<'_> {
        self.rows.value(row, (column + self.keys) % self.width)
    }
}

/// The least and the greatest value of a column of whole numbers or UUIDs; none where a value is written in another way, whose
/// order only the database knows.
fn ends(rows: &impl Given, column: usize, kind: Kind) -> Option<[Value; 2]> {
    let mut ends: Option<[Plain<'_>; 2]> = None;
    for value in (0..rows.rows()).map(|row| rows.value(row, column)) {
        match (&value, kind) {
            (Plain::Whole(_), Kind::Int2 | Kind::Int4 | Kind::Int8) => {}
            (Plain::Text(text), Kind::Uuid) if is_uuid(text) => {}
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
        Plain::Whole(number) => Value::from(number),
        Plain::Text(text) => Value::from(text.into_owned()),
        _ => Value::Null,
    };
    ends.map(|ends| ends.map(json))
}

fn is_less(one: &Plain<'_>, other: &Plain<'_>) -> bool {
    match (one, other) {
        (Plain::Whole(one), Plain::Whole(other)) => one < other,
        (Plain::Text(one), Plain::Text(other)) => one < other,
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
fn list(rows: &impl Given, column: usize, json: bool) -> String {
    let (mut text, mut digits) = (String::with_capacity(16 * rows.rows()), itoa::Buffer::new());
    text.push('{');
    for row in 0..rows.rows() {
        text.push_str(if row == 0 { "" } else { "," });
        match rows.value(row, column) {
            Plain::Null => text.push_str("NULL"),
            Plain::Whole(number) => text.push_str(digits.format(number)),
            Plain::Real(number) => text.push_str(&number.to_string()),
            Plain::Text(value) if json => quoted(&Value::from(value).to_string(), &mut text),
            Plain::Text(value) => quoted(&value, &mut text),
            Plain::Json(value) => quoted(&value.to_string(), &mut text),
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

    impl Given for Column {
        fn rows(&self) -> usize {
            self.0.len()
        }

        fn value(&self, row: usize, _: usize) -> Plain<'_> {
            (&self.0[row]).into()
        }
    }

    #[test]
    fn columns_are_written_as_arrays() {
        let text = |values: &[Value], json| list(&Column(values.to_vec()), 0, json);
        assert_eq!(text(&[], false), "{}");
        assert_eq!(text(&[json!(null), json!(-7), json!(0.25), json!(true)], false), r#"{NULL,-7,0.25,"true"}"#);
        assert_eq!(text(&[json!("a\"b\\c"), json!([1])], false), r#"{"a\"b\\c","[1]"}"#);
        assert_eq!(text(&[json!(u64::MAX)], false), r#"{"18446744073709551615"}"#, "with all its digits");
        assert_eq!(text(&[json!("a\"b"), json!(1)], true), r#"{"\"a\\\"b\"",1}"#);
    }

    #[test]
    fn the_ends_of_keys_are_known_where_their_order_is() {
        let ends = |values: &[Value], kind| ends(&Column(values.to_vec()), 0, kind);
        let numbers = [json!(9), json!(-10), json!(10), json!(0)];
        assert_eq!(ends(&numbers, Kind::Int8), Some([json!(-10), json!(10)]));
        assert_eq!(ends(&numbers, Kind::Numeric), None);
        let (low, high) = ("0a000000-0000-4000-8000-000000000000", "f1000000-0000-4000-8000-000000000000");
        assert_eq!(ends(&[json!(high), json!(low)], Kind::Uuid), Some([json!(low), json!(high)]));
        assert_eq!(ends(&[json!(high), json!(low)], Kind::Text), None);
        let grouped = "a0ee-bc99-9c0b-4ef8-bb6d6bb9bd380a11";
        for other in [json!("9"), json!(null), json!(high.to_uppercase()), json!(grouped), json!(1.5)] {
            assert_eq!(ends(&[json!(9), other.clone()], Kind::Int2), None);
            assert_eq!(ends(&[json!(high), other], Kind::Uuid), None);
        }
        assert_eq!(ends(&[], Kind::Int4), None);
    }
}
