//! How long the queues are, for those who watch them.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::Engine;
use afterload_core::error::Result;
use afterload_metrics::QueueDepth;

/// However many ask, the database is asked once in this time.
const DEPTH_CACHE_TTL: Duration = Duration::from_secs(1);

/// What the database said last, and when.
#[derive(Default)]
pub(crate) struct QueueDepthCache(Mutex<Option<(Instant, Vec<QueueDepth>)>>);

impl Engine {
    /// The jobs of each queue, as they were at most a second ago.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn queue_depths(&self) -> Result<Vec<QueueDepth>> {
        let mut known = self.0.depth_cache.0.lock().await;
        if let Some((_, depths)) = known.as_ref().filter(|(at, _)| at.elapsed() < DEPTH_CACHE_TTL) {
            return Ok(depths.clone());
        }
        let depths = self.0.queue.count_jobs_by_queue().await?;
        *known = Some((Instant::now(), depths.clone()));
        Ok(depths)
    }
}
