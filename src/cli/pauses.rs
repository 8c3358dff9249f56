//! `afterload queues` and `afterload pipelines`: what there is, and whether it is worked.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::out::say;
use super::runs::{Service, text};
use crate::config::Config;
use afterload_core::error::Result;

/// What a command lists and pauses.
pub(super) struct Kind {
    /// One of them.
    one: &'static str,
    /// Their list, in the path and in the answer of the API.
    all: &'static str,
    list: fn(&[Value]),
}

pub(super) const QUEUES: Kind = Kind { one: "queue", all: "queues", list: queues };
pub(super) const PIPELINES: Kind = Kind { one: "pipeline", all: "pipelines", list: pipelines };

/// What to do; nothing: list them.
#[derive(Debug, Args)]
pub(super) struct PausesArgs {
    #[command(subcommand)]
    command: Option<PauseCommand>,
    #[command(flatten)]
    service: Service,
}

#[derive(Debug, Subcommand)]
enum PauseCommand {
    /// Start none of its steps in any process; what runs goes on to its end, what comes is accepted and waits.
    Pause {
        /// Its name.
        name: String,
    },
    /// Go on.
    Resume {
        /// Its name.
        name: String,
    },
}

/// `afterload queues` and `afterload pipelines`
pub(super) async fn run(kind: Kind, args: PausesArgs, config: &Config) -> Result<ExitCode> {
    let client = args.service.client(config)?;
    let Kind { one, all, list } = kind;
    let answer = match &args.command {
        None => client.get(&format!("/v1/{all}"), &[]).await?,
        Some(PauseCommand::Pause { name }) => client.post(&format!("/v1/{all}/{name}/pause")).await?,
        Some(PauseCommand::Resume { name }) => client.post(&format!("/v1/{all}/{name}/resume")).await?,
    };
    match (&args.command, answer["paused_at"].as_str()) {
        _ if args.service.json => say!("{answer:#}"),
        (None, _) => list(answer[all].as_array().map(Vec::as_slice).unwrap_or_default()),
        (Some(_), Some(since)) => say!("the {one} {} is paused since {since}", text(&answer["name"])),
        (Some(_), None) => say!("the {one} {} goes on", text(&answer["name"])),
    }
    Ok(ExitCode::SUCCESS)
}

fn queues(queues: &[Value]) {
    say!("{:24}  {:>8}  {:>8}  PAUSED", "QUEUE", "WAITING", "RUNNING");
    for queue in queues {
        let (name, since) = (text(&queue["name"]), text(&queue["paused_at"]));
        let line = format!("{name:24}  {:>8}  {:>8}  {since}", queue["waiting"], queue["running"]);
        say!("{}", line.trim_end());
    }
}

fn pipelines(pipelines: &[Value]) {
    say!("{:32}  {:24}  DESCRIPTION", "PIPELINE", "PAUSED");
    for pipeline in pipelines {
        let (name, since) = (text(&pipeline["name"]), text(&pipeline["paused_at"]));
        let line = format!("{name:32}  {since:24}  {}", text(&pipeline["description"]));
        say!("{}", line.trim_end());
    }
}
