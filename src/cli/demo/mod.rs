//! `afterload demo`: runs every pipeline of the repository on sample data, each as a user or an application would start
//! it.

mod files;
mod scenario;
mod show;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use super::ShutdownSignals;
use super::client::ApiClient;
use super::logs::init_logs;
use super::stdout::print_line;
use super::ui::dashboard_line;
use crate::app::RunningService;
use crate::codes;
use crate::config::Config;
use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};
use scenario::{DemoRunner, Scenario};

/// The options of the demo.
#[derive(Debug, clap::Args)]
pub(super) struct DemoArgs {
    /// The folder for all files of the demo; it may be deleted afterwards.
    #[arg(long, default_value = "demo-data", value_name = "FOLDER")]
    dir: PathBuf,
    /// Exit after the runs, with status 0 only if all succeeded.
    #[arg(long)]
    exit: bool,
}

/// Starts the service, runs the scenarios through its API and its store, and keeps running. It listens where `configured`
/// says.
pub(super) async fn run(args: DemoArgs, configured: &Config) -> Result<ExitCode> {
    init_logs("warn", configured.redactor([]))?;
    let mut stops = ShutdownSignals::install_handlers()?;
    let plays = scenario::load_scenarios()?;
    let config = files::prepare_folder(&args.dir, configured).await?;
    print_line!(
        "afterload demo: every pipeline of its repository, on sample data; all of it lies in {}/",
        args.dir.display()
    );
    // Made before the start: a service that listens beyond loopback refuses to start without a key.
    let (_, key) = afterload_server::api::create_api_key("demo", &["admin".into()], &[], Clock::system().now())?;
    afterload_core::secrets::write_secret(&files::key_file(&args.dir), &key).await?;
    let mut app = RunningService::start(config.clone(), Some(key.clone())).await?;
    let (url, engine) = (app.url.clone(), app.engine.clone());
    let began = Instant::now();
    let all = async {
        let stage = DemoRunner { client: ApiClient::new(&url, key)?, engine: &engine, config: &config, dir: &args.dir };
        run_scenarios(&stage, &plays).await
    };
    let ended = tokio::select! {
        ended = all => ended,
        error = app.wait_for_failure() => Err(error),
        () = stops.recv() => Err(Error::new(codes::DEMO_STOPPED, "the demo was interrupted")),
    };
    let succeeded = match ended {
        Ok(succeeded) => succeeded,
        Err(error) => {
            app.stop().await;
            return Err(error);
        }
    };
    let (number, seconds) = (plays.len(), began.elapsed().as_secs_f32());
    print_line!("\n{succeeded} of {number} runs succeeded, in {seconds:.0} s");
    if !args.exit {
        print_line!("\nThe API stays up at {} (Ctrl-C ends it). To run the first one again:", app.url);
        print_line!("  curl -H \"Authorization: Bearer $(cat {})\" \\", files::key_file(&args.dir).display());
        let sample = args.dir.join("airports.csv");
        print_line!("    -F file=@{} {}/v1/pipelines/airports-import/runs", sample.display(), app.url);
        let command = format!("AFTERLOAD_DATA={} afterload ui", config.data.display());
        let dashboard = dashboard_line(&config, &app.url, engine.db(), &command).await?;
        print_line!("\n{dashboard}");
        tokio::select! {
            () = stops.recv() => {}
            error = app.wait_for_failure() => eprintln!("error: {error}"),
        }
    }
    app.stop().await;
    Ok(if succeeded == number { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Runs all scenarios in order and returns how many succeeded.
async fn run_scenarios(stage: &DemoRunner<'_>, plays: &[Scenario]) -> Result<usize> {
    let mut succeeded = 0;
    for play in plays {
        print_line!("\n{}: {}", play.pipeline, play.title);
        let began = Instant::now();
        let run = stage.run_scenario(play).await?;
        show::print_steps(stage, &run).await?;
        show::print_mails(&stage.config.outbox_dir(), &run)?;
        if let Some(look) = &play.look {
            show::print_rows(&files::app_database(stage.config), look).await?;
        }
        show::print_end(&run, began.elapsed());
        succeeded += usize::from(run["status"] == "succeeded");
    }
    Ok(succeeded)
}
