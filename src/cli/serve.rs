//! `afterload serve`

use std::process::ExitCode;

use super::{asked_to_stop, init_logs};
use crate::app::App;
use crate::config::Config;
use crate::error::Result;

/// Runs the service until SIGTERM or Ctrl-C.
pub(super) async fn run(config: Config) -> Result<ExitCode> {
    init_logs("info,apalis=warn,apalis_core=warn");
    let mut app = App::start(config, std::env::var("AFTERLOAD_ADMIN_KEY").ok()).await?;
    println!("afterload is up: {}", app.url);
    if let Some(key) = &app.new_admin_key {
        println!("admin key, shown only this once: {key}");
    }
    let failed = tokio::select! {
        () = asked_to_stop() => None,
        error = app.failed() => Some(error),
    };
    app.stop().await;
    match failed {
        None => Ok(ExitCode::SUCCESS),
        Some(error) => Err(error),
    }
}
