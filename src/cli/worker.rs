//! `afterload worker`

use std::process::ExitCode;

use clap::Args;

use super::logs::{DEFAULT_LOG_FILTER, init_logs};
use super::stdout::print_line;
use super::{ShutdownSignals, run_until_stopped};
use crate::app::{self, WorkerOptions};
use crate::codes;
use crate::config::Config;
use afterload_core::error::{Error, Result};
use afterload_engine::QueueSelection;

/// Options of a worker.
#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The queues to work on, such as `images,imports`; the others are left to other processes. Default: all.
    #[arg(long, value_name = "NAMES", value_parser = parse_nonempty_queues)]
    queues: Option<QueueSelection>,
}

fn parse_nonempty_queues(text: &str) -> Result<QueueSelection> {
    let queues: QueueSelection = text.parse()?;
    match queues.is_empty() {
        true => Err(Error::new(codes::QUEUES_INVALID, "a worker needs a queue to work")
            .with_hint("`none` is for `afterload serve`")),
        false => Ok(queues),
    }
}

/// Works until SIGTERM or Ctrl-C.
pub(super) async fn run(args: WorkerArgs, config: Config) -> Result<ExitCode> {
    init_logs(DEFAULT_LOG_FILTER, config.redactor([]))?;
    let stops = ShutdownSignals::install_handlers()?;
    let queues = args.queues.unwrap_or_default();
    let working = queues.to_string();
    let process = app::start_worker(config, WorkerOptions::for_queues(queues)).await?;
    print_line!("afterload is working: {working}");
    run_until_stopped(process, stops).await
}
