//! The suppressed addresses of the tests of `email.send`.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;

use afterload_core::error::Result;
use afterload_mailer::SuppressionList;

/// Pairs of a list and an address.
pub(super) struct Suppressed(pub &'static [(&'static str, &'static str)]);

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T>> + Send + 'a>>;

impl SuppressionList for Suppressed {
    fn find_suppressed<'a>(&'a self, list: Option<&'a str>, addresses: &'a [String]) -> Answer<'a, BTreeSet<String>> {
        let counts = |known: &str| known == "*" || Some(known) == list;
        let found = addresses.iter().filter(|address| {
            self.0.iter().any(|(known, suppressed)| counts(known) && suppressed == &address.as_str())
        });
        let found: BTreeSet<String> = found.cloned().collect();
        Box::pin(async move { Ok(found) })
    }

    fn create_unsubscribe_urls<'a>(
        &'a self,
        list: &'a str,
        _run: &'a str,
        addresses: &'a [String],
    ) -> Answer<'a, BTreeMap<String, String>> {
        let urls: BTreeMap<String, String> =
            addresses.iter().map(|address| (address.clone(), format!("http://x/u/{list}/{address}"))).collect();
        Box::pin(async move { Ok(urls) })
    }
}
