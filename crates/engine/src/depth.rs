//! How long the queues are, for those who watch them.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::Engine;
use afterload_core::error::Result;
use afterload_metrics::Depth;

/// However many ask, the database is asked once in this time.
const FRESH: Duration = Duration::from_secs(1);

/// What the database said last, and when.
#[derive(Default)]
pub(super) struct Depths(Mutex<Option<(Instant, Vec<Depth>)>>);

impl Engine {
    /// The jobs of each queue, as they were at most a second ago.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn depths(&self) -> Result<Vec<Depth>> {
        let mut known = self.0.depths.0.lock().await;
        if let Some((_, depths)) = known.as_ref().filter(|(at, _)| at.elapsed() < FRESH) {
            return Ok(depths.clone());
        }
        let depths = self.0.chain.depths().await?;
        *known = Some((Instant::now(), depths.clone()));
        Ok(depths)
    }
}
