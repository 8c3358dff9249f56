//! The record of effects, as one step sees it.

use std::future::Future;
use std::pin::Pin;

use serde_json::Value;

use crate::error::Result;
use crate::steps::{Begun, Effects};
use crate::store::Db;

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
            crash_point!("effect.before_begin");
            let known = db.begin_effect(&run, &step, &key).await?;
            crash_point!("effect.begun");
            Ok(begun(known))
        })
    }

    fn done(&self, key: &str, detail: Value) -> Answer<()> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        Box::pin(async move {
            crash_point!("effect.before_done");
            db.end_effect(&run, &step, &key, &detail).await?;
            crash_point!("effect.done");
            Ok(())
        })
    }

    fn undone(&self, key: &str) -> Answer<()> {
        let (db, run, step, key) = (self.db.clone(), self.run.clone(), self.step.clone(), key.to_owned());
        Box::pin(async move {
            crash_point!("effect.before_undone");
            db.forget_effect(&run, &step, &key).await?;
            crash_point!("effect.undone");
            Ok(())
        })
    }
}
