//! `geo.lookup`: looks up the location of IP addresses.

mod rows;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::units::HumanDuration;
use afterload_geoip::{self as geo, CallWaiter, GeoLocator, GeoProvider, GeoRecord, ProviderChain};
use afterload_pipeline::{Templated, Validator};
use afterload_step_api::{ProgressUpdate, Step, StepContext};
use afterload_target_db::{
    BindValues, Connections, check_bind, check_reads, check_result_column, check_sql, default_connection,
};

/// The outputs are stored with the run, so the list has a limit.
const MAX_ADDRESSES: usize = 1_000;

/// Finds out where addresses are: of one (`ip`), of a list (`ips`), or of the rows of a table (`rows`), whose columns are
/// filled.
///
/// The providers are asked in their order, until one knows. One that fails is passed over; the step fails only if no other
/// knew. Addresses without a public location (private, reserved, multicast, documentation and the like, also as IPv4 within
/// IPv6) are answered at once from `local`, and nobody is asked.
///
/// Progress counts addresses. Promise: look-ups may repeat; every chunk of rows is filled once, also through crashes,
/// because its cursor is committed with it in `afterload_checkpoints`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct GeoLookup {
    /// The address. A port, brackets, and IPv4 within IPv6 do not matter.
    #[serde(default)]
    ip: Option<Templated<String>>,
    /// Addresses, at most 1,000. What is no address fails nothing: its answer is null but for `error`, and it counts as
    /// `invalid`.
    #[serde(default)]
    ips: Option<Templated<Vec<Value>>>,
    /// Rows with an address each.
    #[serde(default)]
    rows: Option<LookupRows>,
    /// What is filled in the rows.
    #[serde(default)]
    into: Option<FillTarget>,
    /// Who is asked, in this order: `mmdb:city` is the file `city.mmdb` in `geo.folder` of the configuration, with the schema
    /// of MaxMind or of ip-location-db. It is read again when it has changed. `http:ipapi` is the service `ipapi` of `geo.http`
    /// in the configuration, which is called no more often than it allows, and not while it keeps failing.
    providers: Vec<String>,
    /// How long what services say is believed; that they do not know an address for a day at most.
    #[serde(default = "default_cache_ttl")]
    cache: HumanDuration,
    /// What is said of addresses without a public location, by the names of the outputs; default nothing.
    #[serde(default)]
    local: GeoRecord,
}

/// Rows with an address each.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct LookupRows {
    /// The connection of the database.
    #[serde(default = "default_connection")]
    connection: String,
    /// A `SELECT` without order and limit. It is paged by `key`. Parameters are written `:name`; it cannot hold an
    /// expression.
    sql: String,
    /// The column of the query that tells rows apart: whole numbers, texts or UUIDs.
    key: String,
    /// The column of the query with the address, as text; default `ip`.
    #[serde(default = "default_ip_column")]
    ip: String,
    /// The values of the parameters. A list alone in `IN (:name)` stands for its items.
    #[serde(default)]
    bind: BindValues,
    /// The most rows in a chunk, which is one transaction.
    #[serde(default = "default_chunk_rows")]
    #[schemars(range(min = 1, max = 100_000))]
    chunk: usize,
}

/// What is filled in the rows. A row whose address nobody knows stays as it is.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct FillTarget {
    /// The table, in the same database.
    table: String,
    /// The columns, of the table and of the query, by which its rows are found; default the `key` of the rows.
    #[serde(default)]
    keys: Vec<String>,
    /// The columns, each with the name of the output that it holds, such as `{ country: country_code }`; default those that are
    /// named as outputs are, but for `ip` and the keys.
    #[serde(default)]
    columns: Option<BTreeMap<String, String>>,
}

/// What was found out.
#[derive(Debug, Default, Serialize, JsonSchema)]
pub struct GeoLookupOutputs {
    /// Of `ip`.
    #[serde(flatten)]
    answer: GeoRecord,
    /// Of `ips`, in their order.
    answers: Vec<ListedAnswer>,
    /// How many rows were looked at.
    rows: u64,
    /// How many addresses are known.
    found: u64,
    /// How many addresses nobody knows.
    missing: u64,
    /// How many rows and items of `ips` have no address, or something that is none.
    invalid: u64,
}

/// The answer for an item of `ips`.
#[derive(Debug, Default, Serialize, JsonSchema)]
struct ListedAnswer {
    #[serde(flatten)]
    record: GeoRecord,
    /// Why the item is no address; null for an address.
    error: Option<String>,
}

/// The dependencies of [`GeoLookup`].
#[derive(Clone)]
pub struct GeoLookupDeps {
    /// Looks up the location of addresses.
    pub geo: GeoLocator,
    /// The connections to the users' databases.
    pub connections: Connections,
}

impl Step for GeoLookup {
    const KIND: &'static str = "geo.lookup";
    const EXAMPLE: &'static str = r#"ip: "${{ params.ip }}"
providers: [mmdb:city]
local: { country: nowhere, city: office }
"#;
    type Outputs = GeoLookupOutputs;
    type Deps = GeoLookupDeps;

    fn check(&self, check: &mut Validator<'_>) {
        let sources = [self.ip.is_some(), self.ips.is_some(), self.rows.is_some()];
        let readable = ["ip", "ips", "rows"].iter().all(|name| check.is_readable(&[name]));
        if readable && sources.iter().filter(|there| **there).count() != 1 {
            check.report_invalid(&[], "expected one of `ip`, `ips` and `rows`", "");
        }
        if self.providers.is_empty() {
            check.report_invalid(&["providers"], "nobody would be asked", "such as `providers: [mmdb:city]`");
        }
        for (place, provider) in self.providers.iter().enumerate() {
            if let Err(error) = GeoProvider::parse(provider) {
                let at = place.to_string();
                check.report_invalid(&["providers", &at], error.message(), error.hint_text().unwrap_or_default());
            }
        }
        for (name, there) in [("ip", self.local.ip.is_some()), ("provider", self.local.provider.is_some())] {
            if there {
                check.report_invalid(&["local", name], format!("`{name}` is filled by the step"), "");
            }
        }
        match (&self.rows, &self.into) {
            (Some(rows), Some(into)) => self.check_rows(check, rows, into),
            (Some(_), None) if check.is_readable(&["into"]) => {
                check.report_invalid(&["rows"], "`rows` needs `into`", "say which columns of which table are filled");
            }
            (None, Some(_)) if readable => check.report_invalid(&["into"], "`into` is for `rows`", "remove it"),
            _ => {}
        }
    }

    async fn run(self, ctx: StepContext, deps: GeoLookupDeps) -> Result<GeoLookupOutputs> {
        let providers = self.providers.iter().map(|text| GeoProvider::parse(text)).collect::<Result<Vec<_>>>()?;
        let chain = ProviderChain { providers, local_record: self.local, max_cache_age: self.cache.0 };
        match (self.ip, self.ips, self.rows, self.into) {
            (Some(ip), None, None, None) => {
                let ip = parse_address(&ip.into_value()?)?;
                let answer =
                    deps.geo.find_records(&chain, &[ip], (&StepWaiter(&ctx), &ctx.stop)).await?.pop().flatten();
                let found = u64::from(answer.is_some());
                let answer = record_with_ip(ip, answer);
                report_progress(&ctx, 1);
                Ok(GeoLookupOutputs { answer, found, missing: 1 - found, ..GeoLookupOutputs::default() })
            }
            (None, Some(ips), None, None) => {
                let ips = ips.into_value()?;
                if ips.len() > MAX_ADDRESSES {
                    let message = format!("{} addresses are given; expected at most {MAX_ADDRESSES}", ips.len());
                    return Err(Error::new(codes::GEO_TOO_MANY, message));
                }
                let outputs = locate_addresses(&ctx, &deps.geo, &chain, &ips).await?;
                report_progress(&ctx, ips.len() as u64);
                Ok(outputs)
            }
            (None, None, Some(source), Some(into)) => rows::fill_rows(&ctx, &deps, &chain, source, into).await,
            _ => Err(Error::new(codes::WITH_INVALID, "expected one of `ip`, `ips` and `rows` with `into`")),
        }
    }
}

impl GeoLookup {
    fn check_rows(&self, check: &mut Validator<'_>, rows: &LookupRows, into: &FillTarget) {
        check.check_connection(&["rows", "connection"], &rows.connection, true);
        let command = check_sql(check, &rows.connection, &["rows", "sql"], &rows.sql, &rows.bind, &[]);
        check_reads(check, &rows.connection, &["rows", "sql"], command.as_ref(), "rows are found by a `SELECT`");
        check_result_column(check, &rows.connection, &["rows", "key"], command.as_ref(), &rows.key);
        check_bind(check, &["rows", "bind"], &rows.bind, &[command]);
        if !(1..=100_000).contains(&rows.chunk) {
            check.report_invalid(&["rows", "chunk"], "`chunk` must be from 1 to 100000", "10000 is a good choice");
        }
        let Some(columns) = &into.columns else { return };
        if columns.is_empty() {
            check.report_invalid(&["into", "columns"], "nothing would be filled", "such as `columns: { city: city }`");
        }
        for (column, field) in columns {
            if !GeoRecord::FIELD_NAMES.contains(&field.as_str()) {
                let known = GeoRecord::FIELD_NAMES.map(|name| format!("`{name}`")).join(", ");
                check.report_invalid(
                    &["into", "columns", column],
                    format!("nobody knows a `{field}`"),
                    format!("there are {known}"),
                );
            }
            if into.keys.contains(column) {
                check.report_invalid(&["into", "columns", column], format!("`{column}` is a key"), "");
            }
        }
    }
}

/// Waits for the calls of a step, which holds no worker meanwhile.
struct StepWaiter<'a>(&'a StepContext);

impl CallWaiter for StepWaiter<'_> {
    fn wait(&self, pause: Duration) -> BoxFuture<'_, Result<()>> {
        Box::pin(self.0.waits.pause_for(pause))
    }
}

/// Looks up the addresses of a list. An item that is no address is answered with the reason.
async fn locate_addresses(
    ctx: &StepContext,
    geo: &GeoLocator,
    chain: &ProviderChain,
    items: &[Value],
) -> Result<GeoLookupOutputs> {
    let parsed: Vec<Result<IpAddr>> = items.iter().map(parse_item).collect();
    let ips: Vec<IpAddr> = parsed.iter().flatten().copied().collect();
    let records = geo.find_records(chain, &ips, (&StepWaiter(ctx), &ctx.stop)).await?;
    let found = records.iter().flatten().count() as u64;
    let (valid, all) = (ips.len() as u64, items.len() as u64);
    // There is one record for each address, in the same order.
    let mut records = records.into_iter();
    let answers = parsed.into_iter().map(|item| match item {
        Ok(ip) => ListedAnswer { record: record_with_ip(ip, records.next().flatten()), error: None },
        Err(error) => ListedAnswer { error: Some(error.message().to_owned()), ..ListedAnswer::default() },
    });
    let answers = answers.collect();
    Ok(GeoLookupOutputs { answers, found, missing: valid - found, invalid: all - valid, ..GeoLookupOutputs::default() })
}

fn parse_item(item: &Value) -> Result<IpAddr> {
    match item {
        Value::String(text) => parse_address(text),
        Value::Null => Err(Error::new(codes::GEO_IP_INVALID, "the address is missing")),
        other => parse_address(&other.to_string()),
    }
}

fn parse_address(text: &str) -> Result<IpAddr> {
    geo::parse_ip(text).ok_or_else(|| {
        let shown: String = text.chars().filter(|letter| !letter.is_control()).take(60).collect();
        Error::new(codes::GEO_IP_INVALID, format!("`{shown}` is not an IP address"))
    })
}

/// Adds the address to its record, which may be missing.
fn record_with_ip(ip: IpAddr, answer: Option<Arc<GeoRecord>>) -> GeoRecord {
    GeoRecord { ip: Some(ip.to_string()), ..answer.map(Arc::unwrap_or_clone).unwrap_or_default() }
}

fn report_progress(ctx: &StepContext, done: u64) {
    ctx.progress.report_committed(ProgressUpdate {
        done,
        total: Some(done),
        unit: "addresses".into(),
        ..ProgressUpdate::default()
    });
}

fn default_cache_ttl() -> HumanDuration {
    HumanDuration(std::time::Duration::from_secs(30 * 86_400))
}

fn default_ip_column() -> String {
    "ip".into()
}

fn default_chunk_rows() -> usize {
    10_000
}
