//! Rows of a table, whose columns are filled in chunks that are committed with their cursor.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Filled, Outputs, Rows};
use crate::connections::{Command, Effect, People, Person, Span};
use crate::error::{Error, Result};
use crate::geo::{self, Answer, Chain};
use crate::steps::sql::{fence, recorded};
use crate::steps::{Context, Report};

/// What is committed with every chunk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Cursor {
    after: Option<Value>,
    total: u64,
    rows: u64,
    found: u64,
    missing: u64,
    invalid: u64,
    finished: bool,
}

/// Fills the rows, from where the last attempt got to.
pub async fn run(ctx: &Context, chain: &Chain, source: Rows, into: Filled) -> Result<Outputs> {
    let Rows { connection, sql, key, ip, bind, chunk } = source;
    let connection = ctx.connections.get(&connection).await?;
    let keys = if into.keys.is_empty() { vec![key.clone()] } else { into.keys };
    let (columns, fields): (Vec<_>, Vec<_>) = into.columns.into_iter().unzip();
    let filling = connection.filling(&into.table, &keys, &columns).await?;
    let rows = People::new(&Command::parse(&sql, connection.dialect())?, &key, bind);
    let fence = connection.keeps_checkpoints().then(|| fence(ctx));
    let claimed = match &fence {
        Some(fence) => connection.claim(fence).await?,
        None => None,
    };
    let mut cursor = match claimed {
        Some(text) => recorded(&text)?,
        None => Cursor { total: rows.count(&connection, &Span::default(), &ctx.stop).await?, ..Cursor::default() },
    };
    cursor.tell(ctx);
    while !cursor.finished {
        ctx.stopped()?;
        let span = Span { after: cursor.after.clone(), until: None };
        let page = rows.page(&connection, &span, chunk, &ctx.stop).await?;
        let next = cursor.behind(&page, chunk);
        let seen = look(ctx, chain, &page, &ip).await?;
        let invalid = seen.places.iter().filter(|place| place.is_none()).count() as u64;
        let wanted = Wanted { ip: &ip, keys: &keys, fields: &fields };
        let mut filled = Vec::with_capacity(page.len());
        for (row, place) in page.iter().zip(seen.places) {
            if let Some(answer) = place.and_then(|place| seen.answers[place].as_ref()) {
                filled.push(wanted.filled(row, answer)?);
            }
        }
        let known = filled.len() as u64;
        let next = Cursor {
            found: cursor.found + known,
            invalid: cursor.invalid + invalid,
            missing: cursor.missing + page.len() as u64 - known - invalid,
            ..next
        };
        let text = serde_json::to_string(&next).unwrap_or_default();
        let finished = next.finished;
        let note = move |_: &Effect| Ok((text, finished));
        filling.write(&connection, filled, &ctx.stop, (fence.as_ref(), Box::new(note))).await?;
        cursor = next;
        cursor.tell(ctx);
    }
    let Cursor { rows, found, missing, invalid, .. } = cursor;
    Ok(Outputs { rows, found, missing, invalid, ..Outputs::default() })
}

/// What became of the addresses of a page.
struct Seen {
    /// For each row the place of its answer; none where it has no address.
    places: Vec<Option<usize>>,
    /// Of each address once; none where nobody knows it.
    answers: Vec<Option<Answer>>,
}

struct Wanted<'a> {
    ip: &'a str,
    keys: &'a [String],
    fields: &'a [String],
}

/// Looks up the addresses of a page, each once.
async fn look(ctx: &Context, chain: &Chain, page: &[Person], column: &str) -> Result<Seen> {
    let address = |row: &Person| match row.row.get(column) {
        Some(Value::String(text)) => Ok(geo::parse(text)),
        Some(Value::Null) => Ok(None),
        _ => Err(Error::permanent("column_not_found", format!("the query gives no text in a column `{column}`"))
            .hint("name the column with the address in `rows.ip`, and cast it to text if it is none")),
    };
    let addresses = page.iter().map(address).collect::<Result<Vec<_>>>()?;
    let mut distinct: Vec<IpAddr> = addresses.iter().flatten().copied().collect();
    distinct.sort_unstable();
    distinct.dedup();
    let answers = ctx.geo.find(chain, &distinct, &ctx.stop).await?;
    let place = |ip: Option<IpAddr>| ip.and_then(|ip| distinct.binary_search(&ip).ok());
    Ok(Seen { places: addresses.into_iter().map(place).collect(), answers })
}

impl Wanted<'_> {
    /// The keys and the values of a row that is filled.
    fn filled(&self, row: &Person, answer: &Answer) -> Result<Vec<Value>> {
        let key = |name: &String| {
            row.row.get(name).cloned().ok_or_else(|| {
                Error::permanent("column_not_found", format!("the query gives no column `{name}`"))
                    .hint(format!("`into.keys` names columns of the query too; beside them it gives `{}`", self.ip))
            })
        };
        let mut values = self.keys.iter().map(key).collect::<Result<Vec<_>>>()?;
        values.extend(self.fields.iter().map(|field| answer.field(field)));
        Ok(values)
    }
}

impl Cursor {
    fn behind(&self, page: &[Person], chunk: usize) -> Self {
        Self {
            after: page.last().map(|row| row.key.clone()).or_else(|| self.after.clone()),
            rows: self.rows + page.len() as u64,
            finished: page.len() < chunk,
            ..self.clone()
        }
    }

    fn tell(&self, ctx: &Context) {
        let total = if self.finished { self.rows } else { self.total.max(self.rows) };
        let counts = [("found", self.found), ("missing", self.missing), ("invalid", self.invalid)];
        let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let unit = "addresses".into();
        ctx.progress.committed(Report { done: self.rows, total: Some(total), unit, message: None, counts });
    }
}
