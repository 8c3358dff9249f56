//! Whether a queue is worked at the moment.

use std::future::pending;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Lets the worker of a queue fetch while it is open. What has been fetched goes on in any case.
pub struct PauseGate(watch::Receiver<bool>);

impl PauseGate {
    /// A gate, and what opens and closes it.
    pub fn new(open: bool) -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(open);
        (sender, Self(receiver))
    }

    /// Waits until it is open. False: `stop` came first.
    pub(super) async fn wait_until_open(&mut self, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = stop.cancelled() => false,
            () = self.wait_for_state(true) => !stop.is_cancelled(),
        }
    }

    /// Works until the work has ended. When the gate is closed, `end` tells the work to; when it opens again, nobody
    /// waits for that any longer.
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
        if gone {
            pending::<()>().await;
        }
    }
}
