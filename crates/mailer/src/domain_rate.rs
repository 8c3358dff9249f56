//! Rate limits of mail per recipient domain. Large providers defer or refuse mail from senders that are too fast.

use std::collections::BTreeMap;

use super::MailAddress;
use super::config::MailConfig;

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
    pub(super) key: String,
    /// In milliseconds.
    pub(super) interval: i64,
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

    /// True if no domain has a rate limit.
    pub(super) fn is_empty(&self) -> bool {
        self.intervals.is_empty() && self.default_interval.is_none()
    }

    /// The rate limit for this recipient; `None` if there is none.
    pub(super) fn rate_for(&self, recipient: &MailAddress) -> Option<DomainRate> {
        let domain = recipient.domain().to_lowercase();
        let interval = self.intervals.get(&domain).copied().or(self.default_interval)?;
        Some(DomainRate { key: format!("mail:{domain}"), interval })
    }
}

impl DomainRate {
    /// How many mails a second allows, at least one.
    pub(super) fn mails_per_second(&self) -> u32 {
        u32::try_from(1_000 / self.interval.max(1)).unwrap_or(1).max(1)
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
        let per_second = |interval| DomainRate { key: String::new(), interval }.mails_per_second();
        assert_eq!([1, 300, 1_000, 60_000].map(per_second), [1_000, 3, 1, 1]);
    }
}
