//! Stops the worker of a queue while the queue is paused.

use std::future::pending;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The worker of a queue fetches jobs only while its gate is open. Jobs that have started go on in any case.
pub struct PauseGate(watch::Receiver<bool>);

impl PauseGate {
    /// Creates a gate and the sender that opens and closes it.
    pub fn new(open: bool) -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(open);
        (sender, Self(receiver))
    }

    /// Waits until the gate is open. Returns false if `stop` came first.
    pub(super) async fn wait_until_open(&mut self, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = stop.cancelled() => false,
            () = self.wait_for_state(true) => !stop.is_cancelled(),
        }
    }

    /// Runs `work` until it has ended. Cancels `end` when the gate closes. Stops waiting for `work` when the gate
    /// opens again.
    pub(super) async fn run_until_closed(&mut self, work: impl Future<Output = ()>, end: &CancellationToken) {
        let opened_again = async {
            self.wait_for_state(false).await;
            end.cancel();
            self.wait_for_state(true).await;
        };
        tokio::select! {
            () = work => {}
            () = opened_again => {}
        }
    }

    async fn wait_for_state(&mut self, open: bool) {
        let gone = self.0.wait_for(|now| *now == open).await.is_err();
        // Without a sender the state never changes again.
        if gone {
            pending::<()>().await;
        }
    }
}
