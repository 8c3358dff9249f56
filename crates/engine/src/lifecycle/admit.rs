//! Which runs may be under way, where a pipeline says how many.
//!
//! A run joins the line of its key in the transaction that accepts it, and free places go to the first in line there and
//! then; the transaction that ends a run gives its place to the next one. What neither can do (a run whose time comes, a
//! crash before those that are superseded were asked to stop, a definition that cannot be read) is done by a look every
//! second.

use afterload_core::failpoint;
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::EngineCore;
use crate::lifecycle::advance::Transition;
use crate::lifecycle::finish::error_to_json;
use crate::run_view::run_url;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_pipeline::{ExprContext, OnRunConflict, PipelinePlan, resolve_to_text};
use afterload_state::{ConcurrencySlot, DbTx, RunRecord, RunStatus};

/// So many runs get a place in one transaction; the next look goes on.
const MAX_ADMITTED_PER_TX: usize = 100;
/// So many runs, or keys, are taken up in one look.
const RECONCILE_BATCH_ROWS: u32 = 100;

/// How a run comes to want a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AdmissionKind {
    /// It is new.
    New,
    /// It has ended before, and somebody wants it to go on: then it waits even where a new one would be skipped.
    Retry,
}

impl EngineCore {
    /// The place that a new run will need; `None` if its pipeline does not say how many may be under way.
    ///
    /// # Errors
    /// `concurrency_key_invalid`
    pub(crate) fn concurrency_slot(&self, plan: &PipelinePlan, run: &RunRecord) -> Result<Option<ConcurrencySlot>> {
        let Some(said) = &plan.concurrency else { return Ok(None) };
        let facts = json!({ "id": run.id, "url": run_url(&self.config.base_url, &run.id), "pipeline": run.pipeline });
        let params = crate::record_params::params_with_references(plan, run);
        let secrets = self.config.secrets.clone();
        let scope =
            ExprContext::new().with_params(&params).with_event(&run.event.clone().unwrap_or_default()).with_run(&facts);
        let scope = scope.with_secrets(move |name| secrets.get(name).map(|secret| secret.expose_secret().to_owned()));
        let key = resolve_to_text(said.key.as_deref().unwrap_or_default(), &scope).map_err(|error| {
            let error = self.redactor.redact_error(error);
            let told = Error::permanent("concurrency_key_invalid", error.message()).context("`concurrency.key`");
            match error.hint_text() {
                Some(hint) => told.with_hint(hint),
                None => told,
            }
        })?;
        // A digest: what the key says may be long, or nobody's business.
        let key = hex::encode(Sha256::digest(format!("{}\n{key}", run.pipeline)));
        let supersedes = said.on_conflict == OnRunConflict::CancelPrevious;
        Ok(Some(ConcurrencySlot { key, limit: said.limit, supersedes, queue_position: None, waiting_since: None }))
    }

    /// Lets an accepted run begin, if there is room for it. If not it waits, or ends at once where the pipeline says so.
    pub(crate) async fn admit_run(
        &self,
        tx: &mut DbTx,
        run: &RunRecord,
        plan: &PipelinePlan,
        asked: AdmissionKind,
    ) -> Result<Transition> {
        let Some(place) = &run.concurrency_slot else { return self.advance_steps(tx, run).await };
        if run.run_at.is_some_and(|time| time > clock::now_millis()) {
            tx.set_run_waiting(&run.id, place, false).await?;
            return Ok(Transition::default());
        }
        tx.lock_concurrency_key(&place.key).await?;
        tx.set_run_waiting(&run.id, place, true).await?;
        let mut moves = Transition { admitted: self.admit_waiting(tx, &place.key).await?, ..Transition::default() };
        let begins = moves.admitted.iter().any(|(released, _)| released.id == run.id);
        let skips = plan.concurrency.as_ref().is_some_and(|said| said.on_conflict == OnRunConflict::Skip);
        if skips && !begins && asked == AdmissionKind::New {
            let other = tx.find_first_active_run(&place.key).await?.unwrap_or_default();
            let error = Error::stopped("concurrency_skipped", format!("the run `{other}` is under way"))
                .with_hint("`concurrency` of the pipeline says that a run too many is skipped; a retry waits until there is room")
                .with_details(json!({ "run": other }));
            tx.set_run_error(&run.id, &error_to_json(&error)).await?;
            moves.notify = tx.cancel_waiting_run(&run.id).await?;
            moves.ended = Some(RunStatus::Cancelled);
        }
        Ok(moves)
    }

    /// Moves what can move in a run, and in those that get its place when it has ended.
    pub(crate) async fn advance_run(&self, tx: &mut DbTx, run: &RunRecord) -> Result<Transition> {
        let Some(place) = &run.concurrency_slot else { return self.advance_steps(tx, run).await };
        match (place.waiting_since, run.cancel_requested_at) {
            (None, _) => {
                let mut moves = self.advance_steps(tx, run).await?;
                if moves.ended.is_some() {
                    tx.lock_concurrency_key(&place.key).await?;
                    moves.admitted = self.admit_waiting(tx, &place.key).await?;
                }
                Ok(moves)
            }
            // Nothing of it has begun, so there is nothing to clean up: `finally` does not run either.
            (Some(_), Some(_)) => {
                let notify = tx.cancel_waiting_run(&run.id).await?;
                Ok(Transition { ended: Some(RunStatus::Cancelled), notify, ..Transition::default() })
            }
            (Some(_), None) => Ok(Transition::default()),
        }
    }

    /// Gives the free places of a key, which the caller has locked, to those that wait for one.
    async fn admit_waiting(&self, tx: &mut DbTx, key: &str) -> Result<Vec<(RunRecord, Transition)>> {
        let mut released = Vec::new();
        while released.len() < MAX_ADMITTED_PER_TX
            && let Some(run) = tx.admit_next_run(key).await?
        {
            let moves = match self.advance_steps(tx, &run).await {
                Err(error) if error.code().starts_with("definition_") => fail_unreadable_run(tx, &run, &error).await?,
                moves => moves?,
            };
            released.push((run, moves));
        }
        Ok(released)
    }

    /// After the commit that accepted a run: asks those to stop that it supersedes. What fails is done by the next look.
    pub(crate) async fn cancel_superseded_by(&self, run: &RunRecord) {
        if run.concurrency_slot.as_ref().is_some_and(|place| place.supersedes)
            && let Err(error) = self.cancel_superseded().await
        {
            tracing::warn!(run.id = run.id, error.code = error.code(), "earlier runs are not yet stopped: {error}");
        }
    }

    async fn cancel_superseded(&self) -> Result<()> {
        for id in self.db.list_superseded_runs(RECONCILE_BATCH_ROWS).await? {
            match self.cancel_run(&id).await {
                // It made room by itself.
                Err(error) if ["run_ended", "run_not_found"].contains(&error.code()) => {}
                stopped => stopped?,
            }
        }
        Ok(())
    }

    /// Goes on with what waits for room and has not been moved by anybody: runs whose time has come, places that are
    /// free all the same, cancels that a crash left half done. One that fails holds up no other.
    pub(crate) async fn reconcile_concurrency(&self) -> Result<()> {
        if !self.db.has_waiting_runs().await? {
            return Ok(());
        }
        for id in self.db.list_due_waiting_runs(RECONCILE_BATCH_ROWS).await? {
            log_failure(&id, self.enqueue_for_slot(&id).await);
        }
        for key in self.db.list_keys_with_capacity(RECONCILE_BATCH_ROWS).await? {
            log_failure(&key, self.admit_waiting_for_key(&key).await);
        }
        log_failure("", self.cancel_superseded().await);
        for id in self.db.list_cancelled_waiting_runs(RECONCILE_BATCH_ROWS).await? {
            log_failure(&id, self.cancel_idle_steps(&id).await);
        }
        Ok(())
    }

    /// Puts a run in line whose time has come.
    async fn enqueue_for_slot(&self, id: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let run = tx.bump_revision(id).await?;
        let waits = run
            .concurrency_slot
            .as_ref()
            .is_some_and(|place| place.waiting_since.is_some() && place.queue_position.is_none());
        if !waits || run.finished_at.is_some() || run.cancel_requested_at.is_some() {
            return Ok(());
        }
        let moves = match self.load_plan_in(&mut tx, &run.digest).await {
            Ok(compiled) => self.admit_run(&mut tx, &run, &compiled.plan, AdmissionKind::New).await?,
            Err(error) if error.code().starts_with("definition_") => fail_unreadable_run(&mut tx, &run, &error).await?,
            Err(error) => return Err(error),
        };
        failpoint!("line_up.before_commit");
        tx.commit().await?;
        failpoint!("line_up.after_commit");
        self.after_commit(&run, &moves);
        Ok(())
    }

    async fn admit_waiting_for_key(&self, key: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        tx.lock_concurrency_key(key).await?;
        let released = self.admit_waiting(&mut tx, key).await?;
        failpoint!("places.before_commit");
        tx.commit().await?;
        failpoint!("places.after_commit");
        released.iter().for_each(|(run, moves)| self.after_commit(run, moves));
        Ok(())
    }
}

/// Gives a run up whose definition this version cannot read, so that it takes nobody's place.
async fn fail_unreadable_run(tx: &mut DbTx, run: &RunRecord, error: &Error) -> Result<Transition> {
    let notify = tx.fail_unreadable_run(&run.id, &error_to_json(error)).await?;
    Ok(Transition { ended: Some(RunStatus::Failed), notify, ..Transition::default() })
}

fn log_failure(what: &str, done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(what, error.code = error.code(), "what waits for room was not moved; trying again: {error}");
    }
}
