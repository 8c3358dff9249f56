//! Who receives no mails, and the links by which recipients unsubscribe: what the mailer needs of a database.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;
use sha2::{Digest, Sha256};
use ulid::Ulid;

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

    /// Creates the links by which these addresses unsubscribe from the list, by address. The same address always gets the
    /// same link.
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

/// The id of the link by which an address unsubscribes from a list. It depends only on the two, so that the same address
/// always gets the same link.
pub fn unsubscribe_link_id(list: &str, address: &str) -> Ulid {
    let digest = Sha256::digest(format!("unsubscribe\n{list}\n{address}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    Ulid::from_bytes(bytes)
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
