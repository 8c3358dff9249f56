//! Slows the guessing of keys and tokens. It counts the wrong ones of each address in a table of fixed size.
//!
//! Above the limit, wrong ones get 429. Right ones keep working: random keys and tokens are always checked, because no
//! pace makes guessing them possible. A key that a person chose is checked at once where this address has used it
//! before, and else at the pace of the limit. So those who share the address of an attacker are not locked out.

use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::client_address::ClientAddress;
use crate::codes;
use afterload_core::error::{Error, Result};

/// The period in which wrong keys are counted.
const WINDOW: Duration = Duration::from_secs(60);
/// How long a key may wait for its turn to be checked.
const MAX_TURN_WAIT: Duration = Duration::from_secs(6);
const SETS: usize = 1024;
const SLOTS_PER_SET: usize = 4;

/// What is known of one address.
#[derive(Clone, Copy)]
struct Slot {
    network: IpAddr,
    last_used: Instant,
    window_start: Instant,
    wrong: u32,
    next_turn: Instant,
    /// A hash of the chosen key that this address has used.
    known_key: Option<u64>,
}

type SlotSet = [Option<Slot>; SLOTS_PER_SET];

/// Counts wrong keys and tokens by address.
pub(super) struct AttemptLimiter {
    limit: u32,
    hasher: RandomState,
    sets: Box<[Mutex<SlotSet>]>,
}

impl AttemptLimiter {
    /// Allows this many wrong keys and tokens per minute and address.
    pub(super) fn new(limit: u32) -> Self {
        let sets = (0..SETS).map(|_| Mutex::new(SlotSet::default())).collect();
        Self { limit: limit.max(1), hasher: RandomState::new(), sets }
    }

    /// Waits until a key that a person chose may be checked.
    ///
    /// # Errors
    /// `too_many_attempts`
    pub(super) async fn wait_for_turn(&self, client: ClientAddress, key: &str) -> Result<()> {
        let turn = self.take_turn(client, key, Instant::now()).map_err(too_many_attempts)?;
        tokio::time::sleep_until(turn).await;
        Ok(())
    }

    /// Records that this address has used a right key.
    pub(super) fn remember_key(&self, client: ClientAddress, key: &str) {
        let known_key = Some(self.hasher.hash_one(key));
        self.with_slot(client, Instant::now(), |slot| slot.known_key = known_key);
    }

    /// The time at which a key may be checked. The error says how long to wait before another try.
    fn take_turn(&self, client: ClientAddress, key: &str, now: Instant) -> Result<Instant, Duration> {
        let key = self.hasher.hash_one(key);
        let network = network_of(client);
        let mut set = self.lock_set(network);
        let Some(slot) = set.iter_mut().flatten().find(|slot| slot.network == network) else { return Ok(now) };
        let is_limited = slot.wrong >= self.limit && now < slot.window_start + WINDOW;
        if !is_limited || slot.known_key == Some(key) {
            return Ok(now);
        }
        let turn = slot.next_turn.max(now);
        if turn - now > MAX_TURN_WAIT {
            return Err(turn - now);
        }
        slot.next_turn = turn + WINDOW / self.limit;
        Ok(turn)
    }

    /// Counts a wrong key or token. Above the limit it returns how long to wait before another try.
    pub(super) fn record_wrong(&self, client: ClientAddress, now: Instant) -> Option<Duration> {
        let (wrong, window_end) = self.with_slot(client, now, |slot| {
            if now >= slot.window_start + WINDOW {
                (slot.window_start, slot.wrong) = (now, 0);
            }
            slot.wrong = slot.wrong.saturating_add(1);
            (slot.wrong, slot.window_start + WINDOW)
        });
        if wrong == self.limit.saturating_add(1) {
            tracing::warn!(client.address = %client.0, "too many wrong keys or tokens came from this address");
        }
        (wrong > self.limit).then(|| window_end - now)
    }

    /// Changes the slot of an address. A new address replaces the one that was quiet for longest.
    fn with_slot<T>(&self, client: ClientAddress, now: Instant, change: impl FnOnce(&mut Slot) -> T) -> T {
        let network = network_of(client);
        let mut set = self.lock_set(network);
        let known = set.iter().position(|slot| slot.is_some_and(|slot| slot.network == network));
        let at = known.unwrap_or_else(|| {
            let quietest = (0..SLOTS_PER_SET).min_by_key(|at| set[*at].map(|slot| slot.last_used));
            quietest.unwrap_or_default()
        });
        let fresh = Slot { network, last_used: now, window_start: now, wrong: 0, next_turn: now, known_key: None };
        let slot = match known {
            Some(_) => set[at].get_or_insert(fresh),
            None => set[at].insert(fresh),
        };
        slot.last_used = now;
        change(slot)
    }

    fn lock_set(&self, network: IpAddr) -> MutexGuard<'_, SlotSet> {
        let at = self.hasher.hash_one(network) as usize % SETS;
        self.sets[at].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The network that counts as one address: providers give each customer a /64 of IPv6.
fn network_of(ClientAddress(address): ClientAddress) -> IpAddr {
    match address {
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).into(),
        address => address,
    }
}

/// The error for an address with too many wrong keys or tokens.
pub(super) fn too_many_attempts(wait: Duration) -> Error {
    let message = "too many wrong keys or tokens came from this address";
    // A whole second more: the header has no fractions.
    Error::new(codes::TOO_MANY_ATTEMPTS, message).with_retry_after(wait + Duration::from_secs(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(text: &str) -> ClientAddress {
        ClientAddress(text.parse().unwrap())
    }

    #[test]
    fn wrong_keys_are_counted_by_address_and_minute() {
        let (limiter, start) = (AttemptLimiter::new(3), Instant::now());
        let (one, other) = (client("192.0.2.1"), client("192.0.2.2"));
        for _ in 0..3 {
            assert_eq!(limiter.record_wrong(one, start), None);
        }
        let later = start + WINDOW / 4;
        assert_eq!(limiter.record_wrong(one, later), Some(WINDOW * 3 / 4));
        assert_eq!(limiter.record_wrong(other, later), None);
        assert_eq!(limiter.record_wrong(one, start + WINDOW), None, "a new minute");
    }

    #[test]
    fn a_chosen_key_is_checked_at_the_pace_of_the_limit() {
        let limiter = AttemptLimiter::new(20);
        let (attacker, neighbor) = (client("2001:db8::1"), client("2001:db8::ffff:0:0:1"));
        limiter.remember_key(neighbor, "known");
        let start = Instant::now();
        assert_eq!(limiter.take_turn(attacker, "x", start), Ok(start));
        for _ in 0..20 {
            limiter.record_wrong(attacker, start);
        }
        let turns: Vec<_> = (0..5).map(|_| limiter.take_turn(attacker, "x", start)).collect();
        let after = |seconds| start + Duration::from_secs(seconds);
        let full = Err(Duration::from_secs(9));
        assert_eq!(turns, [Ok(start), Ok(after(3)), Ok(after(6)), full, full]);
        assert_eq!(limiter.take_turn(neighbor, "known", start), Ok(start), "of the same network, but it is known");
        assert_eq!(limiter.take_turn(client("2001:db8:0:1::1"), "x", start), Ok(start), "of another network");
        assert_eq!(limiter.take_turn(attacker, "x", after(60)), Ok(after(60)), "a new minute");
    }

    #[test]
    fn the_table_keeps_its_size_and_the_latest_addresses() {
        let (limiter, start) = (AttemptLimiter::new(1), Instant::now());
        let attacker = client("198.51.100.1");
        for number in 0..100_000_u32 {
            let now = start + Duration::from_micros(number.into());
            limiter.record_wrong(ClientAddress(std::net::Ipv4Addr::from_bits(number).into()), now);
            limiter.record_wrong(attacker, now);
        }
        let slots: usize = limiter.sets.iter().map(|set| set.lock().unwrap().iter().flatten().count()).sum();
        assert!(slots <= SETS * SLOTS_PER_SET, "{slots}");
        assert!(limiter.record_wrong(attacker, start).is_some(), "an address that goes on stays in the table");
    }
}
