//! Columns of many rows, each found by its keys, in one statement.

use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::quote::identifier;
use super::{Bind, Call, Command, Connection, Dialect, Effect, Fence, Keep, Note, checkpoints};
use crate::error::Result;

/// A table of which columns are to be filled.
#[derive(Clone, Debug)]
pub struct Filling {
    command: Command,
    width: usize,
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
            Dialect::Sqlite => format!("json_extract(given.value, '$.c{place}')"),
            Dialect::Postgres => format!("given.c{place}"),
        };
        let pairs: Vec<_> =
            all.iter().enumerate().map(|(place, column)| (identifier(&column.name), given(place))).collect();
        let (keys, columns) = pairs.split_at(keys.len());
        let set: Vec<_> = columns.iter().map(|(name, value)| format!("{name} = {value}")).collect();
        let found: Vec<_> = keys.iter().map(|(name, value)| format!("target.{name} = {value}")).collect();
        let from = match self.dialect() {
            Dialect::Sqlite => "json_each(:rows) AS given".to_owned(),
            Dialect::Postgres => {
                let types = all.iter().enumerate().map(|(place, column)| format!("c{place} {}", column.type_name));
                let types = types.collect::<Vec<_>>().join(", ");
                format!("jsonb_to_recordset(CAST(:rows AS jsonb)) AS given ({types})")
            }
        };
        let sql = format!(
            "UPDATE {} AS target SET {} FROM {from} WHERE {}",
            table.name.quoted(),
            set.join(", "),
            found.join(" AND ")
        );
        Ok(Filling { command: Command::parse(&sql, self.dialect())?, width: all.len() })
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
        let row = |values: Vec<Value>| {
            let named = values.into_iter().take(self.width).enumerate();
            Value::Object(named.map(|(place, value)| (format!("c{place}"), value)).collect::<Map<_, _>>())
        };
        let rows: Value = rows.into_iter().map(row).collect();
        let values = Bind::from([("rows".to_owned(), rows)]);
        let call = Call { values, keep: Keep::Nothing, stop: stop.clone() };
        let (effect, (noted, _)) = connection.write(&self.command, call, fence, note).await?;
        Ok((effect, noted))
    }
}
