//! `afterload key`: creates, lists and revokes API keys.

use std::io::Write;

use clap::{Args, Subcommand};

use crate::app;
use crate::codes;
use crate::config::Config;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_core::keyring::TokenPurpose;
use afterload_s3_server::{self as embedded, S3Credentials};
use afterload_server::api::{MAIL_WEBHOOK, S3_WEBHOOK, create_api_key};
use afterload_state::{ApiKeyRecord, Db};

/// What to do with API keys.
#[derive(Debug, Subcommand)]
pub enum KeyCommand {
    /// Create a key and show it once.
    New(NewKeyArgs),
    /// Print the settings of S3 clients for the embedded store, as shell exports.
    S3(S3KeyArgs),
    /// Print the URL for event notifications of S3 stores, with its token.
    Hook {
        /// Print the URL for reports of mails that came back instead.
        #[arg(long)]
        mail: bool,
    },
    /// Print the secret that signs outgoing webhooks, for their receivers.
    Webhook,
    /// List the keys. Their secrets are not stored.
    List,
    /// Delete a key. It stops working at once.
    Revoke {
        /// The key's id, as `key list` shows it.
        id: String,
    },
}

/// How to change the keys of the embedded store before they are printed.
#[derive(Debug, Default, Args)]
pub struct S3KeyArgs {
    /// Make a new key pair. The one until now stays valid beside it, and one before that ends.
    #[arg(long)]
    pub rotate: bool,
    /// End the key pair before the current one, once nobody uses it any more.
    #[arg(long, conflicts_with = "rotate")]
    pub forget_previous: bool,
}

/// A key to create.
#[derive(Debug, Args)]
pub struct NewKeyArgs {
    /// What it is for, such as `web`. Default: its first scope and the day, such as `runs-write-2026-03-01`.
    #[arg(long)]
    pub name: Option<String>,
    /// What it may do: `admin`, `runs:read`, `runs:write`, `events:write`, `bounces:write`, `suppressions:write`, or with a
    /// pipeline `runs:read:NAME`; may be repeated.
    #[arg(long = "scope", required = true, value_name = "SCOPE")]
    pub scopes: Vec<String>,
    /// A bucket whose files it may name in parameters; may be repeated.
    #[arg(long = "bucket", value_name = "BUCKET")]
    pub buckets: Vec<String>,
}

/// Runs the command. The key goes to `out` and everything else to `notes`, so that `KEY=$(afterload key new …)` works.
///
/// # Errors
/// `scope_invalid`, `bucket_invalid`, `key_not_found`, or an error of the terminal.
pub async fn run(
    db: &Db,
    database: &str,
    command: KeyCommand,
    out: &mut impl Write,
    notes: &mut impl Write,
) -> Result<()> {
    match command {
        KeyCommand::New(new) => {
            let given = new.name.as_deref().unwrap_or_default();
            let (mut stored, text) = create_api_key(given, &new.scopes, &new.buckets, db.now())?;
            if stored.name.is_empty() {
                stored.name = default_key_name(&stored, &db.api_keys().list().await?);
                writeln!(notes, "the key is named `{}`", stored.name)?;
            }
            if !db.api_keys().insert(&stored).await? {
                return Err(Error::new(codes::KEY_TAKEN, "another key has the same id"));
            }
            writeln!(out, "{text}")?;
            writeln!(notes, "this is the only time that the key `{}` is shown; it works on {database}", stored.id)?;
        }
        KeyCommand::S3(_) | KeyCommand::Hook { .. } | KeyCommand::Webhook => {}
        KeyCommand::List => print_keys(db, out).await?,
        KeyCommand::Revoke { id } => {
            if !db.api_keys().delete(&id).await? {
                return Err(Error::new(codes::KEY_NOT_FOUND, format!("there is no key `{id}`")));
            }
            writeln!(notes, "revoked `{id}`")?;
        }
    }
    Ok(())
}

/// The first scope and the day, and a number if another key has that name: `admin-2026-03-01-2`.
fn default_key_name(key: &ApiKeyRecord, others: &[ApiKeyRecord]) -> String {
    let scope = key.scopes.first().map_or_else(String::new, |scope| scope.replace(':', "-"));
    let day = clock::format_rfc3339(key.created_at);
    let name = format!("{scope}-{}", day.split('T').next().unwrap_or_default());
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    let mut candidates = std::iter::once(name.clone()).chain(numbered);
    candidates.find(|candidate| others.iter().all(|other| other.name != *candidate)).unwrap_or(name)
}

/// Prints the S3 credentials of the embedded store, for `eval "$(afterload key s3)"`, after the change that is asked for.
///
/// # Errors
/// `store_not_embedded` if there is no embedded store, `credentials_invalid`, `io_error`.
pub fn print_s3_exports(config: &Config, args: &S3KeyArgs, out: &mut impl Write, notes: &mut impl Write) -> Result<()> {
    if config.objects.store_for_bucket(&config.objects.artifacts).is_some() {
        return Err(Error::new(
            codes::STORE_NOT_EMBEDDED,
            "the files lie in a store of their own, not in the embedded one",
        ));
    }
    let change = match args {
        S3KeyArgs { rotate: true, .. } => embedded::rotate_credentials,
        S3KeyArgs { forget_previous: true, .. } => embedded::forget_previous_credentials,
        S3KeyArgs { .. } => embedded::load_or_create_credentials,
    };
    let S3Credentials { access_key, secret_key, .. } = change(&config.data)?;
    if args.rotate || args.forget_previous {
        writeln!(
            notes,
            "restart `afterload serve` and the workers of `{}`: they read the keys when they start",
            config.data.display()
        )?;
    }
    let endpoint = embedded::load_endpoint(&config.data, config.objects.listen);
    writeln!(out, "export AWS_ACCESS_KEY_ID={access_key}")?;
    writeln!(out, "export AWS_SECRET_ACCESS_KEY={}", secret_key.expose_secret())?;
    writeln!(out, "export AWS_ENDPOINT_URL={endpoint}")?;
    // In regions of AWS that once had signature version 2, boto3 and the AWS CLI presign with it.
    writeln!(out, "export AWS_DEFAULT_REGION=local")?;
    Ok(())
}

/// Prints the webhook URL for S3 event notifications, or for reports of bounces, for senders that cannot send an API key.
///
/// # Errors
/// `io_error`
pub async fn print_webhook_url(config: &mut Config, mail: bool, out: &mut impl Write) -> Result<()> {
    app::ensure_secret_key(config).await?;
    let (path, purpose, id) = match mail {
        true => ("mail/bounces", TokenPurpose::MailBounces, MAIL_WEBHOOK),
        false => ("hooks/s3", TokenPurpose::S3Notification, S3_WEBHOOK),
    };
    let token = config.keyring().create_token(purpose, id);
    writeln!(out, "{}/v1/{path}?token={token}", config.base_url())?;
    Ok(())
}

/// Prints the secret that signs outgoing webhooks.
///
/// # Errors
/// `io_error`
pub async fn print_webhook_secret(config: &mut Config, out: &mut impl Write) -> Result<()> {
    app::ensure_secret_key(config).await?;
    writeln!(out, "{}", config.webhook_signer().encoded_secret())?;
    Ok(())
}

/// A database URL for display, without user and password.
pub(super) fn describe_database(url: &str) -> String {
    match url.strip_prefix("sqlite://") {
        Some(path) => format!("the database `{path}`"),
        None => {
            let place = url.split(['?', '#']).next().unwrap_or_default();
            let place = place.rsplit_once('@').or_else(|| place.split_once("://")).map_or("", |(_, place)| place);
            format!("the PostgreSQL database `{place}`")
        }
    }
}

async fn print_keys(db: &Db, out: &mut impl Write) -> Result<()> {
    let mut rows = vec![["ID", "NAME", "SCOPES", "BUCKETS", "CREATED"].map(str::to_owned)];
    for key in db.api_keys().list().await? {
        let buckets = if key.buckets.is_empty() { "-".to_owned() } else { key.buckets.join(" ") };
        rows.push([key.id, key.name, key.scopes.join(" "), buckets, clock::format_rfc3339(key.created_at)]);
    }
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2), width(3), 0];
    for row in &rows {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_core::clock::Clock;

    async fn call(db: &Db, command: KeyCommand) -> Result<(String, String)> {
        let (mut out, mut notes) = (Vec::new(), Vec::new());
        run(db, "the database `a.db`", command, &mut out, &mut notes).await?;
        Ok((String::from_utf8(out).unwrap(), String::from_utf8(notes).unwrap()))
    }

    #[tokio::test]
    async fn keys_are_created_listed_and_revoked() {
        let folder = tempfile::tempdir().unwrap();
        let db =
            Db::open(&format!("sqlite://{}", folder.path().join("a.db").display()), Clock::system()).await.unwrap();
        let new =
            NewKeyArgs { name: Some("web".into()), scopes: vec!["runs:write".into()], buckets: vec!["uploads".into()] };
        let (key, notes) = call(&db, KeyCommand::New(new)).await.unwrap();
        assert!(notes.ends_with("is shown; it works on the database `a.db`\n"), "{notes}");
        let id = key.split('_').nth(1).unwrap().to_owned();
        let (listed, _) = call(&db, KeyCommand::List).await.unwrap();
        assert!(listed.starts_with("ID          NAME  SCOPES      BUCKETS  CREATED\n"), "{listed}");
        assert!(listed.contains(&format!("{id}  web   runs:write  uploads  2")), "{listed}");
        assert!(!listed.contains(key.trim().rsplit('_').next().unwrap()));
        let (_, notes) = call(&db, KeyCommand::Revoke { id: id.clone() }).await.unwrap();
        assert_eq!(notes, format!("revoked `{id}`\n"));
        assert_eq!(call(&db, KeyCommand::Revoke { id }).await.unwrap_err().code(), codes::KEY_NOT_FOUND);
        let wrong = NewKeyArgs { name: Some("web".into()), scopes: vec!["all".into()], buckets: Vec::new() };
        assert_eq!(call(&db, KeyCommand::New(wrong)).await.unwrap_err().code(), codes::SCOPE_INVALID);
    }

    #[tokio::test]
    async fn a_key_without_a_name_is_named_after_its_scope_and_the_day() {
        let folder = tempfile::tempdir().unwrap();
        let db =
            Db::open(&format!("sqlite://{}", folder.path().join("a.db").display()), Clock::system()).await.unwrap();
        let scopes = vec!["runs:write:contacts-import".into(), "metrics:read".into()];
        let (_, notes) =
            call(&db, KeyCommand::New(NewKeyArgs { name: None, scopes, buckets: Vec::new() })).await.unwrap();
        let mut key = db.api_keys().list().await.unwrap().remove(0);
        assert!(notes.starts_with(&format!("the key is named `{}`\n", key.name)), "{notes}");
        assert!(key.name.starts_with("runs-write-contacts-import-20"), "{}", key.name);

        key.created_at = 1_772_323_200_000;
        let mut others = Vec::new();
        for expected in ["", "-2", "-3"] {
            key.name = default_key_name(&key, &others);
            assert_eq!(key.name, format!("runs-write-contacts-import-2026-03-01{expected}"));
            others.push(key.clone());
        }
    }

    #[test]
    fn a_database_url_is_shown_without_its_password() {
        assert_eq!(describe_database("sqlite://data/a.db"), "the database `data/a.db`");
        assert_eq!(
            describe_database("postgres://me:can@ry@db:5432/x?password=canary"),
            "the PostgreSQL database `db:5432/x`"
        );
        assert_eq!(describe_database("postgres:///x"), "the PostgreSQL database `/x`");
    }
}
