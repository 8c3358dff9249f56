//! People whom a query of a user's finds: paged by a key, counted, read, and written into a table without being read.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::bulk::keys_not_unique;
use super::{Bind, Call, Command, Connection, Effect, Fence, Keep, Note, Rows, checkpoints};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_core::table_name::{TableName, identifier, list};

/// The bounds of a part and the values of a row; no parameter of a user's has such a name.
const OWN: &str = "afterload_";
/// The column of a page with the key.
const KEY: &str = "afterload_key";

/// A query whose rows are people, told apart by one of its columns.
#[derive(Clone, Debug)]
pub struct People {
    sql: String,
    key: String,
    values: Bind,
}

/// A part of the people, in the order of their keys.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Span {
    /// The key behind which it begins.
    pub after: Option<Value>,
    /// The key with which it ends.
    pub until: Option<Value>,
}

/// One of the people.
#[derive(Clone, Debug, PartialEq)]
pub struct Person {
    /// The key.
    pub key: Value,
    /// The columns that the query gives.
    pub row: Map<String, Value>,
}

/// People who follow one another.
#[derive(Debug)]
pub struct Page {
    /// Their rows: the keys as they can be bound again, then the columns that the query gives.
    pub rows: Rows,
}

impl Page {
    /// The key of the last one.
    pub fn last(&self) -> Option<&Value> {
        Some(self.rows.value(self.rows.len().checked_sub(1)?, 0))
    }

    /// The people one by one.
    pub fn people(&self) -> impl Iterator<Item = Person> {
        (0..self.rows.len()).map(|place| {
            let mut row = self.rows.map(place);
            row.shift_remove(KEY);
            Person { key: self.rows.value(place, 0).clone(), row }
        })
    }
}

/// What a row says of a delivery.
#[derive(Clone, Copy, Debug)]
pub struct Row<'a> {
    /// The table.
    pub table: &'a str,
    /// The column for the key of the person.
    pub person: &'a str,
    /// The column for the reason, if there is one.
    pub reason: Option<&'a str>,
    /// Columns that hold the same value for everybody.
    pub values: &'a Map<String, Value>,
    /// Columns that hold what a column of the query gives.
    pub copy: &'a [(String, String)],
    /// The columns of a unique constraint: nobody gets two rows.
    pub keys: &'a [String],
}

/// What is done about people who have their row already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Present {
    /// They keep it.
    Skip,
    /// Nobody is expected to have one. On PostgreSQL one who does fails the whole part, which is then to be put again with
    /// [`Present::Skip`]: to look for rows that are there takes it as long as to write new ones.
    Unexpected,
}

/// A table made ready for deliveries.
#[derive(Clone, Debug)]
pub struct Target {
    table: TableName,
    columns: String,
    sources: Vec<String>,
    values: Bind,
    keys: Vec<String>,
}

impl People {
    /// The people whom `command` finds with these values.
    pub fn new(command: &Command, key: &str, values: Bind) -> Self {
        let key = format!("person.{}", identifier(key));
        Self { sql: command.statement.named(), key, values }
    }

    /// The same people with one more value.
    #[must_use]
    pub fn with(mut self, name: &str, value: Value) -> Self {
        self.values.insert(name.to_owned(), value);
        self
    }

    /// How many there are in a part.
    ///
    /// # Errors
    /// Those of [`Connection::read`].
    pub async fn count(&self, connection: &Connection, span: &Span, stop: &CancellationToken) -> Result<u64> {
        let sql = format!("SELECT COUNT(*) AS people {}", self.of(span));
        let rows = self.read(connection, &sql, span, &[], Keep::All { rows: 1, bytes: 1 << 10 }, stop).await?;
        Ok(rows.first().and_then(Value::as_u64).unwrap_or_default())
    }

    /// The key of the person at `place`, from 1, of a part; none where there are fewer.
    ///
    /// # Errors
    /// `audience_key_invalid` where the keys have no order; those of [`Connection::read`].
    pub async fn key_at(
        &self,
        connection: &Connection,
        span: &Span,
        place: u64,
        stop: &CancellationToken,
    ) -> Result<Option<Value>> {
        let at =
            format!("SELECT {key} AS key {} ORDER BY {key} LIMIT 1 OFFSET :{OWN}skip", self.of(span), key = self.key);
        // Brought to text behind the place: of those before it nobody asks.
        let bound = match connection.dialect() {
            // Bytes come as text, and all of them are behind any text.
            Dialect::Sqlite => "CASE typeof(person.key) WHEN 'blob' THEN NULL ELSE person.key END".to_owned(),
            dialect => told("person.key", dialect),
        };
        let sql = format!("SELECT {bound} AS bound FROM ({at}) AS person");
        let own = [("skip", Value::from(place.saturating_sub(1)))];
        let rows = self.read(connection, &sql, span, &own, Keep::All { rows: 1, bytes: 64 << 10 }, stop).await?;
        let found = rows.first().cloned();
        if found.as_ref().is_some_and(Value::is_null) || found.is_some() && found == span.after {
            return Err(keys_without_order());
        }
        Ok(found)
    }

    /// The first people of a part, at most `limit`.
    ///
    /// # Errors
    /// `audience_key_invalid` where the keys have no order; `sql_result_too_large` where they have more than 16 MiB; those of
    /// [`Connection::read`].
    pub async fn page(
        &self,
        connection: &Connection,
        span: &Span,
        limit: usize,
        stop: &CancellationToken,
    ) -> Result<Page> {
        let key = told(&self.key, connection.dialect());
        let sql = format!("SELECT {key} AS {KEY}, person.* {} ORDER BY {} LIMIT :{OWN}limit", self.of(span), self.key);
        let keep = Keep::All { rows: limit, bytes: 16 << 20 };
        let rows = self.read(connection, &sql, span, &[("limit", limit.into())], keep, stop).await?;
        let page = Page { rows };
        match page.last().is_some_and(|last| span.after.as_ref() == Some(last)) {
            true => Err(keys_without_order()),
            false => Ok(page),
        }
    }

    /// Gives everybody of a part a row, in one statement of the database and in the order of their keys, which indices
    /// like. `note` is committed with them, as [`Connection::write`] says.
    ///
    /// # Errors
    /// `conflict_keys_not_unique`; those of [`Connection::write`].
    pub async fn put(
        &self,
        connection: &Connection,
        target: &Target,
        (span, reason, present): (&Span, &str, Present),
        stop: &CancellationToken,
        (fence, note): (Option<&Fence>, Note),
    ) -> Result<(Effect, String)> {
        let sources = target.sources.iter().map(|source| if source.is_empty() { &self.key } else { source });
        let keys = list(target.keys.iter().map(String::as_str));
        let present = match (present, connection.dialect()) {
            (Present::Unexpected, Dialect::Postgres) => String::new(),
            _ => format!(" ON CONFLICT ({keys}) DO NOTHING"),
        };
        let sql = format!(
            "INSERT INTO {} ({}) SELECT {} {} ORDER BY {}{present}",
            target.table.quoted(),
            target.columns,
            sources.map(String::as_str).collect::<Vec<_>>().join(", "),
            self.of(span),
            self.key,
        );
        let command = Command::parse(&sql, connection.dialect())?;
        let mut values = self.bound(span, &[("reason", reason.into())]);
        values.extend(target.values.clone());
        let call = Call { values, keep: Keep::Nothing, stop: stop.clone() };
        let written = connection.write(&command, call, fence, note).await;
        let (effect, (noted, _)) = written.map_err(|error| match error.message().contains("ON CONFLICT") {
            true => keys_not_unique(&target.table, &target.keys),
            false => error,
        })?;
        Ok((effect, noted))
    }

    /// Nobody has no key, which no bound lets through either. A query whose end is a comment keeps its line.
    fn of(&self, span: &Span) -> String {
        let Self { sql, key, .. } = self;
        let bounds = [(&span.after, "> :afterload_after"), (&span.until, "<= :afterload_until")];
        let bounds = bounds.into_iter().filter(|(bound, _)| bound.is_some()).map(|(_, name)| format!("{key} {name}"));
        let bounds = bounds.collect::<Vec<_>>().join(" AND ");
        let bounds = if bounds.is_empty() { format!("{key} IS NOT NULL") } else { bounds };
        format!("FROM ({sql}\n) AS person WHERE {bounds}")
    }

    fn bound(&self, span: &Span, own: &[(&str, Value)]) -> Bind {
        let mut values = self.values.clone();
        let bounds = [("after", &span.after), ("until", &span.until)];
        let bounds = bounds.into_iter().filter_map(|(name, bound)| Some((name, bound.clone()?)));
        values.extend(bounds.chain(own.iter().cloned()).map(|(name, value)| (format!("{OWN}{name}"), value)));
        values
    }

    async fn read(
        &self,
        connection: &Connection,
        sql: &str,
        span: &Span,
        own: &[(&str, Value)],
        keep: Keep,
        stop: &CancellationToken,
    ) -> Result<Rows> {
        let command = Command::parse(sql, connection.dialect())?;
        let call = Call { values: self.bound(span, own), keep, stop: stop.clone() };
        connection.read(&command, call).await.map(|effect| effect.rows)
    }
}

/// A key as it can be bound again without loss: PostgreSQL makes any type from its own text.
fn told(key: &str, dialect: Dialect) -> String {
    match dialect {
        Dialect::Sqlite => key.to_owned(),
        Dialect::Postgres => format!("CAST({key} AS text)"),
    }
}

fn keys_without_order() -> Error {
    Error::permanent("audience_key_invalid", "the keys of the people cannot be put in order")
        .hint("`key` must name a column of whole numbers, texts or UUIDs, in SQLite no bytes: `hex(id) AS id` makes a text of them")
}

impl Connection {
    /// Makes a table ready for deliveries.
    ///
    /// # Errors
    /// `table_not_found`, `column_not_found`, `table_reserved`, `connection_read_only`, or those of the database.
    pub async fn target(&self, row: &Row<'_>) -> Result<Target> {
        self.writable()?;
        let table = self.table(row.table).await?;
        checkpoints::refuse_ours(&table.name)?;
        let (mut columns, mut sources, mut values) = (Vec::new(), Vec::new(), Bind::new());
        // A parameter among the results of a `SELECT` has no type of its own on PostgreSQL.
        let parameter = |name: &str, type_name: &str| match self.dialect() {
            Dialect::Sqlite => format!(":{OWN}{name}"),
            Dialect::Postgres => format!("CAST(:{OWN}{name} AS {type_name})"),
        };
        columns.push(table.column(row.person)?.name.clone());
        sources.push(String::new());
        if let Some(reason) = row.reason {
            let column = table.column(reason)?;
            columns.push(column.name.clone());
            sources.push(parameter("reason", &column.type_name));
        }
        for (place, (name, value)) in row.values.iter().enumerate() {
            let column = table.column(name)?;
            columns.push(column.name.clone());
            sources.push(parameter(&format!("value_{place}"), &column.type_name));
            values.insert(format!("{OWN}value_{place}"), value.clone());
        }
        for (name, source) in row.copy {
            columns.push(table.column(name)?.name.clone());
            sources.push(format!("person.{}", identifier(source)));
        }
        let keys = row.keys.iter().map(|key| Ok(table.column(key)?.name.clone())).collect::<Result<Vec<_>>>()?;
        let columns = list(columns.iter().map(String::as_str));
        Ok(Target { table: table.name, columns, sources, values, keys })
    }

    /// How many of `wanted` can write at once: a SQLite file has one writer.
    pub fn writers(&self, wanted: usize) -> usize {
        match self.dialect() {
            Dialect::Sqlite => 1,
            Dialect::Postgres => wanted,
        }
    }
}
