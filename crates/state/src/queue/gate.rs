//! Whether a queue is worked at the moment.

use std::future::pending;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Lets the worker of a queue fetch while it is open. What has been fetched goes on in any case.
pub struct Gate(watch::Receiver<bool>);

impl Gate {
    /// A gate, and what opens and closes it.
    pub fn new(open: bool) -> (watch::Sender<bool>, Self) {
        let (sender, receiver) = watch::channel(open);
        (sender, Self(receiver))
    }

    /// Waits until it is open. False: `stop` came first.
    pub(super) async fn opened(&mut self, stop: &CancellationToken) -> bool {
        tokio::select! {
            () = stop.cancelled() => false,
            () = self.until(true) => !stop.is_cancelled(),
        }
    }

    /// Works until the work has ended. When the gate is closed, `end` tells the work to; when it opens again, nobody
    /// waits for that any longer.
    pub(super) async fn guard(&mut self, work: impl Future<Output = ()>, end: &CancellationToken) {
        let opened_again = async {
            self.until(false).await;
            end.cancel();
            self.until(true).await;
        };
        tokio::select! {
            () = work => {}
            () = opened_again => {}
        }
    }

    async fn until(&mut self, open: bool) {
        let gone = self.0.wait_for(|now| *now == open).await.is_err();
        if gone {
            pending::<()>().await;
        }
    }
}
