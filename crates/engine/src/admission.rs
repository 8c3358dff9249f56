//! Which runs may be under way, where a pipeline says how many.
//!
//! A run joins the line of its key in the transaction that accepts it, and free places go to the first in line there and
//! then; the transaction that ends a run gives its place to the next one. What neither can do (a run whose time comes, a
//! crash before those that are superseded were asked to stop, a definition that cannot be read) is done by a look every
//! second.

use afterload_core::failpoint;
use serde_json::json;
use sha2::{Digest, Sha256};

use super::Inner;
use super::advance::Moves;
use super::end::error_json;
use super::view::run_url;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_pipeline::{OnConflict, Plan, Scope, resolve_to_text};
use afterload_state::{Place, RunRecord, RunStatus, Tx};

/// So many runs get a place in one transaction; the next look goes on.
const RELEASED: usize = 100;
/// So many runs, or keys, are taken up in one look.
const BATCH: u32 = 100;

/// How a run comes to want a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// It is new.
    First,
    /// It has ended before, and somebody wants it to go on: then it waits even where a new one would be skipped.
    Again,
}

impl Inner {
    /// The place that a new run will need; `None` if its pipeline does not say how many may be under way.
    ///
    /// # Errors
    /// `concurrency_key_invalid`
    pub(super) fn place(&self, plan: &Plan, run: &RunRecord) -> Result<Option<Place>> {
        let Some(said) = &plan.concurrency else { return Ok(None) };
        let facts = json!({ "id": run.id, "url": run_url(&self.config.base_url, &run.id), "pipeline": run.pipeline });
        let params = super::records::references(plan, run);
        let secrets = self.config.secrets.clone();
        let scope = Scope::new().params(&params).event(&run.event.clone().unwrap_or_default()).run(&facts);
        let scope = scope.secrets(move |name| secrets.get(name).map(|secret| secret.reveal().to_owned()));
        let key = resolve_to_text(said.key.as_deref().unwrap_or_default(), &scope).map_err(|error| {
            let error = self.redactor.redact_error(error);
            let told = Error::permanent("concurrency_key_invalid", error.message()).context("`concurrency.key`");
            match error.hint_text() {
                Some(hint) => told.hint(hint),
                None => told,
            }
        })?;
        // A digest: what the key says may be long, or nobody's business.
        let key = hex::encode(Sha256::digest(format!("{}\n{key}", run.pipeline)));
        let supersedes = said.on_conflict == OnConflict::CancelPrevious;
        Ok(Some(Place { key, limit: said.limit, supersedes, turn: None, held_at: None }))
    }

    /// Lets an accepted run begin, if there is room for it. If not it waits, or ends at once where the pipeline says so.
    pub(super) async fn admit(&self, tx: &mut Tx, run: &RunRecord, plan: &Plan, asked: Asked) -> Result<Moves> {
        let Some(place) = &run.place else { return self.advance_alone(tx, run).await };
        if run.run_at.is_some_and(|time| time > clock::now()) {
            tx.hold_run(&run.id, place, false).await?;
            return Ok(Moves::default());
        }
        tx.lock_places(&place.key).await?;
        tx.hold_run(&run.id, place, true).await?;
        let mut moves = Moves { released: self.fill(tx, &place.key).await?, ..Moves::default() };
        let begins = moves.released.iter().any(|(released, _)| released.id == run.id);
        let skips = plan.concurrency.as_ref().is_some_and(|said| said.on_conflict == OnConflict::Skip);
        if skips && !begins && asked == Asked::First {
            let other = tx.first_under_way(&place.key).await?.unwrap_or_default();
            let error = Error::stopped("concurrency_skipped", format!("the run `{other}` is under way"))
                .hint("`concurrency` of the pipeline says that a run too many is skipped; a retry waits until there is room")
                .details(json!({ "run": other }));
            tx.blame_run(&run.id, &error_json(&error)).await?;
            moves.notify = tx.end_held(&run.id).await?;
            moves.ended = Some(RunStatus::Cancelled);
        }
        Ok(moves)
    }

    /// Moves what can move in a run, and in those that get its place when it has ended.
    pub(super) async fn advance(&self, tx: &mut Tx, run: &RunRecord) -> Result<Moves> {
        let Some(place) = &run.place else { return self.advance_alone(tx, run).await };
        match (place.held_at, run.cancel_requested_at) {
            (None, _) => {
                let mut moves = self.advance_alone(tx, run).await?;
                if moves.ended.is_some() {
                    tx.lock_places(&place.key).await?;
                    moves.released = self.fill(tx, &place.key).await?;
                }
                Ok(moves)
            }
            // Nothing of it has begun, so there is nothing to clean up: `finally` does not run either.
            (Some(_), Some(_)) => {
                let notify = tx.end_held(&run.id).await?;
                Ok(Moves { ended: Some(RunStatus::Cancelled), notify, ..Moves::default() })
            }
            (Some(_), None) => Ok(Moves::default()),
        }
    }

    /// Gives the free places of a key, which the caller has locked, to those that wait for one.
    async fn fill(&self, tx: &mut Tx, key: &str) -> Result<Vec<(RunRecord, Moves)>> {
        let mut released = Vec::new();
        while released.len() < RELEASED
            && let Some(run) = tx.release_next(key).await?
        {
            let moves = match self.advance_alone(tx, &run).await {
                Err(error) if error.code().starts_with("definition_") => abandoned(tx, &run, &error).await?,
                moves => moves?,
            };
            released.push((run, moves));
        }
        Ok(released)
    }

    /// After the commit that accepted a run: asks those to stop that it supersedes. What fails is done by the next look.
    pub(super) async fn make_room_for(&self, run: &RunRecord) {
        if run.place.as_ref().is_some_and(|place| place.supersedes)
            && let Err(error) = self.make_room().await
        {
            tracing::warn!(run.id = run.id, error.code = error.code(), "earlier runs are not yet stopped: {error}");
        }
    }

    async fn make_room(&self) -> Result<()> {
        for id in self.db.superseded(BATCH).await? {
            match self.cancel(&id).await {
                // It made room by itself.
                Err(error) if ["run_ended", "run_not_found"].contains(&error.code()) => {}
                stopped => stopped?,
            }
        }
        Ok(())
    }

    /// Goes on with what waits for room and has not been moved by anybody: runs whose time has come, places that are
    /// free all the same, cancels that a crash left half done. One that fails holds up no other.
    pub(super) async fn look_after_places(&self) -> Result<()> {
        if !self.db.any_held().await? {
            return Ok(());
        }
        for id in self.db.held_and_due(BATCH).await? {
            survived(&id, self.line_up(&id).await);
        }
        for key in self.db.keys_with_room(BATCH).await? {
            survived(&key, self.fill_alone(&key).await);
        }
        survived("", self.make_room().await);
        for id in self.db.held_and_cancelled(BATCH).await? {
            survived(&id, self.cancel_queued(&id).await);
        }
        Ok(())
    }

    /// Puts a run in line whose time has come.
    async fn line_up(&self, id: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        let run = tx.touch_run(id).await?;
        let waits = run.place.as_ref().is_some_and(|place| place.held_at.is_some() && place.turn.is_none());
        if !waits || run.finished_at.is_some() || run.cancel_requested_at.is_some() {
            return Ok(());
        }
        let moves = match self.compiled_in(&mut tx, &run.digest).await {
            Ok(compiled) => self.admit(&mut tx, &run, &compiled.plan, Asked::First).await?,
            Err(error) if error.code().starts_with("definition_") => abandoned(&mut tx, &run, &error).await?,
            Err(error) => return Err(error),
        };
        failpoint!("line_up.before_commit");
        tx.commit().await?;
        failpoint!("line_up.after_commit");
        self.moved(&run, &moves);
        Ok(())
    }

    async fn fill_alone(&self, key: &str) -> Result<()> {
        let mut tx = self.db.begin().await?;
        tx.lock_places(key).await?;
        let released = self.fill(&mut tx, key).await?;
        failpoint!("places.before_commit");
        tx.commit().await?;
        failpoint!("places.after_commit");
        released.iter().for_each(|(run, moves)| self.moved(run, moves));
        Ok(())
    }
}

/// Gives a run up whose definition this version cannot read, so that it takes nobody's place.
async fn abandoned(tx: &mut Tx, run: &RunRecord, error: &Error) -> Result<Moves> {
    let notify = tx.abandon_run(&run.id, &error_json(error)).await?;
    Ok(Moves { ended: Some(RunStatus::Failed), notify, ..Moves::default() })
}

fn survived(what: &str, done: Result<()>) {
    if let Err(error) = done {
        tracing::warn!(what, error.code = error.code(), "what waits for room was not moved; trying again: {error}");
    }
}
