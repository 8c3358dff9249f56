//! Rate limits of mail per recipient domain. Large providers defer or refuse mail from senders that are too fast.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use super::config::MailConfig;
use super::{MailAddress, RateSlots};
use crate::codes;
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};

const RATE_WINDOW_MS: i64 = 60_000;

/// The interval between two mails in milliseconds, by domain.
pub(super) struct DomainRates {
    intervals: BTreeMap<String, i64>,
    /// The interval for every other domain.
    default_interval: Option<i64>,
}

/// The rate limit key of a recipient's domain, and its interval.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct DomainRate {
    key: String,
    /// In milliseconds.
    interval: i64,
}

impl DomainRates {
    pub(super) fn new(config: &MailConfig) -> Self {
        let interval = |mails: &u32| RATE_WINDOW_MS / i64::from((*mails).max(1));
        let domains = config.per_minute.iter().filter(|(name, _)| *name != MailConfig::OTHERS);
        Self {
            intervals: domains.map(|(name, mails)| (to_ascii_domain(name), interval(mails))).collect(),
            default_interval: config.per_minute.get(MailConfig::OTHERS).map(interval),
        }
    }

    /// The rate limit for this recipient; `None` if there is none.
    pub(super) fn rate_for(&self, recipient: &MailAddress) -> Option<DomainRate> {
        let domain = recipient.domain().to_lowercase();
        let interval = self.intervals.get(&domain).copied().or(self.default_interval)?;
        Some(DomainRate { key: format!("mail:{domain}"), interval })
    }
}

impl DomainRate {
    /// Takes the next free slot of the domain and waits for it. All processes take their slots from the same row.
    pub(super) async fn wait_turn(&self, slots: &dyn RateSlots, clock: &Clock, stop: &CancellationToken) -> Result<()> {
        let slot = slots.take_slot(&self.key, self.interval).await?;
        let rest = u64::try_from(slot - clock.now()).unwrap_or(0);
        tokio::select! {
            biased;
            () = stop.cancelled() => Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop")),
            () = tokio::time::sleep(Duration::from_millis(rest)) => Ok(()),
        }
    }
}

/// A domain in the form of parsed addresses.
fn to_ascii_domain(name: &str) -> String {
    url::Host::parse(name).map_or_else(|_| name.to_lowercase(), |host| host.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_domain_has_its_own_rate() {
        let rates = [("Gmail.com", 60), ("bücher.example", 120), ("*", 600)];
        let per_minute = rates.map(|(name, mails)| (name.to_owned(), mails)).into();
        let rates = DomainRates::new(&MailConfig { per_minute, ..MailConfig::default() });
        let of =
            |to: &str| rates.rate_for(&MailAddress::parse_recipient(to).unwrap()).map(|rate| (rate.key, rate.interval));
        assert_eq!(of("Ada <a@GMAIL.com>"), Some(("mail:gmail.com".into(), 1_000)));
        assert_eq!(of("a@xn--bcher-kva.example"), Some(("mail:xn--bcher-kva.example".into(), 500)));
        assert_eq!(of("a@BÜCHER.example"), of("b@bücher.example"));
        assert_eq!(of("a@one.example"), Some(("mail:one.example".into(), 100)));
        assert_ne!(of("a@one.example"), of("a@sub.one.example"));
        let free = DomainRates::new(&MailConfig::default());
        assert_eq!(free.rate_for(&MailAddress::parse_recipient("a@gmail.com").unwrap()), None);
    }

    /// The slots of one key.
    #[derive(Default)]
    struct OneKey(std::sync::Mutex<i64>);

    const START: i64 = 1_700_000_000_000;

    impl RateSlots for OneKey {
        fn take_slot<'a>(&'a self, _: &'a str, interval: i64) -> futures::future::BoxFuture<'a, Result<i64>> {
            let mut next = self.0.lock().unwrap();
            let slot = (*next).max(START);
            *next = slot + interval;
            Box::pin(async move { Ok(slot) })
        }
    }

    #[tokio::test]
    async fn a_mail_waits_for_its_rate_slot_until_stopped() {
        let (slots, (clock, _)) = (OneKey::default(), Clock::manual(START));
        let rate = DomainRate { key: "mail:a.example".into(), interval: 3_600_000 };
        let stop = CancellationToken::new();
        rate.wait_turn(&slots, &clock, &stop).await.unwrap();
        // The next slot is free in an hour.
        let waiting = rate.wait_turn(&slots, &clock, &stop);
        let (waited, ()) = tokio::join!(waiting, async {
            tokio::task::yield_now().await;
            stop.cancel();
        });
        assert_eq!(waited.unwrap_err().code(), codes::STEP_STOPPED);
        assert!(*slots.0.lock().unwrap() > clock.now() + rate.interval, "both took a slot of the same key");
    }
}
