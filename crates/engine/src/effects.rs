//! The record of effects, as one step sees it.

use afterload_core::failpoint;
use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

use afterload_core::error::Result;
use afterload_state::Db;
use afterload_step_api::{Begun, Effects};

/// The effects of one step, kept in the service's database.
pub(super) struct Journal {
    db: Db,
    run: String,
    step: String,
}

impl Journal {
    pub(super) fn new(db: Db, run: &str, step: &str) -> Self {
        Self { db, run: run.to_owned(), step: step.to_owned() }
    }
}

type Answer<T> = Pin<Box<dyn Future<Output = Result<T>> + Send>>;

/// What the record says, as a step knows it.
fn begun(known: Option<Option<Value>>) -> Begun {
    match known {
        None => Begun::Fresh,
        Some(None) => Begun::Uncertain,
        Some(Some(detail)) => Begun::Done(detail),
    }
}

impl Effects for Journal {
    fn known(&self, key: &str) -> Answer<Begun> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        Box::pin(async move { db.effect(&run, &step, &key).await.map(begun) })
    }

    fn begin(&self, key: &str) -> Answer<Begun> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        Box::pin(async move {
            failpoint!("effect.before_begin");
            let known = db.begin_effect(&run, &step, &key).await?;
            failpoint!("effect.begun");
            Ok(begun(known))
        })
    }

    fn done(&self, key: &str, detail: Value) -> Answer<()> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        Box::pin(async move {
            failpoint!("effect.before_done");
            db.end_effect(&run, &step, &key, &detail).await?;
            failpoint!("effect.done");
            Ok(())
        })
    }

    fn undone(&self, key: &str) -> Answer<()> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        Box::pin(async move {
            failpoint!("effect.before_undone");
            db.forget_effect(&run, &step, &key).await?;
            failpoint!("effect.undone");
            Ok(())
        })
    }
}
