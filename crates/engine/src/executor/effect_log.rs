//! The effect log of one step.

use super::step_owner::StepOwner;
use afterload_core::failpoint;
use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

use afterload_core::error::Result;
use afterload_core::redactor::Redactor;
use afterload_state::Db;
use afterload_step_api::{EffectRecorder, EffectState};

/// The effect log of one step, stored in the state database.
pub(super) struct DbEffectLog {
    db: Db,
    run: String,
    step: String,
    redactor: Redactor,
}

impl DbEffectLog {
    pub(super) fn new(db: Db, owner: StepOwner, redactor: Redactor) -> Self {
        let StepOwner { run, step } = owner;
        Self { db, run, step, redactor }
    }
}

type EffectFuture<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// Maps a row of the effect log: no row, a row without a result, or a row with one.
fn to_effect_state(known: Option<Option<Value>>) -> EffectState {
    match known {
        None => EffectState::New,
        Some(None) => EffectState::Uncertain,
        Some(Some(detail)) => EffectState::Done(detail),
    }
}

impl EffectRecorder for DbEffectLog {
    fn effect_state(&self, key: &str) -> EffectFuture<EffectState> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        Box::pin(async move { db.effect_log().find(&run, &step, &key).await.map(to_effect_state) })
    }

    fn begin_effect(&self, key: &str) -> EffectFuture<EffectState> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        Box::pin(async move {
            failpoint!("effect.before_begin");
            let known = db.effect_log().begin(&run, &step, &key).await?;
            failpoint!("effect.begun");
            Ok(to_effect_state(known))
        })
    }

    fn mark_done(&self, key: &str, detail: Value) -> EffectFuture<()> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        let detail = self.redactor.redact_json(detail);
        Box::pin(async move {
            failpoint!("effect.before_done");
            db.effect_log().finish(&run, &step, &key, &detail).await?;
            failpoint!("effect.done");
            Ok(())
        })
    }

    fn mark_not_done(&self, key: &str) -> EffectFuture<()> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        Box::pin(async move {
            failpoint!("effect.before_undone");
            db.effect_log().delete(&run, &step, &key).await?;
            failpoint!("effect.undone");
            Ok(())
        })
    }
}
