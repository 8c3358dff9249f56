//! The turns of the mails of one attempt under `mail.per_minute`.
//!
//! An attempt takes the turns of a domain for up to a second at once, in one statement. It begins with one turn, and
//! doubles the number while it uses all of them in time: a turn that it misses is lost for other steps, too. Turns that
//! are further ahead are only reserved. The attempt then ends, and the next one continues at the first of them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::OwnedMutexGuard;

use super::domain_rate::DomainRate;
use super::{MailAddress, Mailer};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// How far ahead a turn may be, in milliseconds, so that an attempt waits for it.
pub const MAX_TURN_LEAD_MS: i64 = 1_000;
/// A reservation is void if its first turn was longer ago, in milliseconds.
const RESERVATION_TTL_MS: i64 = 120_000;

/// Hands out turns of a key that all processes share, such as a row of a database.
pub trait RateSlots: Send + Sync {
    /// Takes the next free turns of a key, if the first of them is at most [`MAX_TURN_LEAD_MS`] ahead. Otherwise reserves
    /// turns.
    fn take_turns<'a>(&'a self, request: TurnRequest<'a>) -> BoxFuture<'a, Result<GrantedTurns>>;
}

/// A request for turns.
#[derive(Clone, Copy, Debug)]
pub struct TurnRequest<'a> {
    /// The key.
    pub key: &'a str,
    /// The time between two turns, in milliseconds.
    pub interval: i64,
    /// How many turns.
    pub count: u32,
    /// The caller has reserved them before, so that other reservations do not come first.
    pub reserved: bool,
}

/// The answer to a [`TurnRequest`], with the time of the first turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GrantedTurns {
    /// They are taken.
    Taken(UnixMillis),
    /// They are reserved.
    Reserved(UnixMillis),
}

/// When a mail may be sent.
#[derive(Debug)]
pub enum MailTurn {
    /// Now: the domain of the recipient has no rate limit.
    Unlimited,
    /// In its turn.
    At(HeldTurn),
    /// In another attempt, at this time.
    Later(UnixMillis),
}

/// A turn. Further mails of the attempt to the same domain get theirs after this one is dropped.
#[derive(Debug)]
pub struct HeldTurn {
    time: UnixMillis,
    _domain: OwnedMutexGuard<DomainTurns>,
}

impl HeldTurn {
    /// When the mail may be sent.
    pub fn time(&self) -> UnixMillis {
        self.time
    }
}

/// The turns of the mails of one attempt.
pub struct MailTurns {
    mailer: Mailer,
    domains: Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<DomainTurns>>>>,
}

/// The turns of a domain.
#[derive(Debug, Default)]
struct DomainTurns {
    /// The turns that are taken and not used.
    times: VecDeque<UnixMillis>,
    /// How many turns the last request was for; 0 before the first one.
    count: u32,
    /// True if a turn of the last request was missed.
    has_missed: bool,
    reserved: Option<ReservedTurns>,
}

/// Turns that are reserved for the next attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct ReservedTurns {
    first: UnixMillis,
    count: u32,
}

impl MailTurns {
    /// Creates the turns of an attempt. `reserved` comes from [`Self::reservations`] of the attempt before.
    pub fn new(mailer: &Mailer, reserved: Value) -> Self {
        // What another version wrote is no reservation.
        let reserved: BTreeMap<String, ReservedTurns> = serde_json::from_value(reserved).unwrap_or_default();
        let now = mailer.clock.now();
        let valid = reserved.into_iter().filter(|(_, turns)| turns.first + RESERVATION_TTL_MS >= now);
        let domains = valid.map(|(key, turns)| {
            let turns = DomainTurns { count: turns.count, reserved: Some(turns), ..DomainTurns::default() };
            (key, Arc::new(tokio::sync::Mutex::new(turns)))
        });
        Self { mailer: mailer.clone(), domains: Mutex::new(domains.collect()) }
    }

    /// Finds out when the next mail to this recipient may be sent. `wanted` is how many mails to its domain are left.
    ///
    /// # Errors
    /// The turns cannot be taken.
    pub async fn take_turn(&self, recipient: &MailAddress, wanted: usize) -> Result<MailTurn> {
        let (Some(slots), Some(rate)) = (&self.mailer.slots, self.mailer.inner.domain_rates.rate_for(recipient)) else {
            return Ok(MailTurn::Unlimited);
        };
        let mut domain = self.domain_turns(&rate.key).lock_owned().await;
        let now = self.mailer.clock.now();
        domain.drop_missed(now, &rate);
        if domain.times.is_empty() {
            if let Some(reserved) = domain.reserved.filter(|turns| turns.first > now + MAX_TURN_LEAD_MS) {
                return Ok(MailTurn::Later(reserved.first));
            }
            let count = domain.next_count(&rate, wanted);
            let DomainRate { key, interval } = &rate;
            let request = TurnRequest { key, interval: *interval, count, reserved: domain.reserved.is_some() };
            let granted = slots.take_turns(request).await?;
            (domain.count, domain.has_missed) = (count, false);
            match granted {
                GrantedTurns::Reserved(first) => {
                    domain.reserved = Some(ReservedTurns { first, count });
                    return Ok(MailTurn::Later(first));
                }
                GrantedTurns::Taken(first) => {
                    domain.reserved = None;
                    domain.times.extend((0..i64::from(count)).map(|turn| first + turn * interval));
                }
            }
        }
        let time = domain.times.pop_front().unwrap_or(now);
        Ok(MailTurn::At(HeldTurn { time, _domain: domain }))
    }

    /// The turns that are reserved for the next attempt, as JSON.
    pub async fn reservations(&self) -> Value {
        let domains: Vec<_> = {
            let domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
            domains.iter().map(|(key, turns)| (key.clone(), turns.clone())).collect()
        };
        let mut reserved = BTreeMap::new();
        for (key, turns) in domains {
            if let Some(turns) = turns.lock().await.reserved {
                reserved.insert(key, turns);
            }
        }
        json!(reserved)
    }

    fn domain_turns(&self, key: &str) -> Arc<tokio::sync::Mutex<DomainTurns>> {
        let mut domains = self.domains.lock().unwrap_or_else(PoisonError::into_inner);
        domains.entry(key.to_owned()).or_default().clone()
    }
}

impl DomainTurns {
    /// Drops turns that are over. A mail in its turn and one that is late would follow one another too closely.
    fn drop_missed(&mut self, now: UnixMillis, rate: &DomainRate) {
        while self.times.front().is_some_and(|time| time + rate.interval < now) {
            self.times.pop_front();
            self.has_missed = true;
        }
    }

    /// How many turns the next request is for.
    fn next_count(&self, rate: &DomainRate, wanted: usize) -> u32 {
        let next = match (self.count, self.has_missed) {
            // The reserved ones.
            (count, _) if self.reserved.is_some() => count,
            (count, false) => count.saturating_mul(2),
            (count, true) => count / 2,
        };
        next.min(rate.mails_per_second()).min(u32::try_from(wanted).unwrap_or(u32::MAX)).max(1)
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::time::Duration;

    use super::*;
    use crate::{MailConfig, MailLimits, MailerOptions};
    use afterload_core::clock::{Clock, ManualTime};
    use afterload_metrics::Metrics;

    const START: UnixMillis = 1_700_000_000_000;

    /// The turns of one key, and the counts of the requests.
    #[derive(Default)]
    struct OneKey(Mutex<(UnixMillis, Vec<(u32, bool)>)>, Option<Clock>);

    impl OneKey {
        fn requests(&self) -> Vec<(u32, bool)> {
            std::mem::take(&mut self.0.lock().unwrap().1)
        }

        fn set_next(&self, next: UnixMillis) {
            self.0.lock().unwrap().0 = next;
        }
    }

    impl RateSlots for OneKey {
        fn take_turns<'a>(&'a self, request: TurnRequest<'a>) -> BoxFuture<'a, Result<GrantedTurns>> {
            let now = self.1.as_ref().unwrap().now();
            let mut state = self.0.lock().unwrap();
            let first = state.0.max(now);
            state.0 = first + i64::from(request.count) * request.interval;
            state.1.push((request.count, request.reserved));
            let granted = match first > now + MAX_TURN_LEAD_MS {
                true => GrantedTurns::Reserved(first),
                false => GrantedTurns::Taken(first),
            };
            Box::pin(async move { Ok(granted) })
        }
    }

    fn new_mailer(per_minute: &[(&str, u32)], clock: &Clock, slots: &Arc<OneKey>) -> Mailer {
        let per_minute = per_minute.iter().map(|(domain, mails)| ((*domain).to_owned(), *mails)).collect();
        let options = MailerOptions {
            mail: MailConfig { per_minute, ..MailConfig::default() },
            limits: MailLimits::default(),
            templates: Path::new("none").into(),
            outbox: Path::new("none").into(),
        };
        Mailer::new(&options, clock.clone()).unwrap().with_shared(Metrics::default(), slots.clone())
    }

    /// A mailer that sends 600 mails per minute to each domain.
    fn limited() -> (Mailer, Arc<OneKey>, ManualTime) {
        let (clock, time) = Clock::manual(START);
        let slots = Arc::new(OneKey(Mutex::default(), Some(clock.clone())));
        (new_mailer(&[("*", 600)], &clock, &slots), slots, time)
    }

    async fn next_turn(turns: &MailTurns, wanted: usize) -> std::result::Result<UnixMillis, UnixMillis> {
        let to = MailAddress::parse_recipient("a@example.com").unwrap();
        match turns.take_turn(&to, wanted).await.unwrap() {
            MailTurn::Unlimited => panic!("there is a limit"),
            MailTurn::At(turn) => Ok(turn.time() - START),
            MailTurn::Later(time) => Err(time - START),
        }
    }

    #[tokio::test]
    async fn turns_are_taken_for_a_second_at_once() {
        let (mailer, slots, time) = limited();
        let turns = MailTurns::new(&mailer, Value::Null);
        for mail in 0..40 {
            let turn = next_turn(&turns, 40 - mail).await.unwrap();
            assert_eq!(turn, 100 * mail as i64);
            let now = mailer.clock.now() - START;
            time.advance(Duration::from_millis(u64::try_from(turn - now).unwrap_or(0)));
        }
        let counts: Vec<u32> = slots.requests().into_iter().map(|(count, _)| count).collect();
        assert_eq!(counts, [1, 2, 4, 8, 10, 10, 5]);
    }

    #[tokio::test]
    async fn a_slow_sender_takes_fewer_turns() {
        let (mailer, slots, time) = limited();
        let turns = MailTurns::new(&mailer, Value::Null);
        for _ in 0..7 {
            next_turn(&turns, 100).await.unwrap();
        }
        assert_eq!(slots.requests().len(), 3);
        time.advance(Duration::from_secs(60));
        // All turns of the last request were used.
        assert_eq!((next_turn(&turns, 100).await, slots.requests()), (Ok(60_000), vec![(8, false)]));
        time.advance(Duration::from_secs(60));
        let next = next_turn(&turns, 100).await;
        assert_eq!((next, slots.requests()), (Ok(120_000), vec![(4, false)]), "a missed turn is not used later");
    }

    #[tokio::test]
    async fn distant_turns_are_reserved_for_the_next_attempt() {
        let (mailer, slots, time) = limited();
        slots.set_next(START + 5_000);
        let first = MailTurns::new(&mailer, Value::Null);
        assert_eq!((next_turn(&first, 9).await, next_turn(&first, 8).await), (Err(5_000), Err(5_000)));
        assert_eq!(slots.requests(), [(1, false)], "one request reserves");
        let reserved = first.reservations().await;
        // Before its time the next attempt asks for nothing.
        let early = MailTurns::new(&mailer, reserved.clone());
        assert_eq!((next_turn(&early, 9).await, slots.requests().len()), (Err(5_000), 0));
        time.advance(Duration::from_millis(4_500));
        slots.set_next(START + 5_000);
        let second = MailTurns::new(&mailer, reserved.clone());
        assert_eq!((next_turn(&second, 9).await, slots.requests()), (Ok(5_000), vec![(1, true)]));
        assert_eq!(second.reservations().await, json!({}));
        // A reservation does not last for ever.
        time.advance(Duration::from_secs(300));
        next_turn(&MailTurns::new(&mailer, reserved), 9).await.unwrap();
        assert_eq!(slots.requests(), [(1, false)]);
    }

    #[tokio::test]
    async fn without_a_limit_no_turn_is_taken() {
        let (mailer, slots, _) = limited();
        let free = new_mailer(&[("example.org", 1)], &mailer.clock, &slots);
        let turns = MailTurns::new(&free, Value::Null);
        let to = MailAddress::parse_recipient("a@example.com").unwrap();
        assert!(matches!(turns.take_turn(&to, 1).await.unwrap(), MailTurn::Unlimited));
        assert!(slots.requests().is_empty());
    }
}
