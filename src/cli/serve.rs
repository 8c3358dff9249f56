//! `afterload serve`

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;

use annotate_snippets::Renderer;
use clap::Args;

use super::check::{count_noun, write_diagnostics};
use super::logs::{DEFAULT_LOG_FILTER, init_logs};
use super::stdout::{cli_renderer, cli_stdout, print_line};
use super::ui::dashboard_line;
use super::{ShutdownSignals, run_until_stopped};
use crate::app::{RunningService, WorkerOptions};
use crate::config::{Config, WatchMode};
use afterload_core::error::Result;
use afterload_engine::QueueSelection;
use afterload_pipeline::folder::PipelineFolder;

/// Options of the service.
#[derive(Debug, Args)]
pub(super) struct ServeArgs {
    /// The queues to work on, such as `images,imports`; `none` leaves them to `afterload worker`. Default: all.
    #[arg(long, value_name = "NAMES")]
    queues: Option<QueueSelection>,
}

/// Runs the service until SIGTERM or Ctrl-C.
pub(super) async fn run(args: ServeArgs, config: Config) -> Result<ExitCode> {
    init_logs(DEFAULT_LOG_FILTER, config.redactor([]))?;
    let stops = ShutdownSignals::install_handlers()?;
    let (folder, watch) = (config.pipelines.clone(), config.watch);
    let work = WorkerOptions::for_queues(args.queues.unwrap_or_default());
    let configured = config.clone();
    let app = RunningService::serve(config, std::env::var("AFTERLOAD_ADMIN_KEY").ok(), work).await?;
    print_line!("afterload is up: {}", app.url);
    if let Some(key) = &app.new_admin_key {
        print_line!("admin key, shown only this once: {key}");
    }
    let dashboard = dashboard_line(&configured, &app.url, app.engine.db(), "afterload ui").await?;
    print_line!("{dashboard}");
    print_startup(&app.pipelines, &folder, watch, &cli_renderer(), &mut cli_stdout())?;
    run_until_stopped(app.process, stops).await
}

/// Prints how many pipelines are live, and each rejected file with its problems, as `check` does.
fn print_startup(
    pipelines: &PipelineFolder,
    folder: &Path,
    watch: WatchMode,
    renderer: &Renderer,
    out: &mut impl Write,
) -> io::Result<()> {
    let (live, refused) = (pipelines.pipelines.len(), pipelines.refused.len());
    let from = folder.display();
    let changes = match watch {
        WatchMode::Off => "restart to read changes",
        WatchMode::Auto | WatchMode::Poll => "changes take effect within a second",
    };
    writeln!(out, "{} live, {refused} refused, from `{from}`; {changes}", count_noun(live, "pipeline"))?;
    for file in &pipelines.refused {
        write_diagnostics(&file.file, &file.text, &file.problems, renderer, out)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use afterload_pipeline::{ValidationContext, folder};

    #[test]
    fn startup_prints_live_and_rejected_pipelines() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::copy("pipelines/contacts-import.yaml", folder.path().join("contacts-import.yaml")).unwrap();
        std::fs::write(folder.path().join("bad.yaml"), "name: bad\nstep: []\n").unwrap();
        let found =
            folder::read_folder(folder.path(), &super::super::step_catalog(), &ValidationContext::default()).unwrap();
        let mut out = Vec::new();
        print_startup(&found, Path::new("pipelines"), WatchMode::Auto, &Renderer::plain(), &mut out).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert!(
            text.starts_with("1 pipeline live, 1 refused, from `pipelines`; changes take effect within a second\n"),
            "{text}"
        );
        assert!(text.contains("error[definition_invalid]: unknown field `step`\n"), "{text}");
        assert!(text.contains("bad.yaml:2:1\n  |\n2 | step: []\n  | ^^^^\n"), "{text}");
    }
}
