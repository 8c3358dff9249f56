//! Record params: the run stores a reference, and a step that needs more of the row reads it when it starts.

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

/// Reads rows from target databases.
pub trait RecordSource: Send + Sync {
    /// Reads the row with this key; `None` if there is none. `stop` cancels the statement in the database.
    fn read_record<'a>(
        &'a self,
        rule: &'a RecordRule,
        key: &'a Value,
        stop: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Option<Map<String, Value>>>>;
}

/// The timeout for reading one row by its key.
const RECORD_READ_TIMEOUT: Duration = Duration::from_secs(10);

/// The params in expressions, with the reference fields in place of each record. No row is read.
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

/// True if the step has nothing to do because its row no longer exists.
pub(super) fn is_skip_error(error: &Error) -> bool {
    error.code() == codes::RECORD_NOT_FOUND && error.retryability() == Retryability::Stopped
}

pub(super) fn skipped_end(error: &Error) -> AttemptEnd {
    AttemptEnd::Final { status: StepStatus::Skipped, outputs: None, error: Some(error_to_json(error)) }
}

fn record_rules(plan: &PipelinePlan) -> impl Iterator<Item = (&str, &RecordRule)> {
    plan.params.iter().filter_map(|(name, param)| match &param.kind {
        ParamType::Record(rule) => Some((name.as_str(), rule)),
        _ => None,
    })
}

/// True if one of these names needs the row, and not only the reference.
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

/// Reads the rows that the expressions of a step refer to.
#[derive(Clone)]
pub(crate) struct RecordLoader(pub(crate) Arc<dyn RecordSource>);

impl RecordLoader {
    /// The context with the rows that the step refers to, read now.
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
            // An optional record param without a value has nothing to read.
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
        // A timeout must also cancel the statement in the database.
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
            // This is not an error of the step: `missing: skip` asks for a skip.
            (None, OnMissingRow::Skip) => {
                Err(Error::new(codes::RECORD_NOT_FOUND, format!("there is no record `{reference}`"))
                    .with_retryability(Retryability::Stopped))
            }
        }
    }
}
