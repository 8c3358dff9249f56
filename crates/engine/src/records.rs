//! Params that refer to rows: the run carries the reference, and a step that names more of the row has it read anew.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use super::Inner;
use super::end::error_json;
use afterload_core::error::{Class, Error, Result};
use afterload_pipeline::expr::names;
use afterload_pipeline::params::{Missing, RecordRule};
use afterload_pipeline::plan::{Plan, Step};
use afterload_pipeline::{ParamType, Scope};
use afterload_state::{Ending, RunRecord, StepStatus};

/// Reads rows of the databases that pipelines work on.
pub trait RecordSource: Send + Sync {
    /// The row that `rule` finds by this key, read now; `None` if there is none. `stop` ends the statement itself.
    fn read_record<'a>(
        &'a self,
        rule: &'a RecordRule,
        key: &'a Value,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Option<Map<String, Value>>>>;
}

/// How long a row may take: it is found by its key.
const READING: Duration = Duration::from_secs(10);
const NOT_FOUND: &str = "record_not_found";

/// The params of a run as expressions see them where no row is read: of a record its reference.
pub(super) fn references(plan: &Plan, run: &RunRecord) -> Map<String, Value> {
    let mut params = run.params.as_object().cloned().unwrap_or_default();
    for (name, rule) in records(plan) {
        if let Some(reference) = params.get(name).and_then(Value::as_str) {
            let fields = rule.fields(reference);
            params.insert(name.to_owned(), Value::Object(fields));
        }
    }
    params
}

/// Whether the error says that a step has nothing to do because its row is gone.
pub(super) fn skips(error: &Error) -> bool {
    error.code() == NOT_FOUND && error.class() == Class::Stopped
}

/// The end of such a step.
pub(super) fn skipped(error: &Error) -> Ending {
    Ending::Final { status: StepStatus::Skipped, outputs: None, error: Some(error_json(error)) }
}

fn records(plan: &Plan) -> impl Iterator<Item = (&str, &RecordRule)> {
    plan.params.iter().filter_map(|(name, param)| match &param.kind {
        ParamType::Record(rule) => Some((name.as_str(), rule)),
        _ => None,
    })
}

/// Whether one of these names needs the row of a record, and not just its reference.
fn needs_row(names: &BTreeSet<String>, param: &str, rule: &RecordRule) -> bool {
    names.iter().any(|name| {
        let mut parts = name.split('.');
        match (parts.next(), parts.next(), parts.next()) {
            (Some("params"), None, _) => true,
            (Some("params"), Some(named), field) if named == param => {
                field.is_none_or(|field| !rule.field_names().contains(&field))
            }
            _ => false,
        }
    })
}

impl Inner {
    /// The scope with the rows that the expressions of a step name, read now.
    pub(super) async fn with_records(&self, scope: Scope, run: &RunRecord, plan: &Plan, step: &Step) -> Result<Scope> {
        if records(plan).next().is_none() {
            return Ok(scope);
        }
        let mut named = names(&step.with);
        if let Some(output) = &step.output {
            named.extend(names(&output.key.as_str().into()));
        }
        let mut params = references(plan, run);
        let mut read = false;
        for (name, rule) in records(plan).filter(|(name, rule)| needs_row(&named, name, rule)) {
            // An optional one that was not given stays none.
            if let Some(Value::Object(fields)) = params.get_mut(name) {
                let mut row = self.row(rule, fields).await?;
                row.append(fields);
                *fields = row;
                read = true;
            }
        }
        Ok(if read { scope.params(&params) } else { scope })
    }

    async fn row(&self, rule: &RecordRule, fields: &Map<String, Value>) -> Result<Map<String, Value>> {
        let key = fields.get(&rule.key).cloned().unwrap_or_default();
        let stop = CancellationToken::new();
        // Ends the statement itself, not just the wait for it.
        let _ends = stop.clone().drop_guard();
        let reading = self.records.read_record(rule, &key, &stop);
        let read = tokio::time::timeout(READING, reading).await.map_err(|_| {
            let message = format!("reading a row of `{}` took longer than {} s", rule.table, READING.as_secs());
            Error::transient("record_timeout", message).hint(format!("is there an index on `{}`?", rule.key))
        })?;
        let reference = fields.get("ref").and_then(Value::as_str).unwrap_or_default();
        match (read?, rule.missing) {
            (Some(row), _) => Ok(row),
            (None, Missing::Fail) => Err(Error::permanent(NOT_FOUND, format!("there is no record `{reference}`"))
                .hint("it was deleted, or never was; `missing: skip` on the param skips the step instead")),
            // Nothing is wrong with the step: it has nothing to do.
            (None, Missing::Skip) => Err(Error::stopped(NOT_FOUND, format!("there is no record `{reference}`"))),
        }
    }
}
