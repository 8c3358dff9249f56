//! Watches the pipelines folder, and the templates and SQL files that pipelines may name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::folder_events::{FOLDER_POLL_INTERVAL, FolderEvents};
use super::folder_scan::{FileStamp, FolderScan, MIN_STABLE_TIME, ScanResult, scan_stamps};
use super::query_checks::LoadedQueryChecks;
use super::validation_context;
use crate::config::{Config, WatchMode};
use afterload_core::error::Result;
use afterload_mailer::Mailer;
use afterload_pipeline::folder::PipelineFolder;
use afterload_pipeline::{StepCatalog, ValidationContext, list_sql_files};

/// The pipelines folder and the files it depends on. Scanning them may block.
pub(super) struct PipelineWatcher {
    config: Config,
    mail: Mailer,
    kinds: Arc<StepCatalog>,
    scan: FolderScan,
    events: Option<FolderEvents>,
    ctx: ValidationContext,
    query_checks: LoadedQueryChecks,
    /// The stamps of the templates and SQL files: at the last scan, and when the pipelines were last compiled.
    dependency_stamps: BTreeMap<PathBuf, Option<FileStamp>>,
    compiled_with: BTreeMap<PathBuf, Option<FileStamp>>,
    moving: bool,
}

impl PipelineWatcher {
    /// Reads everything for the first time.
    pub(super) fn open(
        config: &Config,
        kinds: Arc<StepCatalog>,
        mail: &Mailer,
        query_checks: LoadedQueryChecks,
    ) -> Result<Self> {
        let events = (config.watch == WatchMode::Auto).then(|| FolderEvents::new(config.pipelines.clone()));
        let others = scan_dependencies(config);
        let mut view = Self {
            scan: FolderScan::new(config.pipelines.clone()),
            ctx: ValidationContext {
                query_verifier: Some(query_checks.verifier()),
                ..validation_context(config, mail)
            },
            query_checks,
            compiled_with: others.clone(),
            config: config.clone(),
            mail: mail.clone(),
            moving: false,
            kinds,
            events,
            dependency_stamps: others,
        };
        view.renew_events();
        view.moving = view.scan.scan_folder(Instant::now(), Duration::ZERO)?.moving;
        Ok(view)
    }

    fn renew_events(&mut self) {
        if let Some(events) = &mut self.events {
            events.watch_current_folder();
        }
    }

    pub(super) fn compile_folder(&mut self) -> PipelineFolder {
        let checks = &self.query_checks;
        let folder = self.scan.compile_folder(&self.kinds, &self.ctx, |path| checks.begin_file(path));
        checks.retain_files(|path| self.scan.has_file(path));
        folder
    }

    /// The names of all files, including those that are still changing.
    pub(super) fn file_names(&self) -> Vec<String> {
        self.scan.file_names()
    }

    /// Waits until the next scan is due.
    pub(super) async fn wait_for_change(&self) {
        let period = if self.moving { MIN_STABLE_TIME } else { FOLDER_POLL_INTERVAL };
        match &self.events {
            // While files are changing, events come too often to scan after each one.
            Some(events) if !self.moving => events.wait_for_change(period).await,
            _ => tokio::time::sleep(period).await,
        }
    }

    /// Scans the folder. Returns the compiled folder if something may have changed.
    ///
    /// # Errors
    /// `io_error`
    pub(super) fn poll_changes(&mut self) -> Result<Option<PipelineFolder>> {
        self.renew_events();
        let ScanResult { changed, moving } = self.scan.scan_folder(Instant::now(), MIN_STABLE_TIME)?;
        self.moving = moving;
        let refused = self.query_checks.take_new_refusal();
        if refused {
            self.scan.invalidate_compiled();
        }
        Ok((self.poll_dependencies() || refused || changed).then(|| self.compile_folder()))
    }

    /// Invalidates the compiled pipelines when templates or SQL files have changed and were the same in two scans.
    fn poll_dependencies(&mut self) -> bool {
        let now = scan_dependencies(&self.config);
        let settled = now == self.dependency_stamps;
        self.moving |= !settled;
        self.dependency_stamps = now;
        if !settled || self.dependency_stamps == self.compiled_with {
            return false;
        }
        self.compiled_with = self.dependency_stamps.clone();
        let query_verifier = self.ctx.query_verifier.take();
        self.ctx = ValidationContext { query_verifier, ..validation_context(&self.config, &self.mail) };
        self.scan.invalidate_compiled();
        true
    }
}

/// The stamps of the files that pipelines may name.
fn scan_dependencies(config: &Config) -> BTreeMap<PathBuf, Option<FileStamp>> {
    let mut others = scan_stamps(&config.templates.join("email"));
    others
        .extend(list_sql_files(&config.pipelines).into_iter().map(|path| (path.clone(), FileStamp::from_path(&path))));
    others
}
