//! What a connection does at the moment. Its stream, its requests and the listener share this.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::time::Instant;

use crate::HttpTimeouts;

/// What a connection does.
#[derive(Clone, Copy, Debug)]
enum Phase {
    /// It was accepted, and nothing has arrived.
    New { since: Instant },
    /// It waits for its next request.
    Idle { since: Instant },
    /// A part of the head of a request has arrived.
    Head { since: Instant },
    /// A request is handled, or its response is sent.
    Busy,
    /// The listener closes it to make room.
    Evicted,
}

/// The phase of a connection. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<Mutex<Phase>>);

impl Activity {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Phase::New { since: Instant::now() })))
    }

    fn lock_phase(&self) -> MutexGuard<'_, Phase> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that bytes have arrived.
    pub(crate) fn record_read(&self) {
        let mut phase = self.lock_phase();
        if matches!(*phase, Phase::New { .. } | Phase::Idle { .. }) {
            *phase = Phase::Head { since: Instant::now() };
        }
    }

    /// Records that bytes have been sent. The end of a response may be sent after its body has ended.
    pub(crate) fn record_write(&self) {
        if let Phase::Idle { since } = &mut *self.lock_phase() {
            *since = Instant::now();
        }
    }

    /// When the connection is closed unless something arrives; `None` while a request is handled.
    pub(crate) fn read_deadline(&self, timeouts: &HttpTimeouts) -> Option<Instant> {
        match *self.lock_phase() {
            Phase::New { since } | Phase::Head { since } => Some(since + timeouts.header),
            Phase::Idle { since } => Some(since + timeouts.idle),
            Phase::Busy | Phase::Evicted => None,
        }
    }

    /// Begins a request. It ends when the guard is dropped.
    pub(crate) fn begin_request(&self) -> BusyGuard {
        *self.lock_phase() = Phase::Busy;
        BusyGuard(self.clone())
    }

    /// Since when the connection has waited for a request; `None` if it handles one.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        match *self.lock_phase() {
            Phase::New { since } | Phase::Idle { since } | Phase::Head { since } => Some(since),
            Phase::Busy | Phase::Evicted => None,
        }
    }

    /// Marks the connection as evicted, unless a request has begun meanwhile.
    pub(crate) fn try_evict(&self) -> bool {
        let mut phase = self.lock_phase();
        let waits = !matches!(*phase, Phase::Busy | Phase::Evicted);
        if waits {
            *phase = Phase::Evicted;
        }
        waits
    }
}

/// A request that is handled.
pub(crate) struct BusyGuard(Activity);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        *self.0.lock_phase() = Phase::Idle { since: Instant::now() };
    }
}
