//! `afterload queues` and `afterload pipelines`: lists, pauses and resumes them.

use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use super::runs::{ServiceArgs, text_or_empty};
use super::stdout::print_line;
use crate::config::Config;
use afterload_core::error::Result;

const MIN_NAME_WIDTH: usize = 24;

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
    for line in queue_table(queues) {
        print_line!("{line}");
    }
}

fn queue_table(queues: &[Value]) -> Vec<String> {
    let width = name_width(queues);
    let header = format!("{:width$}  {:>8}  {:>8}  PAUSED", "QUEUE", "WAITING", "RUNNING");
    let rows = queues.iter().map(|queue| {
        let (name, since) = (text_or_empty(&queue["name"]), text_or_empty(&queue["paused_at"]));
        // JSON ignores the width of a format.
        let (waiting, running) = (queue["waiting"].to_string(), queue["running"].to_string());
        format!("{name:width$}  {waiting:>8}  {running:>8}  {since}").trim_end().to_owned()
    });
    std::iter::once(header).chain(rows).collect()
}

fn print_pipelines(pipelines: &[Value]) {
    let width = name_width(pipelines);
    print_line!("{:width$}  {:24}  DESCRIPTION", "PIPELINE", "PAUSED");
    for pipeline in pipelines {
        let (name, since) = (text_or_empty(&pipeline["name"]), text_or_empty(&pipeline["paused_at"]));
        let line = format!("{name:width$}  {since:24}  {}", text_or_empty(&pipeline["description"]));
        print_line!("{}", line.trim_end());
    }
}

/// The width of the column of names.
fn name_width(listed: &[Value]) -> usize {
    let widths = listed.iter().map(|value| text_or_empty(&value["name"]).chars().count());
    widths.max().unwrap_or_default().max(MIN_NAME_WIDTH)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::queue_table;

    #[test]
    fn rows_line_up_with_the_header() {
        let long = "a-queue-with-a-rather-long-name";
        let lines = queue_table(&[
            json!({ "name": "default", "waiting": 12, "running": 3, "paused_at": null }),
            json!({ "name": long, "waiting": 0, "running": 0, "paused_at": "2026-01-02T03:04:05Z" }),
        ]);
        let expected = [
            "QUEUE                             WAITING   RUNNING  PAUSED",
            "default                                12         3",
            "a-queue-with-a-rather-long-name         0         0  2026-01-02T03:04:05Z",
        ];
        assert_eq!(lines, expected);
    }
}
