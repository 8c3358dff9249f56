//! Deliveries that are made one by one: what became of each is written down, so that nobody is knowingly told twice.

use std::collections::BTreeMap;
use std::future::Future;

use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::audience::{Members, key_text};
use super::{FOLLOW, MENTION, Outputs};
use afterload_core::error::{Error, Result};
use afterload_step_api::{Begun, Context, Delivery};
use afterload_target_db::{Connection, People, Person, Span};

/// The most people who are held in memory.
const PAGE: u64 = 1_000;
/// Where the effects of the step keep how far it is.
const CURSOR: &str = "fanout";

/// A way to tell somebody something.
pub trait Channel: Sync {
    /// Tells one person. The same person is told under the same id each time.
    fn tell(&self, person: &Person, reason: &'static str) -> impl Future<Output = Result<(), Trouble>> + Send;
}

/// Why somebody was not told.
pub enum Trouble {
    /// It says nothing of the next one.
    Person(Error),
    /// The next one would fare no better.
    Channel(Error),
}

/// How far it is: everybody up to `after` has been told, or cannot be.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Cursor {
    names: Option<Vec<String>>,
    mentioned: Option<u64>,
    /// How many followers there are.
    total: u64,
    after: Option<Value>,
    followers: u64,
    finished: bool,
}

struct Work<'a, C> {
    ctx: &'a Context,
    channel: &'a C,
    parallel: usize,
    outputs: Outputs,
    /// The first trouble that may pass, and how many people have met one.
    later: Option<Error>,
    waiting: u64,
}

/// Tells everybody, from where the last attempt got to.
pub async fn run(
    ctx: &Context,
    members: &Members,
    channel: &impl Channel,
    chunk: u64,
    parallel: usize,
) -> Result<Outputs> {
    let mut cursor: Cursor = match ctx.effects.begin(CURSOR).await? {
        Begun::Done(detail) => serde_json::from_value(detail)
            .map_err(|error| Error::permanent("checkpoint_invalid", format!("the cursor cannot be read: {error}")))?,
        Begun::Fresh | Begun::Uncertain => Cursor::default(),
    };
    let mut work = Work { ctx, channel, parallel, outputs: Outputs::default(), later: None, waiting: 0 };
    (work.outputs.delivered, work.outputs.failed) = ctx.deliveries.tally().await?;
    if let (Some(named), None) = (&members.named, cursor.mentioned) {
        let names = cursor.names.get_or_insert_with(|| named.names.clone()).clone();
        ctx.effects.done(CURSOR, json!(cursor)).await?;
        let people: Vec<_> = named.all(&names, ctx).await?.into_values().collect();
        work.outputs.mentioned = people.len() as u64;
        work.tell(people, MENTION).await?;
        if work.later.is_none() {
            cursor.mentioned = Some(work.outputs.mentioned);
        }
    }
    work.outputs.mentioned = work.outputs.mentioned.max(cursor.mentioned.unwrap_or_default());
    work.outputs.followers = cursor.followers;
    if let (Some((connection, people)), false) = (&members.followers, cursor.finished) {
        work.followers(connection, people, chunk.min(PAGE), &mut cursor).await?;
    }
    let outputs = work.told();
    match work.later {
        Some(error) => Err(error),
        None => {
            outputs.tell(ctx, Some(0));
            Ok(outputs)
        }
    }
}

impl<C: Channel> Work<'_, C> {
    /// Goes through the followers. The cursor stays where somebody has to be tried again, while the others are told.
    async fn followers(
        &mut self,
        connection: &Connection,
        people: &People,
        page: u64,
        cursor: &mut Cursor,
    ) -> Result<()> {
        let ctx = self.ctx;
        if cursor.after.is_none() {
            cursor.total = people.count(connection, &Span::default(), &ctx.stop).await?;
        }
        let mut span = Span { after: cursor.after.clone(), until: None };
        loop {
            self.told().tell(ctx, Some(self.outputs.mentioned + cursor.total));
            ctx.stopped()?;
            let found = people.page(connection, &span, page as usize, &ctx.stop).await?;
            let count = found.rows.len() as u64;
            let over = count < page;
            if let Some(last) = found.last() {
                span.after = Some(last.clone());
            }
            self.tell(found.people().collect(), FOLLOW).await?;
            self.outputs.followers += count;
            if self.later.is_none() {
                cursor.after.clone_from(&span.after);
                cursor.followers = self.outputs.followers;
                cursor.finished = over;
                ctx.effects.done(CURSOR, json!(cursor)).await?;
            }
            if over {
                return Ok(());
            }
        }
    }

    /// Tells those who have not been told, several at once. All who were begun have an end when this returns.
    async fn tell(&mut self, people: Vec<Person>, reason: &'static str) -> Result<()> {
        let ctx = self.ctx;
        let mut people: BTreeMap<String, Person> =
            people.into_iter().map(|person| (key_text(&person), person)).collect();
        for known in ctx.deliveries.known(people.keys().cloned().collect()).await? {
            people.remove(&known);
        }
        let halt = ctx.stop.child_token();
        let channel = self.channel;
        let one = async |(key, person): (String, Person)| {
            if halt.is_cancelled() {
                return Ok(None);
            }
            let failure = match channel.tell(&person, reason).await {
                Ok(()) => None,
                Err(Trouble::Person(error)) if !error.is_transient() => Some(error),
                Err(trouble) => {
                    if matches!(trouble, Trouble::Channel(_)) {
                        halt.cancel();
                    }
                    return Err(trouble);
                }
            };
            let delivery = Delivery { person: key, reason, failure: failure.as_ref().map(Error::code) };
            ctx.deliveries.record(delivery).await.map_err(|error| {
                halt.cancel();
                Trouble::Channel(error)
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
                Err(Trouble::Person(error)) => {
                    self.waiting += 1;
                    self.later.get_or_insert(error);
                }
                Err(Trouble::Channel(error)) => {
                    broken.get_or_insert(error);
                }
            }
        }
        drop(ends);
        match broken {
            Some(error) => Err(error),
            None => ctx.stopped(),
        }
    }

    fn told(&self) -> Outputs {
        let Outputs { mentioned, followers, delivered, failed, .. } = self.outputs;
        let skipped = (mentioned + followers).saturating_sub(delivered + failed + self.waiting);
        Outputs { skipped, ..self.outputs.clone() }
    }
}
