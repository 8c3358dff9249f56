//! Publishes changes of the pipelines folder to the database, and keeps the registry of this process up to date.
//!
//! The live definition of a name is a row in the database. A process publishes only the changes of its own folder.
//! Processes with different folders, as during a deployment, therefore do not undo each other's work. All processes
//! show what is live in the database.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::pipeline_watcher::PipelineWatcher;
use crate::codes;
use crate::config::{Config, WatchMode};
use afterload_core::error::{Error, Result};
use afterload_engine::registry::{PipelineList, PipelineRegistry, PipelineSummary, RefusedFile};
use afterload_mailer::Mailer;
use afterload_pipeline::folder::{PipelineFolder, RefusedDefinition};
use afterload_pipeline::{self as pipeline, Pipeline, QueryVerifier, StepCatalog, ValidationContext};
use afterload_state::{Db, DefinitionRecord};

/// How often the database is read for definitions that other processes published.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the pipelines of a process up to date.
pub(super) struct PipelineReloader {
    db: Db,
    kinds: Arc<StepCatalog>,
    registry: PipelineRegistry,
    watch: WatchMode,
    /// Whether the mailbox of an address may have letters outside ASCII.
    smtputf8: bool,
    /// Taken by [`Self::run`].
    watcher: Option<PipelineWatcher>,
    /// The compiled folder at the last change.
    folder: PipelineFolder,
    /// The names of the folder with the digest that this process published; `None` if only rejected files had the name.
    published: BTreeMap<String, Option<String>>,
    /// The live pipelines, by name.
    summaries: BTreeMap<String, PipelineSummary>,
    /// The digests of live definitions that this version cannot compile, by name. Each is logged once.
    unreadable: BTreeMap<String, String>,
    refreshed: Instant,
}

impl PipelineReloader {
    /// Makes the pipelines of the folder live. A rejected file keeps the live definition of its name. A process without
    /// the folder works on the definitions of others.
    ///
    /// # Errors
    /// `io_error`
    pub(super) async fn open(
        db: &Db,
        config: &Config,
        kinds: StepCatalog,
        mail: &Mailer,
        verifier: QueryVerifier,
    ) -> Result<Self> {
        let kinds = Arc::new(kinds);
        let mut view = PipelineWatcher::open(config, kinds.clone(), mail, verifier)?;
        let folder = view.compile_folder();
        if config.pipelines.is_dir() {
            let definitions: Vec<_> = folder.pipelines.iter().map(to_definition_record).collect();
            db.definitions().replace_live(&definitions, &view.file_names()).await?;
        }
        let mut reload = Self {
            db: db.clone(),
            registry: PipelineRegistry::default(),
            watch: config.watch,
            smtputf8: config.mail.smtputf8,
            published: published_digests(&folder, &BTreeMap::new()),
            folder: PipelineFolder::default(),
            summaries: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            refreshed: Instant::now(),
            kinds,
            watcher: Some(view),
        };
        reload.set_folder(folder);
        reload.refresh_registry(false).await?;
        Ok(reload)
    }

    /// The live pipelines, shared with the API.
    pub(super) fn shared_registry(&self) -> PipelineRegistry {
        self.registry.clone()
    }

    pub(super) fn current_folder(&self) -> PipelineFolder {
        self.folder.clone()
    }

    /// Follows the folder and the database until `stop`. Repeated failures are logged once and retried.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let Some(mut view) = self.watcher.take() else { return };
        let mut failing = false;
        let following = async {
            loop {
                let done = match self.watch {
                    WatchMode::Off => {
                        tokio::time::sleep(REFRESH_INTERVAL).await;
                        self.sync_pipelines(None).await
                    }
                    WatchMode::Auto | WatchMode::Poll => {
                        view.wait_for_change().await;
                        let looked;
                        (view, looked) = poll_watcher(view).await?;
                        match looked {
                            Ok(folder) => self.sync_pipelines(folder).await,
                            Err(error) => Err(error),
                        }
                    }
                };
                if let Err(error) = &done
                    && !failing
                {
                    warn!(error.code = error.code().name(), "reloading the pipelines failed; retrying: {error}");
                }
                failing = done.is_err();
            }
        };
        let followed: Option<Result<()>> = stop.run_until_cancelled(following).await;
        if let Some(Err(error)) = followed {
            warn!(error.code = error.code().name(), "reloading the pipelines has stopped: {error}");
        }
    }

    /// Publishes changes of the folder and refreshes the registry.
    async fn sync_pipelines(&mut self, folder: Option<PipelineFolder>) -> Result<()> {
        let has_changed = folder.is_some();
        if let Some(folder) = folder {
            self.set_folder(folder);
        }
        // This also retries changes that could not be published before.
        let published = self.publish_changes().await?;
        if has_changed || published || self.refreshed.elapsed() >= REFRESH_INTERVAL {
            self.refreshed = Instant::now();
            self.refresh_registry(true).await?;
        }
        Ok(())
    }

    /// Logs each newly rejected file and replaces the folder.
    fn set_folder(&mut self, folder: PipelineFolder) {
        let same = |a: &RefusedDefinition, b: &RefusedDefinition| {
            a.file == b.file && a.text == b.text && a.summary_line() == b.summary_line()
        };
        for refused in &folder.refused {
            if !self.folder.refused.iter().any(|known| same(known, refused)) {
                let what = "a pipeline file was rejected; the live definition of its name stays";
                warn!(pipeline.file = refused.file, pipeline.name = refused.name, "{what}: {}", refused.summary_line());
            }
        }
        self.folder = folder;
    }

    /// Publishes changes. Returns true if there were any.
    async fn publish_changes(&mut self) -> Result<bool> {
        let now = published_digests(&self.folder, &self.published);
        if now == self.published {
            return Ok(false);
        }
        let new = |(pipeline, _): &&(Pipeline, String)| {
            self.published.get(&pipeline.plan.name).is_none_or(|known| known.as_ref() != Some(&pipeline.plan.digest))
        };
        let changed: Vec<_> = self.folder.pipelines.iter().filter(new).map(to_definition_record).collect();
        let gone: Vec<_> = self.published.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
        self.db.definitions().update_live(&changed, &gone).await?;
        self.published = now;
        Ok(true)
    }

    /// Loads the live pipelines from the database, and logs changes if `log_changes` is set.
    async fn refresh_registry(&mut self, log_changes: bool) -> Result<()> {
        let mut shown = BTreeMap::new();
        for (name, digest) in self.db.definitions().list_live_names().await? {
            let known = self.summaries.get(&name).filter(|known| known.digest == digest).cloned();
            let found = match known {
                None if self.unreadable.get(&name) == Some(&digest) => None,
                None => self.load_summary(&name, &digest).await?,
                known => known,
            };
            shown.extend(found.map(|pipeline| (name, pipeline)));
        }
        for (name, pipeline) in shown.iter().filter(|_| log_changes) {
            if self.summaries.get(name).is_none_or(|known| known.digest != pipeline.digest) {
                info!(pipeline.name = name, pipeline.digest = pipeline.digest, "pipeline is live");
            }
        }
        for name in self.summaries.keys().filter(|name| !shown.contains_key(*name)) {
            info!(pipeline.name = name, "pipeline is no longer live; its runs continue");
        }
        self.summaries = shown;
        let refused = self.folder.refused.iter().map(RefusedFile::from).collect();
        self.registry.replace_list(PipelineList { pipelines: self.summaries.values().cloned().collect(), refused });
        Ok(())
    }

    /// The summary of a published definition; `None` if this version cannot compile it.
    async fn load_summary(&mut self, name: &str, digest: &str) -> Result<Option<PipelineSummary>> {
        let is_same =
            |(pipeline, _): &&(Pipeline, String)| pipeline.plan.name == name && pipeline.plan.digest == digest;
        if let Some((pipeline, source)) = self.folder.pipelines.iter().find(is_same) {
            return Ok(Some(PipelineSummary::new(pipeline, source)));
        }
        let Some(definition) = self.db.definitions().find(digest).await? else { return Ok(None) };
        let ctx = ValidationContext { smtputf8: self.smtputf8, ..ValidationContext::default() };
        match pipeline::compile_definition(None, &definition.source, &self.kinds, &ctx) {
            Ok(pipeline) => Ok(Some(PipelineSummary::new(&pipeline, &definition.source))),
            Err(problems) => {
                let first = problems.first().map_or("", |problem| &problem.message);
                warn!(pipeline.name = name, "the live definition is not valid for this version: {first}");
                self.unreadable.insert(name.to_owned(), digest.to_owned());
                Ok(None)
            }
        }
    }
}

/// Scans in a blocking thread, because a network folder may be slow. The outer error is a panic of the scan.
async fn poll_watcher(mut view: PipelineWatcher) -> Result<(PipelineWatcher, Result<Option<PipelineFolder>>)> {
    let scan = tokio::task::spawn_blocking(move || {
        let result = view.poll_changes();
        (view, result)
    });
    scan.await.map_err(|error| Error::new(codes::INTERNAL_ERROR, error.to_string()))
}

fn to_definition_record((pipeline, source): &(Pipeline, String)) -> DefinitionRecord {
    DefinitionRecord { name: pipeline.plan.name.clone(), digest: pipeline.plan.digest.clone(), source: source.clone() }
}

/// The names of a folder with their published digests once `folder` is live. A rejected file keeps the earlier digest.
fn published_digests(
    folder: &PipelineFolder,
    before: &BTreeMap<String, Option<String>>,
) -> BTreeMap<String, Option<String>> {
    let refused = folder.refused.iter().map(|refused| {
        let known = before.get(&refused.name).cloned().flatten();
        (refused.name.clone(), known)
    });
    let good =
        folder.pipelines.iter().map(|(pipeline, _)| (pipeline.plan.name.clone(), Some(pipeline.plan.digest.clone())));
    // A valid file takes precedence over a rejected one of the same name.
    refused.chain(good).collect()
}
