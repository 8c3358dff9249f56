//! Who receives no mails, and the links by which recipients unsubscribe: what the mailer needs of a database.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;

use afterload_core::error::Result;

/// The maximum length of the name of a list.
const MAX_LIST_NAME_LEN: usize = 63;

/// Knows the addresses that receive no mails. All addresses are in the form of [`super::MailAddress::mailbox_key`].
pub trait SuppressionList: Send + Sync {
    /// Returns those of the addresses that receive no mails of this list; without a list, those that receive none at all.
    fn find_suppressed<'a>(
        &'a self,
        list: Option<&'a str>,
        addresses: &'a [String],
    ) -> BoxFuture<'a, Result<BTreeSet<String>>>;

    /// Creates the links by which these addresses unsubscribe from the list, by address. The same address gets the same
    /// link until the key of the service is replaced.
    ///
    /// # Errors
    /// `mail_unsubscribe_unavailable` without a public URL.
    fn create_unsubscribe_urls<'a>(
        &'a self,
        list: &'a str,
        run: &'a str,
        addresses: &'a [String],
    ) -> BoxFuture<'a, Result<BTreeMap<String, String>>>;
}

/// True for the name of a list: small letters, digits, `.`, `_` and `-`, as the names of pipelines.
pub fn is_list_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.len() <= MAX_LIST_NAME_LEN
        && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::is_list_name;

    #[test]
    fn list_names_are_plain() {
        assert!(["news", "weekly-news", "a", "2026.q1", &"a".repeat(63)].iter().all(|name| is_list_name(name)));
        let long = "a".repeat(64);
        for bad in ["", "*", "-a", ".a", "News", "a b", "a\n", "ü", "a/b", &long] {
            assert!(!is_list_name(bad), "{bad:?}");
        }
    }
}
