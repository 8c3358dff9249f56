//! `afterload run` and `afterload runs`: the API from the terminal.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand, ValueEnum};
use serde_json::Value;

use super::client::{ApiClient, ParamArg};
use super::progress::ProgressRenderer;
use super::stdout::print_line;
use crate::codes;
use crate::config::Config;
use afterload_core::error::{Error, Result};

/// The service and the API key.
#[derive(Debug, Args)]
pub(super) struct ServiceArgs {
    /// The URL of the service; default: from the configuration.
    #[arg(long, env = "AFTERLOAD_URL", global = true, value_name = "URL")]
    url: Option<String>,
    /// An API key; `afterload key new` creates one.
    #[arg(long, env = "AFTERLOAD_KEY", global = true, hide_env_values = true, value_name = "KEY")]
    key: Option<String>,
    /// Print the API's JSON.
    #[arg(long, global = true)]
    pub(super) json: bool,
}

/// A run to start.
#[derive(Debug, Args)]
pub(super) struct RunArgs {
    /// The pipeline.
    pipeline: String,
    /// A parameter: `NAME=VALUE`, or `NAME=@FILE` to upload a file; `@@` begins a value with `@`.
    #[arg(long = "param", short = 'p', value_name = "NAME=VALUE", value_parser = parse_run_param)]
    params: Vec<(String, ParamArg)>,
    /// Show the progress until the run has ended; the exit status is then 0 only if it succeeded.
    #[arg(long, short = 'f')]
    follow: bool,
    /// The earliest start, such as `2030-01-31T08:00:00Z`.
    #[arg(long, value_name = "TIME")]
    run_at: Option<String>,
    /// The priority, from -100 to 100; higher goes first.
    #[arg(long, allow_hyphen_values = true)]
    priority: Option<i32>,
    /// The queue of all its steps.
    #[arg(long)]
    queue: Option<String>,
    /// A URL that receives a Standard Webhook when the run has ended.
    #[arg(long, value_name = "URL")]
    notify_url: Option<String>,
    /// Start no second run if this key has been used within a day.
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    #[command(flatten)]
    service: ServiceArgs,
}

/// The runs to show.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct RunsArgs {
    #[command(subcommand)]
    command: Option<RunsCommand>,
    /// Only runs of this pipeline.
    #[arg(long)]
    pipeline: Option<String>,
    /// Only runs in this status.
    #[arg(long)]
    status: Option<String>,
    /// The maximum number of runs, at most 200.
    #[arg(long, short = 'n', default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    service: ServiceArgs,
}

#[derive(Debug, Subcommand)]
enum RunsCommand {
    /// Show one run with its steps and files.
    Show {
        /// The run's id.
        id: String,
    },
    /// Show the progress of a run until it has ended.
    Follow {
        /// The run's id.
        id: String,
    },
    /// Stop a run; `finally` still runs.
    Cancel {
        /// The run's id.
        id: String,
    },
    /// Continue a failed or cancelled run from the steps that did not succeed.
    Retry {
        /// The run's id.
        id: String,
        /// The definition to go on with.
        #[arg(long, value_enum, default_value_t)]
        definition: DefinitionArg,
        /// Show the progress until the run has ended.
        #[arg(long, short = 'f')]
        follow: bool,
    },
    /// Start a new run with the params of a run.
    Replay {
        /// The run's id.
        id: String,
        /// A parameter that differs: `NAME=VALUE`; a file is `NAME=s3://BUCKET/KEY`.
        #[arg(long = "param", short = 'p', value_name = "NAME=VALUE", value_parser = parse_replay_param)]
        params: Vec<(String, String)>,
        /// Show the progress until the new run has ended.
        #[arg(long, short = 'f')]
        follow: bool,
    },
}

/// The definition with which a run goes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum DefinitionArg {
    /// That of the run.
    #[default]
    Own,
    /// The one that is live now.
    Live,
}

impl DefinitionArg {
    fn retry_path(self, id: &str) -> String {
        match self {
            Self::Own => format!("/v1/runs/{id}/retry"),
            Self::Live => format!("/v1/runs/{id}/retry?definition=live"),
        }
    }
}

/// Parses `NAME=VALUE`. A replay uploads no files.
fn parse_replay_param(text: &str) -> std::result::Result<(String, String), String> {
    match parse_run_param(text)? {
        (name, ParamArg::Text(value)) => Ok((name, value)),
        (_, ParamArg::File(_)) => {
            Err("a replay uploads no file: name one as `NAME=s3://BUCKET/KEY`, or start a run with `afterload run`"
                .into())
        }
    }
}

/// Parses `NAME=VALUE` or `NAME=@FILE`.
fn parse_run_param(text: &str) -> std::result::Result<(String, ParamArg), String> {
    let (name, value) = text.split_once('=').ok_or("expected `NAME=VALUE` or `NAME=@FILE`")?;
    let given = match value.strip_prefix('@') {
        Some(rest) if rest.starts_with('@') => ParamArg::Text(rest.to_owned()),
        Some("") => return Err("a file's name is missing after `@`".into()),
        Some(path) => ParamArg::File(PathBuf::from(path)),
        None => ParamArg::Text(value.to_owned()),
    };
    Ok((name.to_owned(), given))
}

impl ServiceArgs {
    /// # Errors
    /// `key_missing`, `url_invalid`
    pub(super) fn api_client(&self, config: &Config) -> Result<ApiClient> {
        let Some(key) = self.key.clone().filter(|key| !key.is_empty()) else {
            return Err(Error::new(codes::KEY_MISSING, "the service wants an API key").with_hint(
                "export AFTERLOAD_KEY=$(afterload key new --name me --scope admin), or give it with `--key`",
            ));
        };
        ApiClient::new(&self.url.clone().unwrap_or_else(|| config.base_url()), key)
    }
}

/// `afterload run`
pub(super) async fn start_run(args: RunArgs, config: &Config) -> Result<ExitCode> {
    let client = args.service.api_client(config)?;
    let wishes = [
        ("run_at", args.run_at),
        ("priority", args.priority.map(|priority| priority.to_string())),
        ("queue", args.queue),
        ("notify_url", args.notify_url),
    ];
    let wishes: Vec<_> = wishes.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
    let run = client.start_run(&args.pipeline, &args.params, &wishes, args.idempotency_key.as_deref()).await?;
    match args.follow {
        true => follow_run(&client, run_id(&run), args.service.json).await,
        false => {
            match args.service.json {
                true => print_line!("{run:#}"),
                false => print_line!("run {} of {} is {}", run_id(&run), args.pipeline, text_or_empty(&run["status"])),
            }
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// `afterload runs`
pub(super) async fn manage_runs(args: RunsArgs, config: &Config) -> Result<ExitCode> {
    let (client, json) = (args.service.api_client(config)?, args.service.json);
    let run = match args.command {
        None => {
            let query = [("pipeline", args.pipeline), ("status", args.status), ("limit", Some(args.limit.to_string()))];
            let query: Vec<_> = query.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
            let page = client.get("/v1/runs", &query).await?;
            match json {
                true => print_line!("{page:#}"),
                false => print_runs(page["runs"].as_array().map(Vec::as_slice).unwrap_or_default()),
            }
            return Ok(ExitCode::SUCCESS);
        }
        Some(RunsCommand::Follow { id }) => return follow_run(&client, &id, json).await,
        Some(RunsCommand::Retry { id, definition, follow: true }) => {
            client.post_empty(&definition.retry_path(&id)).await?;
            return follow_run(&client, &id, json).await;
        }
        Some(RunsCommand::Replay { id, params, follow }) => {
            let run = client.replay_run(&id, params).await?;
            if follow {
                return follow_run(&client, run_id(&run), json).await;
            }
            run
        }
        Some(RunsCommand::Show { id }) => client.get(&format!("/v1/runs/{id}"), &[]).await?,
        Some(RunsCommand::Cancel { id }) => client.post_empty(&format!("/v1/runs/{id}/cancel")).await?,
        Some(RunsCommand::Retry { id, definition, follow: false }) => {
            client.post_empty(&definition.retry_path(&id)).await?
        }
    };
    match json {
        true => print_line!("{run:#}"),
        false => print_run(&run),
    }
    Ok(ExitCode::SUCCESS)
}

async fn follow_run(client: &ApiClient, id: &str, json: bool) -> Result<ExitCode> {
    let mut bars = ProgressRenderer::new();
    let run = match json {
        true => client.follow_run(id, |_| {}).await?,
        false => client.follow_run(id, |run| bars.render_run(run)).await?,
    };
    bars.finish();
    match json {
        true => print_line!("{run:#}"),
        false => print_run(&run),
    }
    Ok(if run["status"] == "succeeded" { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_runs(runs: &[Value]) {
    print_line!("{:26}  {:24}  {:9}  {:8}  {:20}  ERROR", "ID", "PIPELINE", "STATUS", "ORIGIN", "CREATED");
    for run in runs {
        let created: String = text_or_empty(&run["created_at"]).chars().take(19).collect();
        let line = format!(
            "{:26}  {:24}  {:9}  {:8}  {:20}  {}",
            run_id(run),
            text_or_empty(&run["pipeline"]),
            text_or_empty(&run["status"]),
            text_or_empty(&run["origin"]),
            format!("{created}Z"),
            text_or_empty(&run["error"]["code"])
        );
        print_line!("{}", line.trim_end());
    }
}

/// Prints a run with its steps and files.
fn print_run(run: &Value) {
    print_line!("run {} of {}: {}", run_id(run), text_or_empty(&run["pipeline"]), text_or_empty(&run["status"]));
    if let Some(message) = run["error"]["message"].as_str() {
        print_line!("  because {message} [{}]", text_or_empty(&run["error"]["code"]));
    }
    for step in run["steps"].as_array().into_iter().flatten() {
        print_line!("  {:20} {}", text_or_empty(&step["id"]), text_or_empty(&step["status"]));
        if step["status"] == "succeeded" {
            print_outputs(&step["outputs"], "");
        }
    }
    for file in run["artifacts"].as_array().into_iter().flatten() {
        print_line!("  file {} ({} bytes) {}", text_or_empty(&file["name"]), file["size"], text_or_empty(&file["url"]));
    }
}

/// Prints the outputs of a step, one per line, and the URLs of files.
fn print_outputs(value: &Value, name: &str) {
    match value {
        Value::Object(fields) if fields.contains_key("bucket") && fields.contains_key("key") => {
            let place = format!("s3://{}/{}", text_or_empty(&fields["bucket"]), text_or_empty(&fields["key"]));
            print_line!("    {name:18} {}", fields.get("url").and_then(Value::as_str).unwrap_or(&place));
        }
        Value::Object(fields) => {
            for (field, value) in fields {
                print_outputs(value, &if name.is_empty() { field.clone() } else { format!("{name}.{field}") });
            }
        }
        Value::Null => {}
        Value::String(text) => print_line!("    {name:18} {text}"),
        other => print_line!("    {name:18} {other}"),
    }
}

fn run_id(run: &Value) -> &str {
    text_or_empty(&run["id"])
}

/// A text of the API; empty if missing.
pub(super) fn text_or_empty(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn run_params_are_values_or_files() {
        let given = |text: &str| parse_run_param(text).map(|(name, given)| format!("{name} {given:?}"));
        assert_eq!(given("a=b=c").unwrap(), "a Text(\"b=c\")");
        assert_eq!(given("file=@a b.jpg").unwrap(), "file File(\"a b.jpg\")");
        assert_eq!(given("handle=@@ana").unwrap(), "handle Text(\"@ana\")");
        assert_eq!(given("empty=").unwrap(), "empty Text(\"\")");
        assert!(given("nothing").is_err() && given("file=@").is_err());
        assert_eq!(parse_replay_param("file=s3://uploads/a").unwrap(), ("file".into(), "s3://uploads/a".into()));
        assert!(parse_replay_param("file=@a.jpg").unwrap_err().contains("uploads no file"));
    }
}
