//! The suppressed addresses and the unsubscribe links, in the state database.

use std::collections::{BTreeMap, BTreeSet};

use futures::future::BoxFuture;
use ulid::Ulid;

use crate::codes;
use crate::config::Config;
use afterload_core::error::{Error, Result};
use afterload_core::keyring::Keyring;
use afterload_mailer::SuppressionList;
use afterload_state::{Db, UnsubscribeLinkRecord};

/// Answers the mailer from the state database.
pub(super) struct DbSuppressionList {
    db: Db,
    keyring: Keyring,
    /// The public URL of the service. A link that only this machine can open helps nobody.
    public_url: Option<String>,
}

impl DbSuppressionList {
    /// Signs links with the keys of the configuration.
    pub(super) fn new(db: Db, config: &Config) -> Self {
        let public_url = config.public_url.is_some().then(|| config.base_url());
        Self { db, keyring: config.keyring(), public_url }
    }
}

impl SuppressionList for DbSuppressionList {
    fn find_suppressed<'a>(
        &'a self,
        list: Option<&'a str>,
        addresses: &'a [String],
    ) -> BoxFuture<'a, Result<BTreeSet<String>>> {
        Box::pin(async move {
            let suppressed = self.db.mail_suppressions().find_suppressed(list, addresses).await?;
            Ok(BTreeSet::from_iter(suppressed))
        })
    }

    fn create_unsubscribe_urls<'a>(
        &'a self,
        list: &'a str,
        run: &'a str,
        addresses: &'a [String],
    ) -> BoxFuture<'a, Result<BTreeMap<String, String>>> {
        Box::pin(async move {
            let Some(base_url) = &self.public_url else {
                return Err(Error::new(codes::MAIL_UNSUBSCRIBE_UNAVAILABLE, "the service has no `public_url`"));
            };
            let ids: Vec<Ulid> =
                addresses.iter().map(|address| self.keyring.derive_unsubscribe_id(list, address)).collect();
            let links: Vec<UnsubscribeLinkRecord> = addresses
                .iter()
                .zip(&ids)
                .map(|(address, id)| UnsubscribeLinkRecord {
                    id: id.to_string(),
                    list: list.to_owned(),
                    address: address.clone(),
                    run_id: run.to_owned(),
                })
                .collect();
            self.db.mail_suppressions().upsert_links(&links).await?;
            let url = |id: &Ulid| format!("{base_url}/u/{}", self.keyring.create_unsubscribe_token(*id));
            Ok(BTreeMap::from_iter(addresses.iter().zip(&ids).map(|(address, id)| (address.clone(), url(id)))))
        })
    }
}
