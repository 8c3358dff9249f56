//! Rows for everybody: the database writes them itself, in chunks that are committed with their cursor.
//!
//! The followers are first cut into chunks, each found behind the one before, which also counts them; then the chunks are dealt
//! to as many lanes as write at once. Each lane has a checkpoint of its own, because those who share one would wait for one
//! another. The step's own checkpoint holds the plan.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::audience::{Members, Named};
use super::fields::TableRow;
use super::{FOLLOW, MENTION, Outputs};
use crate::connections::{Connection, Effect, Fence, Noted, People, Present, Row, Span, Target};
use crate::error::{Class, Error, Result};
use crate::steps::Context;
use crate::steps::sql::{fence, recorded};

/// How often it is noted how far the cutting is.
const NOTED: Duration = Duration::from_secs(5);

/// What is committed for the step: who is named and how far that is, and how the followers are cut up.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Plan {
    names: Option<Vec<String>>,
    named: usize,
    mentioned: u64,
    delivered: u64,
    cut: Cut,
    outputs: Option<Outputs>,
}

/// The followers in chunks, in the order of their keys.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Cut {
    /// How many there were.
    followers: u64,
    /// The keys with which the chunks end. All chunks but the last one are of the same length.
    ends: Vec<Value>,
    /// How many chunks a lane has, once all are known.
    lane: Option<usize>,
}

/// What is committed for a lane.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Lane {
    chunks: usize,
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
    let fence = connection.keeps_checkpoints().then(|| fence(ctx));
    let claimed = match &fence {
        Some(fence) => connection.claim(fence).await?,
        None => None,
    };
    let mut plan: Plan = claimed.as_deref().map_or_else(|| Ok(Plan::default()), recorded)?;
    let work = Work { ctx, connection, target, fence, chunk };
    if let Some(outputs) = plan.outputs {
        outputs.tell(ctx, Some(0));
        return Ok(outputs);
    }
    if let Some(named) = &members.named {
        work.mentions(named, &mut plan).await?;
    }
    let mut outputs = plan.told(&[]);
    if let Some((_, people)) = &members.followers {
        let lane = work.cut(people, connection.writers(parallel), &mut plan).await?;
        outputs = plan.told(&work.lanes(people, &plan, lane).await?);
    }
    plan.cut = Cut::default();
    plan.outputs = Some(outputs.clone());
    work.note(&plan, true).await?;
    outputs.tell(ctx, Some(0));
    Ok(outputs)
}

impl Work<'_> {
    async fn note(&self, plan: &Plan, finished: bool) -> Result<()> {
        match &self.fence {
            Some(fence) => self.connection.note(fence, &text(plan), finished).await,
            None => Ok(()),
        }
    }

    /// Those who are named come first, so that their row says so.
    async fn mentions(&self, named: &Named, plan: &mut Plan) -> Result<()> {
        if plan.names.is_none() {
            plan.mentioned = named.all(&named.names, self.ctx).await?.len() as u64;
            plan.names = Some(named.names.clone());
            self.note(plan, false).await?;
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
            *plan = recorded(&noted)?;
        }
        Ok(())
    }

    /// Cuts the followers into chunks, from where the last attempt got to, and says how many of them a lane has. Who comes behind
    /// the last of them is not told.
    async fn cut(&self, people: &People, lanes: usize, plan: &mut Plan) -> Result<usize> {
        let Self { ctx, connection, chunk, .. } = self;
        let mut noted = Instant::now();
        loop {
            if let Some(lane) = plan.cut.lane {
                return Ok(lane);
            }
            ctx.stopped()?;
            let rest = Span { after: plan.cut.ends.last().cloned(), until: None };
            let (mut length, mut last) = (*chunk, false);
            let mut end = people.key_at(connection, &rest, length, &ctx.stop).await?;
            if end.is_none() {
                length = people.count(connection, &rest, &ctx.stop).await?;
                if length > 0 {
                    end = people.key_at(connection, &rest, length, &ctx.stop).await?;
                }
                // Otherwise somebody has left between the two.
                last = end.is_some() || length == 0;
            }
            if let Some(end) = end {
                plan.cut.followers += length;
                plan.cut.ends.push(end);
            }
            if last {
                plan.cut.lane = Some(plan.cut.ends.len().div_ceil(lanes).max(1));
            }
            if plan.cut.lane.is_some() || noted.elapsed() > NOTED {
                self.note(plan, false).await?;
                noted = Instant::now();
            }
        }
    }

    /// Works through all lanes at once. One that fails stops the others at their next chunk.
    async fn lanes(&self, people: &People, plan: &Plan, length: usize) -> Result<Vec<Lane>> {
        let cut = &plan.cut;
        let lanes: Vec<_> = (0..cut.ends.len()).step_by(length).enumerate().collect();
        let seen = Mutex::new(vec![Lane::default(); lanes.len()]);
        let stop = self.ctx.stop.child_token();
        let lane = async |(place, first): (usize, usize)| {
            let tell = |lane: &Lane| {
                let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
                seen[place] = lane.clone();
                plan.told(&seen).tell(self.ctx, Some(cut.followers + plan.mentioned));
            };
            let done = self.lane(people, cut, (place, first..(first + length).min(cut.ends.len())), &stop, tell).await;
            if done.is_err() {
                stop.cancel();
            }
            done
        };
        let done = futures::future::join_all(lanes.into_iter().map(lane)).await;
        let (done, failed): (Vec<_>, Vec<_>) = done.into_iter().partition(Result::is_ok);
        let mut failed = failed.into_iter().filter_map(Result::err).collect::<Vec<_>>();
        // What stopped a lane because another failed is not the reason.
        failed.sort_by_key(|error| error.class() == Class::Stopped);
        match failed.into_iter().next() {
            Some(error) => Err(error),
            None => Ok(done.into_iter().filter_map(Result::ok).collect()),
        }
    }

    async fn lane(
        &self,
        people: &People,
        cut: &Cut,
        (place, chunks): (usize, Range<usize>),
        stop: &CancellationToken,
        tell: impl Fn(&Lane),
    ) -> Result<Lane> {
        let Self { connection, target, .. } = self;
        let fence = self.fence.as_ref().map(|fence| Fence { key: format!("{}#{place}", fence.key), ..fence.clone() });
        let claimed = match &fence {
            Some(fence) => connection.claim(fence).await?,
            None => None,
        };
        let mut lane: Lane = claimed.as_deref().map_or_else(|| Ok(Lane::default()), recorded)?;
        tell(&lane);
        // The first rows also show whether the keys are unique.
        let mut present = Present::Skip;
        while lane.chunks < chunks.len() {
            if stop.is_cancelled() {
                return Err(Error::stopped("step_stopped", "the step was asked to stop"));
            }
            let (span, found) = cut.chunk(chunks.start + lane.chunks, self.chunk);
            let put = async |present| {
                let (before, all) = (lane.clone(), chunks.len());
                let note = move |effect: &Effect| -> Result<Noted> {
                    let next = before.behind(found, effect.affected);
                    Ok((text(&next), next.chunks == all))
                };
                let note = (fence.as_ref(), Box::new(note) as Box<_>);
                people.put(connection, target, (&span, FOLLOW, present), stop, note).await
            };
            let (effect, noted) = match put(present).await {
                Err(error) if present == Present::Unexpected && error.code() == "database_error" => {
                    put(Present::Skip).await?
                }
                done => done?,
            };
            present = if effect.affected == found { Present::Unexpected } else { Present::Skip };
            lane = recorded(&noted)?;
            tell(&lane);
        }
        Ok(lane)
    }
}

impl Cut {
    /// The chunk at a place, from 0, and how many people it had.
    fn chunk(&self, place: usize, length: u64) -> (Span, u64) {
        let end = |place: usize| self.ends.get(place).cloned();
        let before = length * place as u64;
        (Span { after: place.checked_sub(1).and_then(end), until: end(place) }, length.min(self.followers - before))
    }
}

impl Lane {
    /// The lane behind a chunk of so many people, who may have become more since they were counted.
    fn behind(&self, found: u64, delivered: u64) -> Self {
        Self {
            chunks: self.chunks + 1,
            people: self.people + found.max(delivered),
            delivered: self.delivered + delivered,
        }
    }
}

impl Plan {
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
