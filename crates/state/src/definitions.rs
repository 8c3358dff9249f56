//! Definitions by their digest, and which one is live under each name.

use super::db::Db;
use super::group_commit::TxOutcome;
use super::sql_args::args;
use super::tx::{DbRow, DbTx};
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// A definition as it was published.
#[derive(Clone, Debug)]
pub struct DefinitionRecord {
    /// The pipeline's name.
    pub name: String,
    /// SHA-256 of the source, in hexadecimal.
    pub digest: String,
    /// The YAML text.
    pub source: String,
}

const SELECT_DEFINITION: &str = "SELECT name, digest, source FROM definitions WHERE digest = $1";

fn definition_from_row(row: &DbRow) -> Result<DefinitionRecord> {
    Ok(DefinitionRecord {
        name: row.get_text("name")?,
        digest: row.get_text("digest")?,
        source: row.get_text("source")?,
    })
}

/// Reads and writes the definitions of pipelines, live and past.
#[derive(Clone, Copy)]
pub struct DefinitionStore<C>(pub(super) C);

impl DefinitionStore<&mut DbTx> {
    /// Stores definitions and makes them live.
    async fn publish(self, definitions: &[DefinitionRecord]) -> Result<()> {
        for DefinitionRecord { name, digest, source } in definitions {
            self.0
                .execute(
                    "INSERT INTO definitions (digest, name, source, created_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (digest) DO NOTHING",
                    &args![digest, name, source, self.0.now()],
                )
                .await?;
            self.0
                .execute(
                    "INSERT INTO pipelines (name, digest, published_at) VALUES ($1, $2, $3)
                 ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, published_at = excluded.published_at
                 WHERE pipelines.digest <> excluded.digest",
                    &args![name, digest, self.0.now()],
                )
                .await?;
        }
        Ok(())
    }

    /// Finds a definition by its digest.
    pub async fn find(self, digest: &str) -> Result<Option<DefinitionRecord>> {
        self.0.fetch(SELECT_DEFINITION, &args![digest]).await?.first().map(definition_from_row).transpose()
    }
}

impl DefinitionStore<&Db> {
    /// Stores definitions and makes them live. All other names stop being live, except those in `kept`.
    pub async fn replace_live(self, definitions: &[DefinitionRecord], kept: &[String]) -> Result<()> {
        self.0
            .with_tx(async |tx| {
                let live = tx.fetch("SELECT name FROM pipelines", &[]).await?;
                for row in live {
                    let name = row.get_text("name")?;
                    if !kept.contains(&name) && !definitions.iter().any(|definition| definition.name == name) {
                        tx.execute("DELETE FROM pipelines WHERE name = $1", &args![name]).await?;
                    }
                }
                tx.definitions().publish(definitions).await?;
                Ok(TxOutcome::Commit(()))
            })
            .await
    }

    /// Stores definitions and makes them live. The names in `gone` stop being live; all other names stay as they are.
    pub async fn update_live(self, definitions: &[DefinitionRecord], gone: &[String]) -> Result<()> {
        self.0
            .with_tx(async |tx| {
                for name in gone {
                    tx.execute("DELETE FROM pipelines WHERE name = $1", &args![name]).await?;
                }
                tx.definitions().publish(definitions).await?;
                Ok(TxOutcome::Commit(()))
            })
            .await
    }

    /// Lists the name and digest of each live definition, sorted by name.
    pub async fn list_live_names(self) -> Result<Vec<(String, String)>> {
        let rows = self.0.fetch("SELECT name, digest FROM pipelines ORDER BY name", &[]).await?;
        rows.iter().map(|row| Ok((row.get_text("name")?, row.get_text("digest")?))).collect()
    }

    /// Lists the digests of the live definitions.
    pub async fn list_live_digests(self) -> Result<Vec<String>> {
        self.0.fetch("SELECT digest FROM pipelines", &[]).await?.iter().map(|row| row.get_text("digest")).collect()
    }

    /// Lists the digests of the live definitions, each with the time when it went live.
    pub async fn list_published_digests(self) -> Result<Vec<(String, UnixMillis)>> {
        let rows = self.0.fetch("SELECT digest, published_at FROM pipelines ORDER BY name", &[]).await?;
        rows.iter().map(|row| Ok((row.get_text("digest")?, row.get_int("published_at")?))).collect()
    }

    /// Finds the live definition of a name.
    pub async fn find_live(self, name: &str) -> Result<Option<DefinitionRecord>> {
        let sql = "SELECT d.name, d.digest, d.source FROM pipelines p JOIN definitions d ON d.digest = p.digest WHERE p.name = $1";
        self.0.fetch_optional(sql, &args![name]).await?.as_ref().map(definition_from_row).transpose()
    }

    /// Finds a definition by its digest.
    pub async fn find(self, digest: &str) -> Result<Option<DefinitionRecord>> {
        self.0.fetch_optional(SELECT_DEFINITION, &args![digest]).await?.as_ref().map(definition_from_row).transpose()
    }
}
