//! Definitions by digest, and which one is live under each name.

use super::db::{Db, Row, Tx, args};
use super::group::Verdict;
use afterload_core::clock::{self, Millis};
use afterload_core::error::Result;

/// A definition as it was when it was published.
#[derive(Clone, Debug)]
pub struct Definition {
    /// The pipeline's name.
    pub name: String,
    /// SHA-256 of the source, in hexadecimal.
    pub digest: String,
    /// The YAML text.
    pub source: String,
}

const BY_DIGEST: &str = "SELECT name, digest, source FROM definitions WHERE digest = $1";

fn definition(row: &Row) -> Result<Definition> {
    Ok(Definition { name: row.text("name")?, digest: row.text("digest")?, source: row.text("source")? })
}

impl Tx {
    /// Stores definitions and makes them live.
    async fn make_live(&mut self, definitions: &[Definition]) -> Result<()> {
        for Definition { name, digest, source } in definitions {
            self.execute(
                "INSERT INTO definitions (digest, name, source, created_at) VALUES ($1, $2, $3, $4)
                 ON CONFLICT (digest) DO NOTHING",
                &args![digest, name, source, clock::now()],
            )
            .await?;
            self.execute(
                "INSERT INTO pipelines (name, digest, published_at) VALUES ($1, $2, $3)
                 ON CONFLICT (name) DO UPDATE SET digest = excluded.digest, published_at = excluded.published_at
                 WHERE pipelines.digest <> excluded.digest",
                &args![name, digest, clock::now()],
            )
            .await?;
        }
        Ok(())
    }

    /// A definition by its digest.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn definition(&mut self, digest: &str) -> Result<Option<Definition>> {
        self.fetch(BY_DIGEST, &args![digest]).await?.first().map(definition).transpose()
    }
}

impl Db {
    /// Stores definitions and makes them live. Every other name stops being live, but for those in `kept`.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn publish(&self, definitions: &[Definition], kept: &[String]) -> Result<()> {
        self.write(async |tx| {
            let live = tx.fetch("SELECT name FROM pipelines", &[]).await?;
            for row in live {
                let name = row.text("name")?;
                if !kept.contains(&name) && !definitions.iter().any(|definition| definition.name == name) {
                    tx.execute("DELETE FROM pipelines WHERE name = $1", &args![name]).await?;
                }
            }
            tx.make_live(definitions).await?;
            Ok(Verdict::Keep(()))
        })
        .await
    }

    /// Stores definitions and makes them live; the names in `gone` stop being live, all others stay as they are.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn republish(&self, definitions: &[Definition], gone: &[String]) -> Result<()> {
        self.write(async |tx| {
            for name in gone {
                tx.execute("DELETE FROM pipelines WHERE name = $1", &args![name]).await?;
            }
            tx.make_live(definitions).await?;
            Ok(Verdict::Keep(()))
        })
        .await
    }

    /// The name and digest of every live definition, by name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn live(&self) -> Result<Vec<(String, String)>> {
        let rows = self.fetch("SELECT name, digest FROM pipelines ORDER BY name", &[]).await?;
        rows.iter().map(|row| Ok((row.text("name")?, row.text("digest")?))).collect()
    }

    /// The digests of the live definitions.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn live_digests(&self) -> Result<Vec<String>> {
        self.fetch("SELECT digest FROM pipelines", &[]).await?.iter().map(|row| row.text("digest")).collect()
    }

    /// The digests of the live definitions, with the time when each went live.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn live_definitions(&self) -> Result<Vec<(String, Millis)>> {
        let rows = self.fetch("SELECT digest, published_at FROM pipelines ORDER BY name", &[]).await?;
        rows.iter().map(|row| Ok((row.text("digest")?, row.int("published_at")?))).collect()
    }

    /// The live definition of a name.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn live_definition(&self, name: &str) -> Result<Option<Definition>> {
        let sql = "SELECT d.name, d.digest, d.source FROM pipelines p JOIN definitions d ON d.digest = p.digest WHERE p.name = $1";
        self.fetch_one(sql, &args![name]).await?.as_ref().map(definition).transpose()
    }

    /// A definition by its digest.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn definition(&self, digest: &str) -> Result<Option<Definition>> {
        self.fetch_one(BY_DIGEST, &args![digest]).await?.as_ref().map(definition).transpose()
    }
}
