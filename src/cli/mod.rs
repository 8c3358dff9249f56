//! The command line. Everything that reads or writes the terminal is here.

#![expect(clippy::print_stderr, reason = "the commands talk to the terminal")]
#![expect(clippy::disallowed_methods, reason = "the commands hand the environment to the configuration")]

pub mod check;
mod client;
mod demo;
pub mod key;
mod logs;
mod mail;
mod progress;
mod queues;
mod runs;
pub mod schema;
mod serve;
mod stdout;
mod suppressions;
pub mod ui;
mod worker;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::app;
use crate::app::Process;
use crate::config::Config;
use crate::registry::step_kinds;
use afterload_core::clock::Clock;
use afterload_core::error::Result;
use afterload_mailer::Mailer;
use afterload_pipeline::StepCatalog;
use afterload_state::Db;
use afterload_target_db::Connections;

/// Everything that happens after the upload: pipelines in YAML, compiled into chains of durable jobs.
#[derive(Debug, Parser)]
#[command(name = "afterload", version, arg_required_else_help = true)]
pub struct Cli {
    /// The configuration file; default `afterload.yaml`. Without one, everything is embedded under `data/`.
    #[arg(long, global = true, env = "AFTERLOAD_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: CliCommand,
}

#[derive(Debug, Subcommand)]
enum CliCommand {
    /// Run the service: the API, the embedded store, triggers, and workers for all queues or those that you name.
    Serve(serve::ServeArgs),
    /// Run workers only: no API, no pipelines folder; on any machine that reaches the database and the files.
    Worker(worker::WorkerArgs),
    /// Run every pipeline of the repository on sample data, without any setup, and keep running for you to explore. Of the
    /// configuration it reads `listen` and `objects.listen`.
    Demo(demo::DemoArgs),
    /// Start a run on a running service, and follow it.
    Run(runs::RunArgs),
    /// List runs; show, follow, cancel and retry one.
    Runs(runs::RunsArgs),
    /// List the queues; pause and resume one, in all processes.
    Queues(queues::PauseArgs),
    /// List the live pipelines; pause and resume one, in all processes.
    Pipelines(queues::PauseArgs),
    /// Find every problem of every pipeline file, each at its position.
    Check(check::CheckArgs),
    /// Print the JSON Schema of a pipeline file, for editors.
    Schema(schema::SchemaArgs),
    /// Preview mails before they are sent; list, add and remove addresses that receive none.
    #[command(subcommand)]
    Mail(mail::MailCommand),
    /// Print a link and a code that sign in to the dashboard, each once.
    Ui(ui::UiArgs),
    /// Create, list and revoke API keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
}

/// The default of 512 is reached by 50 uploads on two cores, although none of them needs two threads at a time.
const MAX_BLOCKING_THREADS: usize = 128;

/// Runs the command line. The exit status is 0 for success, 1 for a failure or a reported problem, 2 for wrong usage.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = match builder.enable_all().max_blocking_threads(MAX_BLOCKING_THREADS).build() {
        Ok(runtime) => runtime,
        Err(error) => return print_error(&error.into()),
    };
    let ended = runtime.block_on(run(cli));
    // A step that does not stop in time must not keep the process from exiting.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    ended.unwrap_or_else(|error| print_error(&error))
}

async fn run(cli: Cli) -> Result<ExitCode> {
    configure_failpoints()?;
    let load = || Config::load(cli.config.as_deref(), std::env::vars());
    match cli.command {
        CliCommand::Serve(args) => serve::run(args, load()?).await,
        CliCommand::Worker(args) => worker::run(args, load()?).await,
        CliCommand::Demo(args) => demo::run(args, &load()?).await,
        CliCommand::Run(args) => runs::start_run(args, &load()?).await,
        CliCommand::Runs(args) => runs::manage_runs(args, &load()?).await,
        CliCommand::Queues(args) => queues::run(queues::QUEUE_KIND, args, &load()?).await,
        CliCommand::Pipelines(args) => queues::run(queues::PIPELINE_KIND, args, &load()?).await,
        CliCommand::Check(args) => {
            let config = load()?;
            let mail = Mailer::new(&config.mailer_options(), Clock::system())?;
            let mut around = app::validation_context(&config, &mail);
            let verifier = || app::query_verifier(Connections::new(&config.connections, &Clock::system()));
            around.query_verifier = args.connect.then(verifier);
            Ok(check::run(
                &args,
                &config.pipelines,
                &step_catalog(),
                &around,
                &stdout::cli_renderer(),
                &mut stdout::cli_stdout(),
            )?)
        }
        CliCommand::Schema(args) => Ok(schema::run(&args, &step_catalog(), &mut stdout::cli_stdout())?),
        CliCommand::Mail(mail::MailCommand::Preview(args)) => {
            mail::preview_mail(args, &load()?, &mut stdout::cli_stdout())?;
            Ok(ExitCode::SUCCESS)
        }
        CliCommand::Mail(mail::MailCommand::Suppressions(args)) => suppressions::run(args, &load()?).await,
        CliCommand::Key(key::KeyCommand::S3(args)) => {
            key::print_s3_exports(&load()?, &args, &mut stdout::cli_stdout(), &mut std::io::stderr())?;
            Ok(ExitCode::SUCCESS)
        }
        CliCommand::Key(key::KeyCommand::Hook { mail }) => {
            key::print_webhook_url(&mut load()?, mail, &mut stdout::cli_stdout()).await?;
            Ok(ExitCode::SUCCESS)
        }
        CliCommand::Key(key::KeyCommand::Webhook) => {
            key::print_webhook_secret(&mut load()?, &mut stdout::cli_stdout()).await?;
            Ok(ExitCode::SUCCESS)
        }
        CliCommand::Ui(args) => {
            let config = load()?;
            let db = Db::open(&config.database_url(), Clock::system()).await?;
            db.correct_clock().await?;
            ui::run(&config, &db, &args, &mut stdout::cli_stdout(), &mut std::io::stderr()).await?;
            Ok(ExitCode::SUCCESS)
        }
        CliCommand::Key(command) => {
            let url = load()?.database_url();
            let db = Db::open(&url, Clock::system()).await?;
            db.correct_clock().await?;
            key::run(&db, &key::describe_database(&url), command, &mut stdout::cli_stdout(), &mut std::io::stderr())
                .await?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Configures failpoints for tests: `AFTERLOAD_CRASH_AT` selects the failpoint that aborts this process,
/// `AFTERLOAD_CRASH_LOG` names the file that lists the failpoints it reaches. See [`afterload_core::failpoint`].
fn configure_failpoints() -> Result<()> {
    let (at, log) = (std::env::var("AFTERLOAD_CRASH_AT").ok(), std::env::var_os("AFTERLOAD_CRASH_LOG"));
    if at.is_some() || log.is_some() {
        afterload_core::failpoint::configure(at.as_deref(), log.as_deref().map(std::path::Path::new))?;
    }
    Ok(())
}

fn step_catalog() -> StepCatalog {
    step_kinds().catalog()
}

fn print_error(error: &afterload_core::error::Error) -> ExitCode {
    eprintln!("error: {error}");
    ExitCode::FAILURE
}

/// Waits for SIGTERM, Ctrl-C or a failed task, then stops the process.
async fn run_until_stopped(mut process: Process, mut stops: ShutdownSignals) -> Result<ExitCode> {
    let failed = tokio::select! {
        () = stops.recv() => None,
        error = process.wait_for_failure() => Some(error),
    };
    process.stop().await;
    failed.map_or(Ok(ExitCode::SUCCESS), Err)
}

/// Receives SIGTERM and Ctrl-C. A signal during the start is kept and stops the process once it has started.
struct ShutdownSignals {
    terminate: Signal,
    interrupt: Signal,
}

impl ShutdownSignals {
    fn install_handlers() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for either signal.
    async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}
