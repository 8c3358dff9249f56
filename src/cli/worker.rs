//! `afterload worker`

use std::process::ExitCode;

use clap::Args;

use super::out::say;
use super::{LOGS, Stops, init_logs, until_stopped};
use crate::app::{self, Work};
use crate::config::Config;
use afterload_core::error::{Error, Result};
use afterload_engine::Queues;

/// What to work.
#[derive(Debug, Args)]
pub(super) struct WorkerArgs {
    /// The queues to work, such as `images,imports`; the others are left to other processes. Default: all.
    #[arg(long, value_name = "NAMES", value_parser = some)]
    queues: Option<Queues>,
}

fn some(text: &str) -> Result<Queues> {
    let queues: Queues = text.parse()?;
    match queues.is_empty() {
        true => Err(Error::permanent("queues_invalid", "a worker needs a queue to work")
            .hint("`none` is for `afterload serve`")),
        false => Ok(queues),
    }
}

/// Works until SIGTERM or Ctrl-C.
pub(super) async fn run(args: WorkerArgs, config: Config) -> Result<ExitCode> {
    init_logs(LOGS)?;
    let stops = Stops::listen()?;
    let queues = args.queues.unwrap_or_default();
    let working = queues.to_string();
    let process = app::work(config, Work::on(queues)).await?;
    say!("afterload is working: {working}");
    until_stopped(process, stops).await
}
