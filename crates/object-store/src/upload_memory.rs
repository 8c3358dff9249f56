//! Counts the bytes that the uploads of a process hold, so that many of them stay within bounds together.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Above this, uploads send smaller parts, and one at a time.
const UPLOAD_MEMORY_LIMIT: usize = 64 << 20;

/// The bytes that are buffered or being sent. Clones share one count.
#[derive(Clone, Debug, Default)]
pub(super) struct UploadMemory(Arc<AtomicUsize>);

impl UploadMemory {
    /// Returns true while the uploads hold more than they should. One upload may always hold three of its parts, which are
    /// large if its object is.
    pub(super) fn is_short(&self, part_size: usize) -> bool {
        self.0.load(Ordering::Relaxed) > UPLOAD_MEMORY_LIMIT.max(part_size.saturating_mul(3))
    }

    /// Starts to hold bytes: none yet.
    pub(super) fn hold(&self) -> HeldMemory {
        HeldMemory { memory: self.clone(), bytes: 0 }
    }
}

/// Bytes that are held until this is dropped.
#[derive(Debug)]
pub(super) struct HeldMemory {
    memory: UploadMemory,
    bytes: usize,
}

impl HeldMemory {
    pub(super) fn add(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.memory.0.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Takes what is held until now, and goes on with nothing.
    pub(super) fn take(&mut self) -> Self {
        let next = self.memory.hold();
        std::mem::replace(self, next)
    }
}

impl Drop for HeldMemory {
    fn drop(&mut self) {
        self.memory.0.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dropped_bytes_are_released() {
        let memory = UploadMemory::default();
        let (mut first, mut second) = (memory.hold(), memory.clone().hold());
        first.add(UPLOAD_MEMORY_LIMIT);
        assert!(!memory.is_short(0));
        second.add(1);
        assert!(memory.is_short(0), "both count");
        let sent = first.take();
        assert!(memory.is_short(0), "what is being sent counts");
        drop(sent);
        assert!(!memory.is_short(0));
        drop((first, second));
        assert_eq!(memory.0.load(Ordering::Relaxed), 0);
    }
}
