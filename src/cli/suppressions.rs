//! `afterload mail suppressions`: the addresses that receive no mails.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::runs::{ServiceArgs, text_or_empty};
use super::stdout::print_line;
use crate::config::Config;
use afterload_core::error::Result;

/// What to do with suppressed addresses.
#[derive(Debug, Args)]
pub struct SuppressionsArgs {
    #[command(subcommand)]
    command: SuppressionsCommand,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
enum SuppressionsCommand {
    /// List them, newest first.
    List {
        /// Only those of this address.
        #[arg(long)]
        address: Option<String>,
        /// Only those of this list; `*` for those that receive no mails at all.
        #[arg(long)]
        list: Option<String>,
        /// The maximum number, at most 200.
        #[arg(long, short = 'n', default_value_t = 50)]
        limit: u32,
    },
    /// Send no more mails to an address.
    Add {
        /// The address.
        address: String,
        /// Only those of this list; default: no mails at all.
        #[arg(long)]
        list: Option<String>,
        /// A note.
        #[arg(long)]
        note: Option<String>,
    },
    /// Send mails to an address again.
    Remove {
        /// The id, as `list` shows it.
        id: String,
    },
}

/// `afterload mail suppressions`
pub(super) async fn run(args: SuppressionsArgs, config: &Config) -> Result<ExitCode> {
    let client = args.service.api_client(config)?;
    let path = "/v1/mail/suppressions";
    let (answer, done) = match args.command {
        SuppressionsCommand::List { address, list, limit } => {
            let filters = [("address", address), ("list", list), ("limit", Some(limit.to_string()))];
            let query: Vec<_> = filters.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            (client.get(path, &query).await?, None)
        }
        SuppressionsCommand::Add { address, list, note } => {
            let fields = [("address", Some(address)), ("list", list), ("note", note)];
            let body: Map<String, Value> =
                fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), json!(value?)))).collect();
            (client.post_json(path, &Value::Object(body)).await?, Some("is suppressed"))
        }
        SuppressionsCommand::Remove { id } => {
            (client.delete(&format!("{path}/{id}")).await?, Some("is no longer suppressed"))
        }
    };
    match done {
        _ if args.service.json => print_line!("{answer:#}"),
        None => print_suppressions(answer["suppressions"].as_array().map(Vec::as_slice).unwrap_or_default()),
        Some(done) => {
            print_line!(
                "{} {done} on the list `{}`",
                text_or_empty(&answer["address"]),
                text_or_empty(&answer["list"])
            );
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn print_suppressions(suppressions: &[Value]) {
    print_line!("{:26}  {:32}  {:20}  {:12}  SINCE", "ID", "ADDRESS", "LIST", "REASON");
    for known in suppressions {
        let [id, address, list, reason, since] =
            ["id", "address", "list", "reason", "created_at"].map(|name| text_or_empty(&known[name]));
        print_line!("{id:26}  {address:32}  {list:20}  {reason:12}  {since}");
    }
}
