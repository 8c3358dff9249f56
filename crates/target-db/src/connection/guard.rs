//! Asks the database whether SQL only reads, before it runs for the first time.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::{Connection, Connections};
use crate::bind::{BindValues, ParameterizedSql};
use crate::read_only::Refusal;
use crate::statement::{ParsedStatement, stopped_error};
use crate::target_database::TargetDatabase;
use afterload_core::error::Result;

/// More texts are forgotten, and verified again.
const MAX_VERIFIED_TEXTS: usize = 1_000;

/// The texts that the database found to only read.
#[derive(Default)]
pub(super) struct VerifiedTexts(Mutex<HashSet<String>>);

impl VerifiedTexts {
    fn contains(&self, text: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(text)
    }

    fn insert(&self, text: String) {
        let mut texts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if texts.len() >= MAX_VERIFIED_TEXTS {
            texts.clear();
        }
        texts.insert(text);
    }
}

impl Connections {
    /// Asks a database whether SQL only reads. Parameters are taken as null.
    ///
    /// # Errors
    /// `sql_refused`; `sql_invalid` for text that the database cannot parse; those of [`Self::get`], or those of the
    /// database.
    pub async fn verify_read_only(&self, connection: &str, sql: &str) -> Result<()> {
        let connection = self.get(connection).await?;
        let statement = ParsedStatement::parse(sql, connection.dialect())?;
        let values = statement.parameter_names().iter().map(|name| (name.clone(), Value::Null)).collect();
        connection.verify_read_only(&statement, &values, &CancellationToken::new()).await
    }
}

impl Connection {
    /// Asks the database whether the SQL only reads, once for each text. Values for unknown parameters are ignored.
    pub(crate) async fn find_refusal(
        &self,
        sql: &ParameterizedSql,
        values: &BindValues,
        stop: &CancellationToken,
    ) -> Result<Option<Refusal>> {
        let text = sql.to_named_sql();
        if self.verified.contains(&text) {
            return Ok(None);
        }
        let names = sql.parameter_names();
        let values = values.iter().filter(|(name, _)| names.contains(name));
        let values = values.map(|(name, value)| (name.clone(), value.clone())).collect();
        let refusal = tokio::select! {
            refusal = self.backend.find_refusal(sql, &values) => refusal?,
            () = stop.cancelled() => return Err(stopped_error()),
        };
        if refusal.is_none() {
            self.verified.insert(text);
        }
        Ok(refusal)
    }
}
