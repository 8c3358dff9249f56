//! Rows for everybody: the database writes them itself, in chunks that are committed with their cursor.
//!
//! Where one writes, the next chunks are found while it does. Where several write, all chunks are found first, which also
//! counts the followers, and are dealt to as many lanes, because those who write at one place of an index wait for one another;
//! so do those who share a checkpoint: each lane has one of its own. The step's own checkpoint holds the plan.

use std::pin::pin;
use std::sync::{Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use futures::channel::mpsc;
use futures::{SinkExt, Stream, TryStreamExt, future, stream};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::audience::{Members, Named};
use super::chunks::{Chunks, End};
use super::fields::TableRow;
use super::{FOLLOW, MENTION, Outputs};
use afterload_core::error::{Class, Error, Result};
use afterload_core::units::grouped;
use afterload_step_api::{Context, Report};
use afterload_target_db::{Connection, Effect, Fence, People, Present, Row, Span, Target, read_checkpoint};

/// How often it is noted which chunks were found.
const NOTED: Duration = Duration::from_secs(5);
/// How many chunks are found ahead of the only writer, at most.
const AHEAD: usize = 10_000;

/// What is committed for the step: who is named and how far that is, and how the followers are dealt where several write.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Plan {
    names: Option<Vec<String>>,
    named: usize,
    mentioned: u64,
    delivered: u64,
    ends: Vec<End>,
    /// How many chunks a lane has, once all are found.
    lane: Option<usize>,
    outputs: Option<Outputs>,
}

/// What is committed for a lane.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Lane {
    /// The key up to which everybody has a row.
    after: Option<Value>,
    people: u64,
    delivered: u64,
}

struct Work<'a> {
    ctx: &'a Context,
    connection: &'a Connection,
    target: Target,
    fence: Option<Fence>,
    chunk: u64,
}

/// What is seen of the lanes from outside.
struct Seen<'a> {
    ctx: &'a Context,
    plan: &'a Plan,
    lanes: Mutex<Vec<Lane>>,
    /// How many followers there are, once that is known.
    followers: OnceLock<u64>,
}

/// Gives everybody a row, from where the last attempt got to.
pub async fn run(ctx: &Context, members: &Members, row: &TableRow, chunk: u64, parallel: usize) -> Result<Outputs> {
    let connection = members.followers.as_ref().map(|(connection, _)| connection);
    let Some(connection) = connection.or(members.named.as_ref().map(|named| &named.connection)) else {
        return Ok(Outputs::default());
    };
    let copy: Vec<_> = row.copy.iter().map(|(to, from)| (to.clone(), from.clone())).collect();
    let TableRow { table, person, reason, values, keys, .. } = row;
    let wanted = Row { table, person, reason: reason.as_deref(), values, copy: &copy, keys };
    let target = connection.target(&wanted).await?;
    let fence = connection.keeps_checkpoints().then(|| Fence::new(&ctx.step.key, ctx.step.epoch));
    let claimed = match &fence {
        Some(fence) => connection.claim(fence).await?,
        None => None,
    };
    let mut plan: Plan = claimed.as_deref().map_or_else(|| Ok(Plan::default()), read_checkpoint)?;
    let work = Work { ctx, connection, target, fence, chunk };
    if let Some(outputs) = plan.outputs {
        outputs.tell(ctx, Some(0));
        return Ok(outputs);
    }
    if let Some(named) = &members.named {
        work.mentions(named, &mut plan).await?;
    }
    let lanes = match (&members.followers, connection.writers(parallel)) {
        (None, _) => Vec::new(),
        (Some((_, people)), 1) => vec![work.alone(people, &plan).await?],
        (Some((_, people)), lanes) => {
            let length = work.deal(people, lanes, &mut plan).await?;
            work.together(people, &plan, length).await?
        }
    };
    let outputs = plan.told(&lanes);
    plan.ends.clear();
    plan.outputs = Some(outputs.clone());
    work.note(None, &plan, true).await?;
    // Only now, for what is finished is soon forgotten.
    for (place, lane) in lanes.iter().enumerate() {
        work.note(Some(place), lane, true).await?;
    }
    outputs.tell(ctx, Some(0));
    Ok(outputs)
}

impl Work<'_> {
    /// Notes how far a lane or the step is.
    async fn note(&self, lane: Option<usize>, cursor: &impl Serialize, finished: bool) -> Result<()> {
        match self.fence(lane) {
            Some(fence) => self.connection.note(&fence, &text(cursor), finished).await,
            None => Ok(()),
        }
    }

    fn fence(&self, lane: Option<usize>) -> Option<Fence> {
        let mut fence = self.fence.clone()?;
        if let Some(place) = lane {
            fence.key.push_str(&format!("#{place}"));
        }
        Some(fence)
    }

    /// Those who are named come first, so that their row says so.
    async fn mentions(&self, named: &Named, plan: &mut Plan) -> Result<()> {
        if plan.names.is_none() {
            plan.mentioned = named.all(&named.names, self.ctx).await?.len() as u64;
            plan.names = Some(named.names.clone());
            self.note(None, plan, false).await?;
        }
        let names = plan.names.clone().unwrap_or_default();
        for name in &names[plan.named..] {
            self.ctx.stopped()?;
            let next = Plan { named: plan.named + 1, ..plan.clone() };
            let note = move |effect: &Effect| {
                let next = Plan { delivered: next.delivered + effect.affected, ..next };
                Ok((text(&next), false))
            };
            let who = (&Span::default(), MENTION, Present::Skip);
            let fence = (self.fence.as_ref(), Box::new(note) as Box<_>);
            let people = named.called(name);
            let (_, noted) = people.put(self.connection, &self.target, who, &self.ctx.stop, fence).await?;
            *plan = read_checkpoint(&noted)?;
        }
        Ok(())
    }

    /// One lane, ahead of which chunks are found.
    async fn alone(&self, people: &People, plan: &Plan) -> Result<Lane> {
        let (fence, lane) = self.claim(0, Lane::default()).await?;
        let seen = Seen::new(self.ctx, plan, 1);
        let stop = self.ctx.stop.child_token();
        let mut chunks = Chunks::new(self.connection, people, self.chunk, lane.after.clone());
        let mut followers = lane.people;
        let (mut found, ends) = mpsc::channel(AHEAD);
        let find = async {
            while let Some(end) = chunks.next(&stop).await.transpose() {
                followers += end.as_ref().map_or(0, |end| end.people);
                let failed = end.is_err();
                // Nobody waits for it where the lane has failed.
                if found.send(end).await.is_err() || failed {
                    return;
                }
            }
            seen.all(followers);
            found.close_channel();
        };
        let work = async {
            let done = self.lane(people, (0, fence, lane), ends, &stop, &seen).await;
            stop.cancel();
            done
        };
        future::join(find, work).await.1
    }

    /// Finds all chunks, from where the last attempt got to, and says how many of them a lane has. Who comes behind the last of
    /// them is not told.
    async fn deal(&self, people: &People, lanes: usize, plan: &mut Plan) -> Result<usize> {
        let after = plan.ends.last().map(|end| end.key.clone());
        let mut chunks = Chunks::new(self.connection, people, self.chunk, after);
        let (mut found, mut noted) = (plan.followers(), Instant::now());
        loop {
            if let Some(lane) = plan.lane {
                return Ok(lane);
            }
            self.ctx.stopped()?;
            match chunks.next(&self.ctx.stop).await? {
                Some(end) => {
                    found += end.people;
                    plan.ends.push(end);
                    let message = Some(format!("{} followers found", grouped(found)));
                    self.ctx.progress.committed(Report { message, ..plan.told(&[]).report(None) });
                }
                None => plan.lane = Some(plan.ends.len().div_ceil(lanes).max(1)),
            }
            if plan.lane.is_some() || noted.elapsed() > NOTED {
                self.note(None, plan, false).await?;
                noted = Instant::now();
            }
        }
    }

    /// Works through all lanes at once. One that fails stops the others.
    async fn together(&self, people: &People, plan: &Plan, length: usize) -> Result<Vec<Lane>> {
        let lanes: Vec<_> = plan.ends.chunks(length).enumerate().collect();
        let seen = Seen::new(self.ctx, plan, lanes.len());
        seen.all(plan.followers());
        let stop = self.ctx.stop.child_token();
        let lane = async |(place, ends): (usize, &[End])| {
            let before = (place * length).checked_sub(1).and_then(|last| plan.ends.get(last));
            let fresh = Lane { after: before.map(|end| end.key.clone()), ..Lane::default() };
            let done = async {
                let (fence, lane) = self.claim(place, fresh).await?;
                let over = ends.iter().position(|end| lane.after.as_ref() == Some(&end.key)).map_or(0, |last| last + 1);
                let ends = stream::iter(ends[over..].iter().cloned().map(Ok));
                self.lane(people, (place, fence, lane), ends, &stop, &seen).await
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
        // What stopped a lane because another failed is not the reason.
        failed.sort_by_key(|error| error.class() == Class::Stopped);
        match failed.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(done.into_iter().filter_map(Result::ok).collect()),
        }
    }

    /// Takes the checkpoint of a lane, and says how far it is.
    async fn claim(&self, place: usize, fresh: Lane) -> Result<(Option<Fence>, Lane)> {
        let fence = self.fence(Some(place));
        let claimed = match &fence {
            Some(fence) => self.connection.claim(fence).await?,
            None => None,
        };
        let lane = claimed.as_deref().map_or(Ok(fresh), read_checkpoint)?;
        Ok((fence, lane))
    }

    /// Works through the chunks of a lane.
    async fn lane(
        &self,
        people: &People,
        (place, fence, mut lane): (usize, Option<Fence>, Lane),
        ends: impl Stream<Item = Result<End>>,
        stop: &CancellationToken,
        seen: &Seen<'_>,
    ) -> Result<Lane> {
        let Self { connection, target, .. } = self;
        let mut ends = pin!(ends);
        seen.lane(place, &lane);
        // The first rows also show whether the keys are unique.
        let mut present = Present::Skip;
        while let Some(end) = ends.try_next().await? {
            if stop.is_cancelled() {
                return Err(Error::stopped("step_stopped", "the step was asked to stop"));
            }
            let span = Span { after: lane.after.clone(), until: Some(end.key.clone()) };
            let put = async |present| {
                let (before, end) = (lane.clone(), end.clone());
                let note = move |effect: &Effect| Ok((text(&before.behind(end, effect.affected)), false));
                let note = (fence.as_ref(), Box::new(note) as Box<_>);
                people.put(connection, target, (&span, FOLLOW, present), stop, note).await
            };
            let (effect, noted) = match put(present).await {
                Err(error) if present == Present::Unexpected && error.code() == "database_error" => {
                    put(Present::Skip).await?
                }
                done => done?,
            };
            present = if effect.affected == end.people { Present::Unexpected } else { Present::Skip };
            lane = read_checkpoint(&noted)?;
            seen.lane(place, &lane);
        }
        Ok(lane)
    }
}

impl<'a> Seen<'a> {
    fn new(ctx: &'a Context, plan: &'a Plan, lanes: usize) -> Self {
        Self { ctx, plan, lanes: Mutex::new(vec![Lane::default(); lanes]), followers: OnceLock::new() }
    }

    /// Tells how far a lane is.
    fn lane(&self, place: usize, lane: &Lane) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes[place] = lane.clone();
        let total = self.followers.get().map(|followers| followers + self.plan.mentioned);
        self.plan.told(&lanes).tell(self.ctx, total);
    }

    /// From now on it is known how many followers there are.
    fn all(&self, followers: u64) {
        let _known = self.followers.set(followers);
    }
}

impl Lane {
    /// The lane behind a chunk, whose people may have become more since they were counted.
    fn behind(self, chunk: End, delivered: u64) -> Self {
        Self {
            after: Some(chunk.key),
            people: self.people + chunk.people.max(delivered),
            delivered: self.delivered + delivered,
        }
    }
}

impl Plan {
    /// How many followers there are in the chunks that were found.
    fn followers(&self) -> u64 {
        self.ends.iter().map(|end| end.people).sum()
    }

    /// What has been committed.
    fn told(&self, lanes: &[Lane]) -> Outputs {
        let (followers, delivered) =
            lanes.iter().fold((0, self.delivered), |sum, lane| (sum.0 + lane.people, sum.1 + lane.delivered));
        let skipped = (self.mentioned + followers).saturating_sub(delivered);
        Outputs { mentioned: self.mentioned, followers, delivered, skipped, failed: 0 }
    }
}

fn text(cursor: &impl Serialize) -> String {
    serde_json::to_string(cursor).unwrap_or_default()
}
