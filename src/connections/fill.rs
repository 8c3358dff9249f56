//! Columns of many rows, each found by its keys, in one transaction.

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::quote::identifier;
use super::{Bind, Call, Column, Command, Connection, Dialect, Effect, Fence, Keep, Kind, Note, checkpoints};
use crate::error::Result;

/// A table of which columns are to be filled.
#[derive(Clone, Debug)]
pub struct Filling {
    command: Command,
    keys: usize,
    /// Of each column, keys first, whether it holds JSON.
    json: Vec<bool>,
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
        let json = all.iter().map(|column| matches!(column.kind, Kind::Json | Kind::Jsonb)).collect();
        Ok(Filling { command: Command::parse(&sql, self.dialect())?, keys: keys.len(), json })
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
        rows: Vec<Vec<Value>>,
        stop: &CancellationToken,
        (fence, note): (Option<&Fence>, Note),
    ) -> Result<(Effect, String)> {
        let call = |values| Call { values, keep: Keep::Nothing, stop: stop.clone() };
        let (effect, (noted, _)) = match connection.dialect() {
            Dialect::Sqlite => {
                // In the order in which the statement names them.
                let in_order = |mut row: Vec<Value>| {
                    row.rotate_left(self.keys);
                    row
                };
                let rows = rows.into_iter().map(in_order).collect();
                connection.write_each(&self.command, (rows, call(Bind::new())), fence, note).await?
            }
            Dialect::Postgres => {
                let mut lists: Vec<Vec<Value>> = self.json.iter().map(|_| Vec::with_capacity(rows.len())).collect();
                for row in rows {
                    for ((list, value), json) in lists.iter_mut().zip(row).zip(&self.json) {
                        // What goes into a column of JSON is a JSON string, with its quotes.
                        list.push(if *json && value.is_string() { value.to_string().into() } else { value });
                    }
                }
                let named = lists.into_iter().enumerate().map(|(place, list)| (format!("c{place}"), list.into()));
                connection.write(&self.command, call(named.collect()), fence, note).await?
            }
        };
        Ok((effect, noted))
    }
}
