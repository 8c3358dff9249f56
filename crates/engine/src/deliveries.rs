//! The record of whom a step has told, as the step sees it.

use afterload_core::failpoint;
use afterload_state::Db;
use afterload_step_api::{Answer, Deliveries, Delivery};

/// The deliveries of one step, kept in the service's database.
pub(super) struct Book {
    db: Db,
    run: String,
    step: String,
}

impl Book {
    pub(super) fn new(db: Db, run: &str, step: &str) -> Self {
        Self { db, run: run.to_owned(), step: step.to_owned() }
    }
}

impl Deliveries for Book {
    fn known(&self, people: Vec<String>) -> Answer<Vec<String>> {
        let (db, run, step) = (self.db.clone(), self.run.clone(), self.step.clone());
        Box::pin(async move { db.known_deliveries(&run, &step, &people).await })
    }

    fn record(&self, delivery: Delivery) -> Answer<()> {
        let (db, run, step) = (self.db.clone(), self.run.clone(), self.step.clone());
        let Delivery { person, reason, failure } = delivery;
        Box::pin(async move {
            failpoint!("delivery.before_record");
            db.end_delivery(&run, &step, (&person, reason), failure).await?;
            failpoint!("delivery.recorded");
            Ok(())
        })
    }

    fn tally(&self) -> Answer<(u64, u64)> {
        let (db, run, step) = (self.db.clone(), self.run.clone(), self.step.clone());
        Box::pin(async move { db.tally_deliveries(&run, &step).await })
    }
}
