//! The delivery log of one step.

use super::step_owner::StepOwner;
use afterload_core::failpoint;
use afterload_state::Db;
use afterload_step_api::{BoxFuture, DeliveryRecord, DeliveryRecorder};

/// The delivery log of one step, stored in the state database.
pub(super) struct DbDeliveryLog {
    db: Db,
    run: String,
    step: String,
}

impl DbDeliveryLog {
    pub(super) fn new(db: Db, owner: StepOwner) -> Self {
        let StepOwner { run, step } = owner;
        Self { db, run, step }
    }
}

impl DeliveryRecorder for DbDeliveryLog {
    fn filter_finished(&self, people: Vec<String>) -> BoxFuture<Vec<String>> {
        let (db, run, step) = (self.db.clone(), self.run.clone(), self.step.clone());
        Box::pin(async move { db.delivery_log().list_ended(&run, &step, &people).await })
    }

    fn record_delivery(&self, delivery: DeliveryRecord) -> BoxFuture<()> {
        let (db, run, step) = (self.db.clone(), self.run.clone(), self.step.clone());
        let DeliveryRecord { person, reason, failure } = delivery;
        Box::pin(async move {
            failpoint!("delivery.before_record");
            db.delivery_log().record(&run, &step, (&person, reason), failure).await?;
            failpoint!("delivery.recorded");
            Ok(())
        })
    }

    fn delivery_counts(&self) -> BoxFuture<(u64, u64)> {
        let (db, run, step) = (self.db.clone(), self.run.clone(), self.step.clone());
        Box::pin(async move { db.delivery_log().count(&run, &step).await })
    }
}
