//! The slot that a running job holds in its queue. A job that only waits leaves its slot to another job meanwhile.

use std::future::Future;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::lock_mutex;

/// How many jobs of a queue may wait without a slot in one process. Each of them keeps its attempt in memory.
const MAX_WAITING_JOBS: usize = 64;
/// How many jobs one statement fetches at most.
const MAX_FETCHED_JOBS: usize = 100;

/// The slots of a queue in this process, and the places of the jobs that wait without one.
#[derive(Clone)]
pub(super) struct QueueSlots {
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// Wakes the worker when a slot becomes free.
    freed: Arc<Notify>,
}

impl QueueSlots {
    pub(super) fn new(concurrency: usize, freed: Arc<Notify>) -> Self {
        let waiting = Arc::new(Semaphore::new(MAX_WAITING_JOBS));
        Self { running: Arc::new(Semaphore::new(concurrency)), waiting, freed }
    }

    /// Takes the slots that are free now.
    pub(super) fn take_free(&self) -> Vec<JobSlot> {
        let permits = std::iter::from_fn(|| self.running.clone().try_acquire_owned().ok());
        permits.take(MAX_FETCHED_JOBS).map(|permit| self.new_job_slot(permit)).collect()
    }

    fn new_job_slot(&self, permit: OwnedSemaphorePermit) -> JobSlot {
        let held = Mutex::new(HeldSlot { slot: Some(permit), place: None, waits: 0, ended: false });
        JobSlot(Arc::new(SlotState { slots: self.clone(), held }))
    }
}

/// The slot of a job. Clones belong to the same job.
#[derive(Clone)]
pub struct JobSlot(Arc<SlotState>);

struct SlotState {
    slots: QueueSlots,
    held: Mutex<HeldSlot>,
}

struct HeldSlot {
    /// `None` while the job waits.
    slot: Option<OwnedSemaphorePermit>,
    /// The place of a job that waits.
    place: Option<OwnedSemaphorePermit>,
    /// How many parts of the job wait. The slot is free while one of them does.
    waits: usize,
    /// True once the job has ended. What is left of it gets no slot any more.
    ended: bool,
}

/// The end of a wait without a slot.
#[derive(Debug, PartialEq, Eq)]
pub enum SlotWait<T> {
    /// The wait is over, and the job has a slot again.
    Done(T),
    /// Too many jobs of the queue wait already. The job has not waited and keeps its slot.
    NoPlace,
    /// The wait is over, but no slot became free in time. The job has to go back to its queue.
    NoSlot,
}

impl JobSlot {
    /// Waits without the slot, and then for a free slot, at most `patience`. Dropping the future leaves the job without a
    /// slot.
    ///
    /// # Errors
    /// The error of `wait`. The job then has no slot.
    pub async fn wait_without_slot<T, E>(
        &self,
        wait: impl Future<Output = Result<T, E>>,
        patience: Duration,
    ) -> Result<SlotWait<T>, E> {
        let Some(leave) = self.leave() else { return Ok(SlotWait::NoPlace) };
        let value = wait.await?;
        match tokio::time::timeout(patience, leave.rejoin()).await {
            Ok(()) => Ok(SlotWait::Done(value)),
            Err(_) => Ok(SlotWait::NoSlot),
        }
    }

    /// Returns true if the job has its slot.
    pub fn is_held(&self) -> bool {
        lock_mutex(&self.0.held).slot.is_some()
    }

    /// Frees the slot at the end of the job, even if clones are left.
    pub(super) fn end(&self) {
        let mut held = lock_mutex(&self.0.held);
        (held.slot, held.place, held.ended) = (None, None, true);
        self.0.slots.freed.notify_one();
    }

    fn leave(&self) -> Option<SlotLeave> {
        let mut held = lock_mutex(&self.0.held);
        if held.ended {
            return None;
        }
        if held.waits == 0 {
            held.place = Some(self.0.slots.waiting.clone().try_acquire_owned().ok()?);
            held.slot = None;
            self.0.slots.freed.notify_one();
        }
        held.waits += 1;
        Some(SlotLeave(self.0.clone()))
    }
}

/// One wait of a job, until dropped.
struct SlotLeave(Arc<SlotState>);

impl SlotLeave {
    /// Takes a slot, unless another part of the job still waits.
    async fn rejoin(self) {
        if lock_mutex(&self.0.held).waits > 1 {
            return;
        }
        let slot = self.0.slots.running.clone().acquire_owned().await.ok();
        let mut held = lock_mutex(&self.0.held);
        // Another part may have begun to wait meanwhile. It takes the slot at its end.
        if held.waits == 1 && !held.ended {
            held.slot = slot;
        } else {
            drop(slot);
            self.0.slots.freed.notify_one();
        }
    }
}

impl Drop for SlotLeave {
    fn drop(&mut self) {
        let mut held = lock_mutex(&self.0.held);
        held.waits -= 1;
        if held.waits == 0 {
            held.place = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures::FutureExt;

    use super::*;

    /// Longer than any test.
    const LONG: Duration = Duration::from_secs(3600);

    /// The slots of a queue that runs one job at a time.
    fn new_slots() -> QueueSlots {
        QueueSlots::new(1, Arc::default())
    }

    fn take(slots: &QueueSlots) -> JobSlot {
        slots.take_free().pop().expect("a free slot")
    }

    async fn wait_for(slot: &JobSlot, end: &Notify, patience: Duration) -> SlotWait<()> {
        let wait = async {
            end.notified().await;
            Ok::<_, Infallible>(())
        };
        slot.wait_without_slot(wait, patience).await.unwrap()
    }

    #[tokio::test]
    async fn a_waiting_job_leaves_its_slot_to_another_one() {
        let (slots, end) = (new_slots(), Notify::new());
        let waiting = take(&slots);
        let (waited, ()) = tokio::join!(wait_for(&waiting, &end, LONG), async {
            let other = take(&slots);
            assert_eq!(slots.running.available_permits(), 0);
            end.notify_one();
            drop(other);
        });
        assert_eq!((waited, slots.running.available_permits()), (SlotWait::Done(()), 0), "it has the slot again");
        waiting.end();
        assert_eq!((slots.running.available_permits(), slots.waiting.available_permits()), (1, MAX_WAITING_JOBS));
        assert_eq!(wait_for(&waiting, &end, LONG).await, SlotWait::NoPlace, "it has ended");
    }

    #[tokio::test]
    async fn a_job_without_a_free_slot_goes_back_to_its_queue() {
        let (slots, end) = (new_slots(), Notify::new());
        let waiting = take(&slots);
        let (waited, other) = tokio::join!(wait_for(&waiting, &end, Duration::ZERO), async {
            let other = take(&slots);
            end.notify_one();
            other
        });
        assert_eq!(waited, SlotWait::NoSlot);
        assert_eq!(slots.waiting.available_permits(), MAX_WAITING_JOBS);
        drop(other);
        assert_eq!(slots.running.available_permits(), 1);
    }

    #[tokio::test]
    async fn free_slots_are_taken_at_once_and_wake_the_worker_later() {
        let slots = QueueSlots::new(3, Arc::default());
        let mut taken = slots.take_free();
        assert_eq!((taken.len(), slots.take_free().len()), (3, 0));
        assert!(slots.freed.notified().now_or_never().is_none());
        taken.pop().unwrap().end();
        assert!(slots.freed.notified().now_or_never().is_some());
        assert_eq!(slots.take_free().len(), 1);
        // What is fetched for nothing frees its slot.
        drop(taken);
        assert_eq!(slots.take_free().len(), 3);
    }

    #[tokio::test]
    async fn only_so_many_jobs_wait_at_once() {
        let (slots, end) = (new_slots(), Notify::new());
        let _places = slots.waiting.clone().acquire_many_owned(MAX_WAITING_JOBS as u32).await.unwrap();
        let job = take(&slots);
        assert_eq!(wait_for(&job, &end, LONG).await, SlotWait::NoPlace);
        assert_eq!(slots.running.available_permits(), 0, "it keeps its slot");
    }

    #[tokio::test]
    async fn the_last_part_that_waits_takes_the_slot() {
        let (slots, first, second) = (new_slots(), Notify::new(), Notify::new());
        let job = take(&slots);
        let (one, two, ()) = tokio::join!(wait_for(&job, &first, LONG), wait_for(&job, &second, LONG), async {
            first.notify_one();
            tokio::task::yield_now().await;
            assert_eq!(slots.running.available_permits(), 1, "the other part still waits");
            second.notify_one();
        });
        assert_eq!((one, two), (SlotWait::Done(()), SlotWait::Done(())));
        assert_eq!(slots.running.available_permits(), 0);
    }
}
