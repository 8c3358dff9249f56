//! How long the queues are, for those who watch them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::Engine;
use afterload_core::error::Result;
use afterload_metrics::QueueDepth;
use afterload_state::queue::JobQueue;

/// However many ask, the database is asked once in this time.
const DEPTH_CACHE_TTL: Duration = Duration::from_secs(1);

/// What the database said last, and when.
pub(crate) struct QueueDepthCache {
    queue: Arc<JobQueue>,
    last: Mutex<Option<(Instant, Vec<QueueDepth>)>>,
}

impl QueueDepthCache {
    pub(crate) fn new(queue: Arc<JobQueue>) -> Self {
        Self { queue, last: Mutex::default() }
    }

    async fn queue_depths(&self) -> Result<Vec<QueueDepth>> {
        let mut known = self.last.lock().await;
        if let Some((_, depths)) = known.as_ref().filter(|(at, _)| at.elapsed() < DEPTH_CACHE_TTL) {
            return Ok(depths.clone());
        }
        let depths = self.queue.count_jobs_by_queue().await?;
        *known = Some((Instant::now(), depths.clone()));
        Ok(depths)
    }
}

impl Engine {
    /// The jobs of each queue, as they were at most a second ago.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn queue_depths(&self) -> Result<Vec<QueueDepth>> {
        self.0.depths.queue_depths().await
    }
}
