//! Fills columns of a table in chunks. Each chunk commits together with its cursor.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{FillTarget, GeoLookupDeps, GeoLookupOutputs, LookupRows, StepWaiter};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_geoip::{self as geo, GeoField, GeoRecord, ProviderChain};
use afterload_step_api::{ProgressUpdate, StepContext};
use afterload_target_db::{
    Checkpoint, CheckpointCommit, Fence, KeyRange, ParsedStatement, RecipientPage, RecipientQuery, RowSource, Scalar,
    TableInfo, read_checkpoint,
};

/// The cursor that commits with every chunk.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct GeoLookupCursor {
    after: Option<Value>,
    total: u64,
    rows: u64,
    found: u64,
    missing: u64,
    invalid: u64,
    finished: bool,
}

/// Fills the rows, starting at the cursor of the last attempt.
pub async fn fill_rows(
    ctx: &StepContext,
    deps: &GeoLookupDeps,
    chain: &ProviderChain,
    source: LookupRows,
    into: FillTarget,
) -> Result<GeoLookupOutputs> {
    let LookupRows { connection, sql, key, ip, bind, chunk } = source;
    let connection = deps.connections.get(&connection).await?;
    let keys = if into.keys.is_empty() { vec![key.clone()] } else { into.keys };
    let columns = match into.columns {
        Some(columns) => columns,
        None => columns_like_outputs(&connection.describe_table(&into.table).await?, &keys)?,
    };
    let (columns, fields): (Vec<_>, Vec<_>) = columns.into_iter().unzip();
    let fields = Arc::<[String]>::from(fields);
    let filling = connection.prepare_bulk_update(&into.table, &keys, &columns).await?;
    let rows = RecipientQuery::new(&ParsedStatement::parse(&sql, connection.dialect())?, &key, bind);
    let fence = connection.keeps_checkpoints().then(|| Fence::new(&ctx.step.key, ctx.step.epoch));
    let claimed = match &fence {
        Some(fence) => connection.claim_checkpoint(fence).await?,
        None => None,
    };
    let mut cursor = match claimed {
        Some(text) => read_checkpoint(&text)?,
        None => GeoLookupCursor {
            total: rows.count_in_range(&connection, &KeyRange::default(), &ctx.stop).await?,
            ..GeoLookupCursor::default()
        },
    };
    cursor.report_progress(ctx);
    while !cursor.finished {
        ctx.check_stopped()?;
        let span = KeyRange { after: cursor.after.clone(), until: None };
        let page = rows.fetch_page(&connection, &span, chunk, &ctx.stop).await?;
        let count = page.rows.len() as u64;
        let next = cursor.advance_past(&page, chunk);
        let (filled, invalid) =
            resolve_addresses(ctx, deps, chain, page, LookupColumns { ip: &ip, keys: &keys, fields: fields.clone() })
                .await?;
        let known = filled.row_count() as u64;
        let next = GeoLookupCursor {
            found: cursor.found + known,
            invalid: cursor.invalid + invalid,
            missing: cursor.missing + count - known - invalid,
            ..next
        };
        let saved = Checkpoint { cursor: serde_json::to_string(&next).unwrap_or_default(), finished: next.finished };
        let commit = CheckpointCommit { fence: fence.as_ref(), checkpoint_fn: Box::new(|_| Ok(saved)) };
        connection.write_bulk_update(&filling, filled, &ctx.stop, commit).await?;
        cursor = next;
        cursor.report_progress(ctx);
    }
    let GeoLookupCursor { rows, found, missing, invalid, .. } = cursor;
    Ok(GeoLookupOutputs { rows, found, missing, invalid, ..GeoLookupOutputs::default() })
}

/// Maps the columns of a table whose names equal outputs.
fn columns_like_outputs(table: &TableInfo, keys: &[String]) -> Result<BTreeMap<String, String>> {
    let outputs =
        GeoRecord::FIELD_NAMES.into_iter().filter(|name| *name != "ip" && !keys.iter().any(|key| key == name));
    let outputs: Vec<_> = outputs.collect();
    let columns = table.columns.iter().map(|column| &column.name).filter(|name| outputs.contains(&name.as_str()));
    let columns: BTreeMap<_, _> = columns.map(|name| (name.clone(), name.clone())).collect();
    match columns.is_empty() {
        true => {
            let message = format!("no column of `{}` is named as what is known of an address", table.name);
            let known = outputs.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            Err(Error::new(codes::COLUMN_NOT_FOUND, message)
                .with_hint(format!("say `columns`, such as `{{ town: city }}`; there are {known}")))
        }
        false => Ok(columns),
    }
}

/// The rows of a page with a known address: the key columns, then the fields of the records.
struct ResolvedRows {
    page: RecipientPage,
    keys: Vec<usize>,
    fields: Arc<[String]>,
    /// The index of the row, its address, and the index of its record.
    rows: Vec<(usize, IpAddr, usize)>,
    /// One record per distinct address.
    answers: Vec<Option<Arc<GeoRecord>>>,
}

impl RowSource for ResolvedRows {
    fn row_count(&self) -> usize {
        self.rows.len()
    }

    fn value_at(&self, row: usize, column: usize) -> Scalar<'_> {
        let (row, ip, answer) = self.rows[row];
        let Some(field) = column.checked_sub(self.keys.len()) else {
            return self.page.rows.value_at(row, self.keys[column]).into();
        };
        match self.fields[field].as_str() {
            "ip" => Scalar::Text(ip.to_string().into()),
            name => match self.answers[answer].as_ref().and_then(|answer| answer.get_field(name)) {
                Some(GeoField::Text(text)) => Scalar::Text(text.into()),
                Some(GeoField::Degrees(degrees)) => Scalar::Float(degrees),
                // A network number has 32 bits.
                Some(GeoField::Number(number)) => i64::try_from(number).map_or(Scalar::Null, Scalar::Integer),
                None => Scalar::Null,
            },
        }
    }
}

/// The columns of a page that a look-up reads, and the fields that it writes.
struct LookupColumns<'a> {
    ip: &'a str,
    keys: &'a [String],
    fields: Arc<[String]>,
}

/// Looks up the distinct addresses of a page. Also returns the number of rows without a valid address.
async fn resolve_addresses(
    ctx: &StepContext,
    deps: &GeoLookupDeps,
    chain: &ProviderChain,
    page: RecipientPage,
    columns: LookupColumns<'_>,
) -> Result<(ResolvedRows, u64)> {
    let LookupColumns { ip, keys, fields } = columns;
    let Some(column) = page.rows.column_index(ip) else {
        return match page.rows.is_empty() {
            true => Ok((ResolvedRows { page, keys: Vec::new(), fields, rows: Vec::new(), answers: Vec::new() }, 0)),
            false => Err(no_address_column(ip)),
        };
    };
    let key = |name: &String| {
        page.rows.column_index(name).ok_or_else(|| {
            Error::new(codes::COLUMN_NOT_FOUND, format!("the query gives no column `{name}`"))
                .with_hint(format!("`into.keys` names columns of the query too; beside them it gives `{ip}`"))
        })
    };
    let keys = keys.iter().map(key).collect::<Result<Vec<_>>>()?;
    let address = |row: usize| match page.rows.value_at(row, column) {
        Value::String(text) => Ok(geo::parse_ip(text)),
        Value::Null => Ok(None),
        _ => Err(no_address_column(ip)),
    };
    let addresses = (0..page.rows.len()).map(address).collect::<Result<Vec<_>>>()?;
    let mut distinct: Vec<IpAddr> = addresses.iter().flatten().copied().collect();
    let invalid = (addresses.len() - distinct.len()) as u64;
    distinct.sort_unstable();
    distinct.dedup();
    let answers = deps.geo.find_records(chain, &distinct, (&StepWaiter(ctx), &ctx.stop)).await?;
    let known = |(row, ip): (usize, &Option<IpAddr>)| {
        let ip = (*ip)?;
        let place = distinct.binary_search(&ip).ok()?;
        answers[place].is_some().then_some((row, ip, place))
    };
    let rows = addresses.iter().enumerate().filter_map(known).collect();
    Ok((ResolvedRows { page, keys, fields, rows, answers }, invalid))
}

fn no_address_column(column: &str) -> Error {
    Error::new(codes::COLUMN_NOT_FOUND, format!("the query gives no text in a column `{column}`"))
        .with_hint("name the column with the address in `rows.ip`, and cast it to text if it is none")
}

impl GeoLookupCursor {
    fn advance_past(&self, page: &RecipientPage, chunk: usize) -> Self {
        Self {
            after: page.last_key().cloned().or_else(|| self.after.clone()),
            rows: self.rows + page.rows.len() as u64,
            finished: page.rows.len() < chunk,
            ..self.clone()
        }
    }

    fn report_progress(&self, ctx: &StepContext) {
        let total = if self.finished { self.rows } else { self.total.max(self.rows) };
        let counts = [("found", self.found), ("missing", self.missing), ("invalid", self.invalid)];
        let counts = counts.into_iter().map(|(name, count)| (name.to_owned(), count)).collect();
        let unit = "addresses".into();
        ctx.progress.report_committed(ProgressUpdate {
            done: self.rows,
            total: Some(total),
            unit,
            message: None,
            counts,
        });
    }
}
