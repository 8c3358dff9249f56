//! Delivers to one recipient after another. The delivery log records each result, so that no recipient is knowingly
//! notified twice.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::recipients::{Recipients, recipient_key_text};
use super::{FOLLOW_REASON, MENTION_REASON, NotifyFanoutOutputs};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_step_api::{DeliveryRecord, EffectState, StepContext};
use afterload_target_db::{Connection, KeyRange, Recipient, RecipientQuery};

/// The maximum number of recipients in memory.
const MAX_PAGE_RECIPIENTS: u64 = 1_000;
/// The effect log stores the cursor under this key.
const CURSOR_EFFECT_KEY: &str = "fanout";

/// Delivers messages to recipients.
pub trait DeliveryChannel: Sync {
    /// Delivers one message. The same recipient always gets the same message id.
    fn deliver_to(
        &self,
        person: &Recipient,
        reason: &'static str,
    ) -> impl Future<Output = Result<(), DeliveryError>> + Send;

    /// Returns the keys of those people that must get no message, in one question for all of them.
    fn find_suppressed(
        &self,
        people: &BTreeMap<String, Recipient>,
    ) -> impl Future<Output = Result<BTreeSet<String>>> + Send {
        let _ = people;
        std::future::ready(Ok(BTreeSet::new()))
    }

    /// True if further pages have to wait for another attempt.
    fn must_wait(&self) -> bool {
        false
    }
}

/// The reason why a delivery failed.
pub enum DeliveryError {
    /// The error concerns only this recipient.
    Recipient(Error),
    /// The next recipient would get the same error.
    Channel(Error),
}

/// The cursor: every recipient up to `after` has a result in the delivery log.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct DeliveryCursor {
    names: Option<Vec<String>>,
    mentioned: Option<u64>,
    /// The number of followers.
    total: u64,
    after: Option<Value>,
    followers: u64,
    finished: bool,
}

struct DeliveryRunner<'a, C> {
    ctx: &'a StepContext,
    channel: &'a C,
    parallel: usize,
    outputs: NotifyFanoutOutputs,
    /// The first transient error, and the number of recipients with one.
    retry_error: Option<Error>,
    retry_count: u64,
    /// The keys of the mentioned recipients whose delivery the next attempt repeats.
    deferred_mentions: BTreeSet<String>,
}

/// Delivers to all recipients, starting at the cursor of the last attempt.
pub async fn deliver_to_each(
    ctx: &StepContext,
    members: &Recipients,
    channel: &impl DeliveryChannel,
    chunk: u64,
    parallel: usize,
) -> Result<NotifyFanoutOutputs> {
    let mut cursor: DeliveryCursor = match ctx.effect_log.begin_effect(CURSOR_EFFECT_KEY).await? {
        EffectState::Done(detail) => serde_json::from_value(detail)
            .map_err(|error| Error::new(codes::CHECKPOINT_INVALID, format!("the cursor cannot be read: {error}")))?,
        EffectState::New | EffectState::Uncertain => DeliveryCursor::default(),
    };
    let mut work = DeliveryRunner {
        ctx,
        channel,
        parallel,
        outputs: NotifyFanoutOutputs::default(),
        retry_error: None,
        retry_count: 0,
        deferred_mentions: BTreeSet::new(),
    };
    (work.outputs.delivered, work.outputs.failed) = ctx.delivery_log.delivery_counts().await?;
    if let (Some(named), None) = (&members.mentioned, cursor.mentioned) {
        let names = cursor.names.get_or_insert_with(|| named.names.clone()).clone();
        ctx.effect_log.mark_done(CURSOR_EFFECT_KEY, json!(cursor)).await?;
        work.deliver_to_mentioned(named.find_all(&names, ctx).await?).await?;
        if work.retry_error.is_none() {
            cursor.mentioned = Some(work.outputs.mentioned);
        }
    }
    work.outputs.mentioned = work.outputs.mentioned.max(cursor.mentioned.unwrap_or_default());
    work.outputs.followers = cursor.followers;
    if let (Some((connection, people)), false) = (&members.followers, cursor.finished) {
        work.deliver_to_followers(connection, people, chunk.min(MAX_PAGE_RECIPIENTS), &mut cursor).await?;
    }
    let outputs = work.to_outputs();
    match work.retry_error {
        Some(error) => Err(error),
        None => {
            outputs.report_progress(ctx, Some(0));
            Ok(outputs)
        }
    }
}

impl<C: DeliveryChannel> DeliveryRunner<'_, C> {
    /// Delivers to the mentioned people, and remembers whose delivery was deferred.
    async fn deliver_to_mentioned(&mut self, people: BTreeMap<String, Recipient>) -> Result<()> {
        let keys: Vec<String> = people.keys().cloned().collect();
        self.outputs.mentioned = keys.len() as u64;
        self.deliver_batch(people.into_values().collect(), MENTION_REASON).await?;
        if self.retry_error.is_some() {
            let finished = self.ctx.delivery_log.filter_finished(keys.clone()).await?;
            let finished: BTreeSet<String> = finished.into_iter().collect();
            self.deferred_mentions = keys.into_iter().filter(|key| !finished.contains(key)).collect();
        }
        Ok(())
    }

    /// Delivers to the followers page by page. After a transient error the cursor stays, but the following pages are
    /// still delivered.
    async fn deliver_to_followers(
        &mut self,
        connection: &Connection,
        people: &RecipientQuery,
        page: u64,
        cursor: &mut DeliveryCursor,
    ) -> Result<()> {
        let ctx = self.ctx;
        if cursor.after.is_none() {
            cursor.total = people.count_in_range(connection, &KeyRange::default(), &ctx.stop).await?;
        }
        let mut span = KeyRange { after: cursor.after.clone(), until: None };
        loop {
            self.to_outputs().report_progress(ctx, Some(self.outputs.mentioned + cursor.total));
            ctx.check_stopped()?;
            let found = people.fetch_page(connection, &span, page as usize, &ctx.stop).await?;
            let count = found.rows.len() as u64;
            let over = count < page;
            if let Some(last) = found.last_key() {
                span.after = Some(last.clone());
            }
            self.deliver_batch(found.iter_recipients().collect(), FOLLOW_REASON).await?;
            self.outputs.followers += count;
            if self.retry_error.is_none() {
                cursor.after.clone_from(&span.after);
                cursor.followers = self.outputs.followers;
                cursor.finished = over;
                ctx.effect_log.mark_done(CURSOR_EFFECT_KEY, json!(cursor)).await?;
            }
            if over || self.channel.must_wait() {
                return Ok(());
            }
        }
    }

    /// Delivers to the recipients that have no result yet, several at a time. Every started delivery has ended when
    /// this returns.
    async fn deliver_batch(&mut self, people: Vec<Recipient>, reason: &'static str) -> Result<()> {
        let ctx = self.ctx;
        let mut people: BTreeMap<String, Recipient> =
            people.into_iter().map(|person| (recipient_key_text(&person), person)).collect();
        // A follower whose mention was deferred is notified of the mention, in the next attempt.
        people.retain(|key, _| !self.deferred_mentions.contains(key));
        for known in ctx.delivery_log.filter_finished(people.keys().cloned().collect()).await? {
            people.remove(&known);
        }
        let channel = self.channel;
        let suppressed = channel.find_suppressed(&people).await?;
        people.retain(|key, _| !suppressed.contains(key));
        let halt = ctx.stop.child_token();
        let one = async |(key, person): (String, Recipient)| {
            if halt.is_cancelled() {
                return Ok(None);
            }
            let failure = match channel.deliver_to(&person, reason).await {
                Ok(()) => None,
                Err(DeliveryError::Recipient(error)) if !error.is_transient() => Some(error),
                Err(trouble) => {
                    if matches!(trouble, DeliveryError::Channel(_)) {
                        halt.cancel();
                    }
                    return Err(trouble);
                }
            };
            let delivery =
                DeliveryRecord { person: key, reason, failure: failure.as_ref().map(|error| error.code().name()) };
            ctx.delivery_log.record_delivery(delivery).await.map_err(|error| {
                halt.cancel();
                DeliveryError::Channel(error)
            })?;
            Ok(Some(failure.is_none()))
        };
        let mut ends = futures::stream::iter(people).map(one).buffer_unordered(self.parallel);
        let mut broken = None;
        while let Some(end) = ends.next().await {
            match end {
                Ok(Some(true)) => self.outputs.delivered += 1,
                Ok(Some(false)) => self.outputs.failed += 1,
                Ok(None) => {}
                Err(DeliveryError::Recipient(error)) => {
                    self.retry_count += 1;
                    self.retry_error.get_or_insert(error);
                }
                Err(DeliveryError::Channel(error)) => {
                    broken.get_or_insert(error);
                }
            }
        }
        drop(ends);
        match broken {
            Some(error) => Err(error),
            None => ctx.check_stopped(),
        }
    }

    fn to_outputs(&self) -> NotifyFanoutOutputs {
        let NotifyFanoutOutputs { mentioned, followers, delivered, failed, .. } = self.outputs;
        let skipped = (mentioned + followers).saturating_sub(delivered + failed + self.retry_count);
        NotifyFanoutOutputs { skipped, ..self.outputs.clone() }
    }
}
