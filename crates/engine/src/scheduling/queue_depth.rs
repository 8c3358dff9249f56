//! The number of jobs per queue, with a short cache.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::Engine;
use afterload_core::error::Result;
use afterload_metrics::QueueDepth;
use afterload_state::queue::JobQueue;

/// The database is queried at most once in this time.
const DEPTH_CACHE_TTL: Duration = Duration::from_secs(1);

/// Caches the result of the last query.
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
    /// The number of jobs of each queue, at most a second old.
    pub async fn queue_depths(&self) -> Result<Vec<QueueDepth>> {
        self.0.depths.queue_depths().await
    }
}
