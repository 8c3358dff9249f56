//! `afterload queues` and `afterload pipelines`: lists, pauses and resumes them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::runs::{ServiceArgs, text_or_empty};
use super::stdout::print_line;
use crate::config::Config;
use afterload_core::error::Result;

/// The kind of thing that a command lists and pauses.
pub(super) struct PausableKind {
    /// The singular, for messages.
    singular: &'static str,
    /// The plural, in API paths and responses.
    plural: &'static str,
    print_list: fn(&[Value]),
}

pub(super) const QUEUE_KIND: PausableKind =
    PausableKind { singular: "queue", plural: "queues", print_list: print_queues };
pub(super) const PIPELINE_KIND: PausableKind =
    PausableKind { singular: "pipeline", plural: "pipelines", print_list: print_pipelines };

/// What to do; default: list them.
#[derive(Debug, Args)]
pub(super) struct PauseArgs {
    #[command(subcommand)]
    command: Option<PauseCommand>,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
enum PauseCommand {
    /// Start none of its steps in any process. Running steps finish; new work is accepted and waits.
    Pause {
        /// Its name.
        name: String,
    },
    /// Start its steps again.
    Resume {
        /// Its name.
        name: String,
    },
}

/// `afterload queues` and `afterload pipelines`
pub(super) async fn run(kind: PausableKind, args: PauseArgs, config: &Config) -> Result<ExitCode> {
    let client = args.service.api_client(config)?;
    let PausableKind { singular: one, plural: all, print_list: list } = kind;
    let answer = match &args.command {
        None => client.get(&format!("/v1/{all}"), &[]).await?,
        Some(PauseCommand::Pause { name }) => client.post_empty(&format!("/v1/{all}/{name}/pause")).await?,
        Some(PauseCommand::Resume { name }) => client.post_empty(&format!("/v1/{all}/{name}/resume")).await?,
    };
    match (&args.command, answer["paused_at"].as_str()) {
        _ if args.service.json => print_line!("{answer:#}"),
        (None, _) => list(answer[all].as_array().map(Vec::as_slice).unwrap_or_default()),
        (Some(_), Some(since)) => print_line!("the {one} {} is paused since {since}", text_or_empty(&answer["name"])),
        (Some(_), None) => print_line!("the {one} {} goes on", text_or_empty(&answer["name"])),
    }
    Ok(ExitCode::SUCCESS)
}

fn print_queues(queues: &[Value]) {
    print_line!("{:24}  {:>8}  {:>8}  PAUSED", "QUEUE", "WAITING", "RUNNING");
    for queue in queues {
        let (name, since) = (text_or_empty(&queue["name"]), text_or_empty(&queue["paused_at"]));
        let line = format!("{name:24}  {:>8}  {:>8}  {since}", queue["waiting"], queue["running"]);
        print_line!("{}", line.trim_end());
    }
}

fn print_pipelines(pipelines: &[Value]) {
    print_line!("{:32}  {:24}  DESCRIPTION", "PIPELINE", "PAUSED");
    for pipeline in pipelines {
        let (name, since) = (text_or_empty(&pipeline["name"]), text_or_empty(&pipeline["paused_at"]));
        let line = format!("{name:32}  {since:24}  {}", text_or_empty(&pipeline["description"]));
        print_line!("{}", line.trim_end());
    }
}
