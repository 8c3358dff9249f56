//! What a connection does at the moment. Its stream, its requests and the listener share this.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

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

#[derive(Debug)]
struct State {
    phase: Phase,
    /// The task that waits for bytes without a deadline. hyper reads on while it answers a request, and not again when it
    /// has answered: nothing would set the deadline of the wait for the next request.
    reader: Option<Waker>,
}

/// The phase of a connection. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Activity(Arc<Mutex<State>>);

impl Activity {
    pub(crate) fn new() -> Self {
        let phase = Phase::New { since: Instant::now() };
        Self(Arc::new(Mutex::new(State { phase, reader: None })))
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that bytes have arrived.
    pub(crate) fn record_read(&self) {
        let mut state = self.lock_state();
        if matches!(state.phase, Phase::New { .. } | Phase::Idle { .. }) {
            state.phase = Phase::Head { since: Instant::now() };
        }
    }

    /// Records that bytes have been sent. The end of a response may be sent after its body has ended.
    pub(crate) fn record_write(&self) {
        if let Phase::Idle { since } = &mut self.lock_state().phase {
            *since = Instant::now();
        }
    }

    /// When the connection is closed unless something arrives; `None` while a request is handled.
    pub(crate) fn read_deadline(&self, timeouts: &HttpTimeouts) -> Option<Instant> {
        match self.lock_state().phase {
            Phase::New { since } | Phase::Head { since } => Some(since + timeouts.header),
            Phase::Idle { since } => Some(since + timeouts.idle),
            Phase::Busy | Phase::Evicted => None,
        }
    }

    /// Begins a request. It ends when the guard is dropped.
    pub(crate) fn begin_request(&self) -> BusyGuard {
        self.lock_state().phase = Phase::Busy;
        BusyGuard(self.clone())
    }

    /// Wakes this task once [`Self::read_deadline`] may have changed.
    pub(crate) fn park_reader(&self, reader: &Waker) {
        self.lock_state().reader.get_or_insert_with(|| reader.clone()).clone_from(reader);
    }

    pub(crate) fn wake_reader(&self) {
        let reader = self.lock_state().reader.take();
        if let Some(reader) = reader {
            reader.wake();
        }
    }

    /// Since when the connection has waited for a request; `None` if it handles one.
    pub(crate) fn waiting_since(&self) -> Option<Instant> {
        match self.lock_state().phase {
            Phase::New { since } | Phase::Idle { since } | Phase::Head { since } => Some(since),
            Phase::Busy | Phase::Evicted => None,
        }
    }

    /// Marks the connection as evicted, unless a request has begun meanwhile.
    pub(crate) fn try_evict(&self) -> bool {
        let mut state = self.lock_state();
        let waits = !matches!(state.phase, Phase::Busy | Phase::Evicted);
        if waits {
            state.phase = Phase::Evicted;
        }
        waits
    }
}

/// A request that is handled.
pub(crate) struct BusyGuard(Activity);

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.0.lock_state().phase = Phase::Idle { since: Instant::now() };
        self.0.wake_reader();
    }
}
