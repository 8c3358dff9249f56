//! Addresses that receive no mails, and the links by which recipients unsubscribe.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::db::Db;
use super::group_commit::TxOutcome;
use super::sql_args::{SqlArgs, args};
use super::tx::DbRow;
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};

/// The maximum of rows or addresses in one statement. Both databases allow many more placeholders.
const MAX_STATEMENT_ROWS: usize = 500;

/// Why an address receives no mails.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SuppressionReason {
    /// The recipient followed the link in a mail.
    Unsubscribed,
    /// Mails to the address come back.
    Bounced,
    /// The recipient reported a mail as spam.
    Complained,
    /// Somebody added the address through the API.
    Manual,
}

impl SuppressionReason {
    /// The name, as stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unsubscribed => "unsubscribed",
            Self::Bounced => "bounced",
            Self::Complained => "complained",
            Self::Manual => "manual",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Unsubscribed, Self::Bounced, Self::Complained, Self::Manual]
            .into_iter()
            .find(|reason| reason.as_str() == name)
    }
}

/// An address that receives no mails of a list.
#[derive(Clone, Debug)]
pub struct SuppressionRecord {
    /// The id. Ids sort by time.
    pub id: String,
    /// The list; `*` covers every mail.
    pub list: String,
    /// The address in lower case.
    pub address: String,
    /// The reason.
    pub reason: SuppressionReason,
    /// What the mail server or the provider reported, or a note.
    pub detail: Option<String>,
    /// The run whose mail carried the link.
    pub run_id: Option<String>,
    /// When it was recorded.
    pub created_at: UnixMillis,
}

impl SuppressionRecord {
    /// The list that covers every mail.
    pub const EVERY_LIST: &str = "*";
}

/// Which suppressions to list.
#[derive(Clone, Debug, Default)]
pub struct SuppressionFilter {
    /// Only those of this address.
    pub address: Option<String>,
    /// Only those of this list.
    pub list: Option<String>,
    /// Only those before this id.
    pub before_id: Option<String>,
    /// The maximum of suppressions to list.
    pub limit: u32,
}

/// A link by which one recipient unsubscribes from one list.
#[derive(Clone, Debug)]
pub struct UnsubscribeLinkRecord {
    /// The id, which is part of the token.
    pub id: String,
    /// The list.
    pub list: String,
    /// The address in lower case.
    pub address: String,
    /// The run that sent the last mail with the link.
    pub run_id: String,
}

const SELECT_SUPPRESSIONS: &str = "SELECT id, list, address, reason, detail, run_id, created_at FROM mail_suppressions";

fn suppression_from_row(row: &DbRow) -> Result<SuppressionRecord> {
    let reason = row.get_text("reason")?;
    Ok(SuppressionRecord {
        id: row.get_text("id")?,
        list: row.get_text("list")?,
        address: row.get_text("address")?,
        reason: SuppressionReason::from_name(&reason).ok_or_else(|| {
            Error::new(codes::DATABASE_ERROR, format!("unknown reason `{reason}` of a suppressed address"))
        })?,
        detail: row.get_opt_text("detail")?,
        run_id: row.get_opt_text("run_id")?,
        created_at: row.get_int("created_at")?,
    })
}

/// Reads and writes suppressed addresses and unsubscribe links.
#[derive(Clone, Copy)]
pub struct MailSuppressionStore<'a>(pub(super) &'a Db);

impl MailSuppressionStore<'_> {
    /// Returns those of the addresses that receive no mails of this list; without a list, those that receive none at all.
    pub async fn find_suppressed(self, list: Option<&str>, addresses: &[String]) -> Result<Vec<String>> {
        let mut suppressed = Vec::new();
        for addresses in addresses.chunks(MAX_STATEMENT_ROWS) {
            let mut args = SqlArgs::default();
            let lists = args.add_list([SuppressionRecord::EVERY_LIST].into_iter().chain(list));
            let addresses = args.add_list(addresses);
            let sql = format!(
                "SELECT DISTINCT address FROM mail_suppressions WHERE address IN ({addresses}) AND list IN ({lists})"
            );
            for row in self.0.fetch(&sql, args.as_slice()).await? {
                suppressed.push(row.get_text("address")?);
            }
        }
        Ok(suppressed)
    }

    /// Stores suppressions, all or none, and returns how many are new. An address that is suppressed already keeps its
    /// reason.
    pub async fn insert(self, records: &[SuppressionRecord]) -> Result<u64> {
        if records.is_empty() {
            return Ok(0);
        }
        // All writers lock rows in the same order, so that none waits for another in a circle.
        let mut sorted: Vec<&SuppressionRecord> = records.iter().collect();
        sorted.sort_by(|a, b| (&a.address, &a.list).cmp(&(&b.address, &b.list)));
        let statements: Vec<_> = sorted.chunks(MAX_STATEMENT_ROWS).map(insert_statement).collect();
        self.0
            .with_tx(async |tx| {
                let mut added = 0;
                for (sql, args) in &statements {
                    added += tx.execute(sql, args.as_slice()).await?;
                }
                Ok(TxOutcome::Commit(added))
            })
            .await
    }

    /// Finds the suppression of an address on exactly this list.
    pub async fn find(self, list: &str, address: &str) -> Result<Option<SuppressionRecord>> {
        let sql = format!("{SELECT_SUPPRESSIONS} WHERE address = $1 AND list = $2");
        self.0.fetch_optional(&sql, &args![address, list]).await?.as_ref().map(suppression_from_row).transpose()
    }

    /// Lists suppressions, newest first.
    pub async fn list(self, filter: &SuppressionFilter) -> Result<Vec<SuppressionRecord>> {
        let mut args = SqlArgs::default();
        let mut conditions = Vec::new();
        for (column, value) in
            [("address = ", &filter.address), ("list = ", &filter.list), ("id < ", &filter.before_id)]
        {
            if let Some(value) = value {
                conditions.push(format!("{column}{}", args.add(value)));
            }
        }
        let conditions = match conditions.is_empty() {
            true => String::new(),
            false => format!(" WHERE {}", conditions.join(" AND ")),
        };
        let limit = args.add(filter.limit);
        let sql = format!("{SELECT_SUPPRESSIONS}{conditions} ORDER BY id DESC LIMIT {limit}");
        self.0.fetch(&sql, args.as_slice()).await?.iter().map(suppression_from_row).collect()
    }

    /// Deletes a suppression and returns it, or `None` if there is none.
    pub async fn delete(self, id: &str) -> Result<Option<SuppressionRecord>> {
        let sql = "DELETE FROM mail_suppressions WHERE id = $1
                   RETURNING id, list, address, reason, detail, run_id, created_at";
        let rows = self.0.with_tx(async |tx| Ok(TxOutcome::Commit(tx.fetch(sql, &args![id]).await?))).await?;
        rows.first().map(suppression_from_row).transpose()
    }

    /// Stores unsubscribe links. A known link only learns its last run.
    pub async fn upsert_links(self, links: &[UnsubscribeLinkRecord]) -> Result<()> {
        if links.is_empty() {
            return Ok(());
        }
        let now = self.0.now();
        let mut sorted: Vec<&UnsubscribeLinkRecord> = links.iter().collect();
        sorted.sort_by(|a, b| a.id.cmp(&b.id));
        let statements: Vec<_> = sorted.chunks(MAX_STATEMENT_ROWS).map(|links| link_statement(links, now)).collect();
        self.0
            .with_tx(async |tx| {
                for (sql, args) in &statements {
                    tx.execute(sql, args.as_slice()).await?;
                }
                Ok(TxOutcome::Commit(()))
            })
            .await
    }

    /// Finds an unsubscribe link by its id.
    pub async fn find_link(self, id: &str) -> Result<Option<UnsubscribeLinkRecord>> {
        let sql = "SELECT id, list, address, run_id FROM unsubscribe_links WHERE id = $1";
        let Some(row) = self.0.fetch_optional(sql, &args![id]).await? else { return Ok(None) };
        Ok(Some(UnsubscribeLinkRecord {
            id: row.get_text("id")?,
            list: row.get_text("list")?,
            address: row.get_text("address")?,
            run_id: row.get_text("run_id")?,
        }))
    }
}

fn insert_statement(records: &[&SuppressionRecord]) -> (String, SqlArgs) {
    let mut args = SqlArgs::default();
    let mut rows = Vec::with_capacity(records.len());
    for record in records {
        let values = [
            args.add(&record.id),
            args.add(&record.list),
            args.add(&record.address),
            args.add(record.reason.as_str()),
            args.add(record.detail.as_deref()),
            args.add(record.run_id.as_deref()),
            args.add(record.created_at),
        ];
        rows.push(format!("({})", values.join(", ")));
    }
    let sql = format!(
        "INSERT INTO mail_suppressions (id, list, address, reason, detail, run_id, created_at) VALUES {}
         ON CONFLICT (address, list) DO NOTHING",
        rows.join(", ")
    );
    (sql, args)
}

fn link_statement(links: &[&UnsubscribeLinkRecord], now: UnixMillis) -> (String, SqlArgs) {
    let mut args = SqlArgs::default();
    let now = args.add(now);
    let mut rows = Vec::with_capacity(links.len());
    for link in links {
        let values = [args.add(&link.id), args.add(&link.list), args.add(&link.address), args.add(&link.run_id)];
        rows.push(format!("({}, {now})", values.join(", ")));
    }
    let sql = format!(
        "INSERT INTO unsubscribe_links (id, list, address, run_id, updated_at) VALUES {}
         ON CONFLICT (id) DO UPDATE SET run_id = excluded.run_id, updated_at = excluded.updated_at",
        rows.join(", ")
    );
    (sql, args)
}
