//! Params that refer to rows: the run carries the reference, and a step that names more of the row has it read anew.

use crate::codes;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

use crate::run_errors::error_to_json;
use afterload_core::error::{Error, Result, Retryability};
use afterload_pipeline::expr::referenced_names;
use afterload_pipeline::params::{OnMissingRow, RecordRule};
use afterload_pipeline::plan::{PipelinePlan, PlanStep};
use afterload_pipeline::{ExprContext, ParamType};
use afterload_state::{AttemptEnd, RunRecord, StepStatus};

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
const RECORD_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The params of a run as expressions see them where no row is read: of a record its reference.
pub(super) fn params_with_references(plan: &PipelinePlan, run: &RunRecord) -> Map<String, Value> {
    let mut params = run.params.as_object().cloned().unwrap_or_default();
    for (name, rule) in record_rules(plan) {
        if let Some(reference) = params.get(name).and_then(Value::as_str) {
            let fields = rule.reference_fields(reference);
            params.insert(name.to_owned(), Value::Object(fields));
        }
    }
    params
}

/// Whether the error says that a step has nothing to do because its row is gone.
pub(super) fn is_skip_error(error: &Error) -> bool {
    error.code() == codes::RECORD_NOT_FOUND && error.retryability() == Retryability::Stopped
}

/// The end of such a step.
pub(super) fn skipped_end(error: &Error) -> AttemptEnd {
    AttemptEnd::Final { status: StepStatus::Skipped, outputs: None, error: Some(error_to_json(error)) }
}

fn record_rules(plan: &PipelinePlan) -> impl Iterator<Item = (&str, &RecordRule)> {
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

/// Reads the rows that the expressions of a step name.
#[derive(Clone)]
pub(crate) struct RecordLoader(pub(crate) Arc<dyn RecordSource>);

impl RecordLoader {
    /// The scope with the rows that the expressions of a step name, read now.
    pub(super) async fn with_records(
        &self,
        scope: ExprContext,
        run: &RunRecord,
        plan: &PipelinePlan,
        step: &PlanStep,
    ) -> Result<ExprContext> {
        if record_rules(plan).next().is_none() {
            return Ok(scope);
        }
        let mut named = referenced_names(&step.with);
        if let Some(output) = &step.output {
            named.extend(referenced_names(&output.key.as_str().into()));
        }
        let mut params = params_with_references(plan, run);
        let mut read = false;
        for (name, rule) in record_rules(plan).filter(|(name, rule)| needs_row(&named, name, rule)) {
            // An optional one that was not given stays none.
            if let Some(Value::Object(fields)) = params.get_mut(name) {
                let mut row = self.fetch_record(rule, fields).await?;
                row.append(fields);
                *fields = row;
                read = true;
            }
        }
        Ok(if read { scope.with_params(&params) } else { scope })
    }

    async fn fetch_record(&self, rule: &RecordRule, fields: &Map<String, Value>) -> Result<Map<String, Value>> {
        let key = fields.get(&rule.key).cloned().unwrap_or_default();
        let stop = CancellationToken::new();
        // Ends the statement itself, not just the wait for it.
        let _ends = stop.clone().drop_guard();
        let reading = self.0.read_record(rule, &key, &stop);
        let read = tokio::time::timeout(RECORD_READ_TIMEOUT, reading).await.map_err(|_| {
            let message =
                format!("reading a row of `{}` took longer than {} s", rule.table, RECORD_READ_TIMEOUT.as_secs());
            Error::new(codes::RECORD_TIMEOUT, message).with_hint(format!("is there an index on `{}`?", rule.key))
        })?;
        let reference = fields.get("ref").and_then(Value::as_str).unwrap_or_default();
        match (read?, rule.missing) {
            (Some(row), _) => Ok(row),
            (None, OnMissingRow::Fail) => {
                Err(Error::new(codes::RECORD_NOT_FOUND, format!("there is no record `{reference}`"))
                    .with_hint("it was deleted, or never was; `missing: skip` on the param skips the step instead"))
            }
            // Nothing is wrong with the step: it has nothing to do.
            (None, OnMissingRow::Skip) => {
                Err(Error::new(codes::RECORD_NOT_FOUND, format!("there is no record `{reference}`"))
                    .with_retryability(Retryability::Stopped))
            }
        }
    }
}
