//! Inserts a row per recipient. The database writes the rows itself, in chunks that commit together with their cursor.
//!
//! A single writer works while the next chunks are being found. For several writers, all chunks are found first, which
//! also counts the followers, and are split into one partition per writer. Writers at neighboring places of an index
//! block each other, and so do writers of the same checkpoint. So each partition has its own checkpoint; the step's
//! checkpoint holds the plan.

use std::pin::pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::{SinkExt, Stream, TryStreamExt, future, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::chunk_finder::{ChunkBound, ChunkFinder};
use super::fields::TableRowSpec;
use super::recipients::{Mentioned, Recipients};
use super::{FOLLOW_REASON, MENTION_REASON, NotifyFanoutOutputs};
use crate::codes;
use afterload_core::error::{Error, Result, Retryability};
use afterload_core::units::group_digits;
use afterload_step_api::{ProgressUpdate, StepContext};
use afterload_target_db::{
    Checkpoint, CheckpointCommit, Connection, DeliveryChunk, DeliveryRowSpec, DeliveryTable, Fence, KeyRange,
    OnExisting, RecipientQuery, StatementResult, read_checkpoint,
};

/// The interval at which the found chunks are saved.
const PLAN_SAVE_INTERVAL: Duration = Duration::from_secs(5);
/// The maximum number of chunks that are found ahead of a single writer.
const LOOKAHEAD_CHUNKS: usize = 10_000;

/// The checkpoint of the step: the mentions and their progress, and the partitions of the followers.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct FanoutPlan {
    names: Option<Vec<String>>,
    named: usize,
    mentioned: u64,
    delivered: u64,
    ends: Vec<ChunkBound>,
    /// The number of chunks per partition, once all chunks are found.
    lane: Option<usize>,
    outputs: Option<NotifyFanoutOutputs>,
}

/// The checkpoint of a partition.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Partition {
    /// Everyone up to this key has a row.
    after: Option<Value>,
    people: u64,
    delivered: u64,
}

struct TableDelivery<'a> {
    ctx: &'a StepContext,
    connection: &'a Connection,
    target: DeliveryTable,
    fence: Option<Fence>,
    chunk: u64,
}

/// A partition whose checkpoint this attempt has claimed.
struct ClaimedPartition {
    place: usize,
    fence: Option<Fence>,
    partition: Partition,
}

/// Reports the progress of all partitions.
struct PartitionProgress<'a> {
    ctx: &'a StepContext,
    plan: &'a FanoutPlan,
    partitions: Mutex<Vec<Partition>>,
    /// The number of followers, once it is known.
    followers: OnceLock<u64>,
}

/// Inserts all rows, starting at the checkpoint of the last attempt.
pub async fn insert_rows(
    ctx: &StepContext,
    members: &Recipients,
    row: &TableRowSpec,
    chunk: u64,
    parallel: usize,
) -> Result<NotifyFanoutOutputs> {
    let connection = members.followers.as_ref().map(|(connection, _)| connection);
    let Some(connection) = connection.or(members.mentioned.as_ref().map(|named| &named.connection)) else {
        return Ok(NotifyFanoutOutputs::default());
    };
    let copy: Vec<_> = row.copy.iter().map(|(to, from)| (to.clone(), from.clone())).collect();
    let TableRowSpec { table, person, reason, values, keys, .. } = row;
    let wanted = DeliveryRowSpec {
        table,
        recipient_column: person,
        reason_column: reason.as_deref(),
        constant_columns: values,
        copied_columns: &copy,
        unique_columns: keys,
    };
    let target = connection.prepare_delivery_table(&wanted).await?;
    let fence = connection.keeps_checkpoints().then(|| Fence::new(&ctx.step.key, ctx.step.epoch));
    let claimed = match &fence {
        Some(fence) => connection.claim_checkpoint(fence).await?,
        None => None,
    };
    let mut plan: FanoutPlan = claimed.as_deref().map_or_else(|| Ok(FanoutPlan::default()), read_checkpoint)?;
    let work = TableDelivery { ctx, connection, target, fence, chunk };
    if let Some(outputs) = plan.outputs {
        outputs.report_progress(ctx, Some(0));
        return Ok(outputs);
    }
    if let Some(named) = &members.mentioned {
        work.insert_mentioned(named, &mut plan).await?;
    }
    let lanes = match (&members.followers, connection.max_writers(parallel)) {
        (None, _) => Vec::new(),
        (Some((_, people)), 1) => vec![work.run_serial(people, &plan).await?],
        (Some((_, people)), lanes) => {
            let length = work.partition_chunks(people, lanes, &mut plan).await?;
            work.run_parallel(people, &plan, length).await?
        }
    };
    let outputs = plan.to_outputs(&lanes);
    plan.ends.clear();
    plan.outputs = Some(outputs.clone());
    work.save_checkpoint(None, &plan, true).await?;
    // The partitions finish last, because finished checkpoints are deleted soon.
    for (place, lane) in lanes.iter().enumerate() {
        work.save_checkpoint(Some(place), lane, true).await?;
    }
    outputs.report_progress(ctx, Some(0));
    Ok(outputs)
}

impl TableDelivery<'_> {
    /// Saves the checkpoint of a partition or of the step.
    async fn save_checkpoint(&self, lane: Option<usize>, cursor: &impl Serialize, finished: bool) -> Result<()> {
        match self.partition_fence(lane) {
            Some(fence) => self.connection.save_checkpoint(&fence, &to_json(cursor), finished).await,
            None => Ok(()),
        }
    }

    fn partition_fence(&self, lane: Option<usize>) -> Option<Fence> {
        let mut fence = self.fence.clone()?;
        if let Some(place) = lane {
            fence.checkpoint_key.push_str(&format!("#{place}"));
        }
        Some(fence)
    }

    /// Inserts the mentioned people first, so that their row has the reason `mention`.
    async fn insert_mentioned(&self, named: &Mentioned, plan: &mut FanoutPlan) -> Result<()> {
        if plan.names.is_none() {
            plan.mentioned = named.find_all(&named.names, self.ctx).await?.len() as u64;
            plan.names = Some(named.names.clone());
            self.save_checkpoint(None, plan, false).await?;
        }
        let names = plan.names.clone().unwrap_or_default();
        for name in &names[plan.named..] {
            self.ctx.check_stopped()?;
            let next = FanoutPlan { named: plan.named + 1, ..plan.clone() };
            let note = move |effect: &StatementResult| {
                let next = FanoutPlan { delivered: next.delivered + effect.affected, ..next };
                Ok(Checkpoint { cursor: to_json(&next), finished: false })
            };
            let range = KeyRange::default();
            let chunk = DeliveryChunk { range: &range, reason: MENTION_REASON, on_existing: OnExisting::Skip };
            let commit = CheckpointCommit { fence: self.fence.as_ref(), checkpoint_fn: Box::new(note) };
            let people = named.by_name(name);
            let (_, saved) = people.insert_rows(self.connection, &self.target, chunk, &self.ctx.stop, commit).await?;
            *plan = read_checkpoint(&saved.cursor)?;
        }
        Ok(())
    }

    /// Writes with one partition, while its chunks are being found.
    async fn run_serial(&self, people: &RecipientQuery, plan: &FanoutPlan) -> Result<Partition> {
        let lane = self.claim_partition(0, Partition::default()).await?;
        let seen = PartitionProgress::new(self.ctx, plan, 1);
        let stop = self.ctx.stop.child_token();
        let mut chunks = ChunkFinder::new(self.connection, people, self.chunk, lane.partition.after.clone());
        let mut followers = lane.partition.people;
        let (mut found, ends) = mpsc::channel(LOOKAHEAD_CHUNKS);
        let find = async {
            while let Some(end) = chunks.next_chunk(&stop).await.transpose() {
                followers += end.as_ref().map_or(0, |end| end.people);
                let failed = end.is_err();
                // A failed send means that the partition failed and needs no more chunks.
                if found.send(end).await.is_err() || failed {
                    return;
                }
            }
            seen.set_follower_count(followers);
            found.close_channel();
        };
        let work = async {
            let done = self.run_partition(people, lane, ends, &stop, &seen).await;
            stop.cancel();
            done
        };
        future::join(find, work).await.1
    }

    /// Finds all chunks, starting at the last saved one, and returns the number of chunks per partition. Followers that
    /// join after the last chunk get no row.
    async fn partition_chunks(&self, people: &RecipientQuery, lanes: usize, plan: &mut FanoutPlan) -> Result<usize> {
        let after = plan.ends.last().map(|end| end.key.clone());
        let mut chunks = ChunkFinder::new(self.connection, people, self.chunk, after);
        let (mut found, mut noted) = (plan.follower_count(), Instant::now());
        loop {
            if let Some(lane) = plan.lane {
                return Ok(lane);
            }
            self.ctx.check_stopped()?;
            match chunks.next_chunk(&self.ctx.stop).await? {
                Some(end) => {
                    found += end.people;
                    plan.ends.push(end);
                    let message = Some(format!("{} followers found", group_digits(found)));
                    self.ctx
                        .progress
                        .report_committed(ProgressUpdate { message, ..plan.to_outputs(&[]).to_progress_update(None) });
                }
                None => plan.lane = Some(plan.ends.len().div_ceil(lanes).max(1)),
            }
            if plan.lane.is_some() || noted.elapsed() > PLAN_SAVE_INTERVAL {
                self.save_checkpoint(None, plan, false).await?;
                noted = Instant::now();
            }
        }
    }

    /// Writes all partitions at the same time. If one fails, the others stop.
    async fn run_parallel(&self, people: &RecipientQuery, plan: &FanoutPlan, length: usize) -> Result<Vec<Partition>> {
        let lanes: Vec<_> = plan.ends.chunks(length).enumerate().collect();
        let seen = PartitionProgress::new(self.ctx, plan, lanes.len());
        seen.set_follower_count(plan.follower_count());
        let stop = self.ctx.stop.child_token();
        let lane = async |(place, ends): (usize, &[ChunkBound])| {
            let before = (place * length).checked_sub(1).and_then(|last| plan.ends.get(last));
            let fresh = Partition { after: before.map(|end| end.key.clone()), ..Partition::default() };
            let done = async {
                let lane = self.claim_partition(place, fresh).await?;
                let after = lane.partition.after.as_ref();
                let over = ends.iter().position(|end| after == Some(&end.key)).map_or(0, |last| last + 1);
                let ends = stream::iter(ends[over..].iter().cloned().map(Ok));
                self.run_partition(people, lane, ends, &stop, &seen).await
            };
            let done = done.await;
            if done.is_err() {
                stop.cancel();
            }
            done
        };
        let done = future::join_all(lanes.into_iter().map(lane)).await;
        let (done, failed): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
        let mut failed = failed.into_iter().filter_map(Result::err).collect::<Vec<_>>();
        // A partition that stopped because another one failed is not the cause.
        failed.sort_by_key(|error| error.retryability() == Retryability::Stopped);
        match failed.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(done.into_iter().filter_map(Result::ok).collect()),
        }
    }

    /// Claims the checkpoint of a partition and returns it.
    async fn claim_partition(&self, place: usize, fresh: Partition) -> Result<ClaimedPartition> {
        let fence = self.partition_fence(Some(place));
        let claimed = match &fence {
            Some(fence) => self.connection.claim_checkpoint(fence).await?,
            None => None,
        };
        let partition = claimed.as_deref().map_or(Ok(fresh), read_checkpoint)?;
        Ok(ClaimedPartition { place, fence, partition })
    }

    /// Writes the chunks of a partition.
    async fn run_partition(
        &self,
        people: &RecipientQuery,
        claimed: ClaimedPartition,
        ends: impl Stream<Item = Result<ChunkBound>>,
        stop: &CancellationToken,
        seen: &PartitionProgress<'_>,
    ) -> Result<Partition> {
        let Self { connection, target, .. } = self;
        let ClaimedPartition { place, fence, partition: mut lane } = claimed;
        let mut ends = pin!(ends);
        seen.update_partition(place, &lane);
        // The first chunk skips existing rows. It also shows whether the keys are unique.
        let mut present = OnExisting::Skip;
        while let Some(end) = ends.try_next().await? {
            if stop.is_cancelled() {
                return Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop"));
            }
            let span = KeyRange { after: lane.after.clone(), until: Some(end.key.clone()) };
            let put = async |present| {
                let (before, end) = (lane.clone(), end.clone());
                let note = move |effect: &StatementResult| {
                    let cursor = to_json(&before.advance_past(end, effect.affected));
                    Ok(Checkpoint { cursor, finished: false })
                };
                let chunk = DeliveryChunk { range: &span, reason: FOLLOW_REASON, on_existing: present };
                let commit = CheckpointCommit { fence: fence.as_ref(), checkpoint_fn: Box::new(note) };
                people.insert_rows(connection, target, chunk, stop, commit).await
            };
            let (effect, saved) = match put(present).await {
                Err(error) if present == OnExisting::AssumeNone && error.code() == codes::DATABASE_ERROR => {
                    put(OnExisting::Skip).await?
                }
                done => done?,
            };
            present = if effect.affected == end.people { OnExisting::AssumeNone } else { OnExisting::Skip };
            lane = read_checkpoint(&saved.cursor)?;
            seen.update_partition(place, &lane);
        }
        Ok(lane)
    }
}

impl<'a> PartitionProgress<'a> {
    fn new(ctx: &'a StepContext, plan: &'a FanoutPlan, lanes: usize) -> Self {
        Self { ctx, plan, partitions: Mutex::new(vec![Partition::default(); lanes]), followers: OnceLock::new() }
    }

    /// Reports the progress of a partition.
    fn update_partition(&self, place: usize, lane: &Partition) {
        let mut lanes = self.partitions.lock().unwrap_or_else(PoisonError::into_inner);
        lanes[place] = lane.clone();
        let total = self.followers.get().map(|followers| followers + self.plan.mentioned);
        self.plan.to_outputs(&lanes).report_progress(self.ctx, total);
    }

    fn set_follower_count(&self, followers: u64) {
        let _known = self.followers.set(followers);
    }
}

impl Partition {
    /// Returns the partition after a chunk. Followers may have joined since the chunk was counted.
    fn advance_past(self, chunk: ChunkBound, delivered: u64) -> Self {
        Self {
            after: Some(chunk.key),
            people: self.people + chunk.people.max(delivered),
            delivered: self.delivered + delivered,
        }
    }
}

impl FanoutPlan {
    /// The number of followers in the chunks that were found.
    fn follower_count(&self) -> u64 {
        self.ends.iter().map(|end| end.people).sum()
    }

    /// Returns the outputs of the committed work.
    fn to_outputs(&self, lanes: &[Partition]) -> NotifyFanoutOutputs {
        let (followers, delivered) =
            lanes.iter().fold((0, self.delivered), |sum, lane| (sum.0 + lane.people, sum.1 + lane.delivered));
        let skipped = (self.mentioned + followers).saturating_sub(delivered);
        NotifyFanoutOutputs { mentioned: self.mentioned, followers, delivered, skipped, failed: 0 }
    }
}

fn to_json(cursor: &impl Serialize) -> String {
    serde_json::to_string(cursor).unwrap_or_default()
}
