//! Limits the pictures in work: one per core, and no more memory than the configuration allows.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::ImageLimits;
use crate::codes;
use afterload_core::error::{Error, Result};

const BYTES_PER_MIB: u64 = 1 << 20;

/// Limits the pictures of one process. Clones share the limits.
///
/// Every step acquires its three permits in the same order (file, memory, core), so that steps cannot deadlock.
#[derive(Clone)]
pub struct ImagePool {
    /// The limits of each picture.
    pub limits: ImageLimits,
    files: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    cores: Arc<Semaphore>,
    total_mib: u32,
}

/// Holds memory and a core while a picture is processed.
pub struct MemoryPermit {
    _memory: OwnedSemaphorePermit,
    _core: OwnedSemaphorePermit,
}

impl ImagePool {
    /// Creates a pool with these limits.
    pub fn new(limits: &ImageLimits) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let files = (limits.memory.0 / limits.file.0.max(1)).clamp(1, 2 * cores as u64) as usize;
        let total = (limits.memory.0 / BYTES_PER_MIB).clamp(1, Semaphore::MAX_PERMITS as u64 >> 4) as u32;
        Self {
            limits: limits.clone(),
            files: Arc::new(Semaphore::new(files)),
            memory: Arc::new(Semaphore::new(total as usize)),
            cores: Arc::new(Semaphore::new(cores)),
            total_mib: total,
        }
    }

    /// Waits until another source file may be read into memory.
    ///
    /// # Errors
    /// `step_stopped`.
    pub async fn acquire_file_slot(&self, stop: &CancellationToken) -> Result<OwnedSemaphorePermit> {
        acquire_permits(&self.files, 1, stop).await
    }

    /// Waits for `bytes` of memory, and then for a core.
    ///
    /// # Errors
    /// `step_stopped`.
    pub async fn acquire_memory(&self, bytes: u64, stop: &CancellationToken) -> Result<MemoryPermit> {
        let mib = u32::try_from(bytes.div_ceil(BYTES_PER_MIB)).unwrap_or(u32::MAX).clamp(1, self.total_mib);
        let memory = acquire_permits(&self.memory, mib, stop).await?;
        let core = acquire_permits(&self.cores, 1, stop).await?;
        Ok(MemoryPermit { _memory: memory, _core: core })
    }
}

async fn acquire_permits(
    semaphore: &Arc<Semaphore>,
    count: u32,
    stop: &CancellationToken,
) -> Result<OwnedSemaphorePermit> {
    tokio::select! {
        permit = semaphore.clone().acquire_many_owned(count) => {
            permit.map_err(|error| Error::new(codes::INTERNAL_ERROR, error.to_string()))
        }
        () = stop.cancelled() => Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop")),
    }
}
