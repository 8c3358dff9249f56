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
use super::query_checks::LoadedQueryChecks;
use crate::codes;
use crate::config::{Config, WatchMode};
use afterload_core::error::{Error, Result};
use afterload_engine::registry::{PipelineList, PipelineRegistry, PipelineSummary, RefusedFile};
use afterload_mailer::Mailer;
use afterload_pipeline::folder::{LiveFlow, PipelineFolder, RefusedDefinition};
use afterload_pipeline::{self as pipeline, Pipeline, StepCatalog, ValidationContext};
use afterload_state::{Db, DefinitionRecord};

/// How often the database is read for definitions that other processes published.
const REFRESH_INTERVAL: Duration = Duration::from_secs(1);

/// Keeps the pipelines of a process up to date.
pub(super) struct PipelineReloader {
    db: Db,
    kinds: Arc<StepCatalog>,
    registry: PipelineRegistry,
    watch: WatchMode,
    /// Taken by [`Self::run`].
    watcher: Option<PipelineWatcher>,
    /// The folder as it was compiled at the last change.
    compiled: PipelineFolder,
    /// The same, without the pipelines that would close a loop of triggers with what is live.
    folder: PipelineFolder,
    /// True if other definitions are live than when the loops were looked for.
    live_changed: bool,
    /// The names of the folder with the digest that this process published; `None` if only rejected files had the name.
    published: BTreeMap<String, Option<String>>,
    /// What is known of this service when a live definition is compiled again.
    ctx: ValidationContext,
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
        query_checks: LoadedQueryChecks,
    ) -> Result<Self> {
        let kinds = Arc::new(kinds);
        let view = PipelineWatcher::open(config, kinds.clone(), mail, query_checks)?;
        let (view, folder) = run_watcher(view, PipelineWatcher::compile_folder).await?;
        let file_names = config.pipelines.is_dir().then(|| view.file_names());
        let mut reload = Self {
            db: db.clone(),
            registry: PipelineRegistry::default(),
            watch: config.watch,
            published: BTreeMap::new(),
            compiled: PipelineFolder::default(),
            folder: PipelineFolder::default(),
            live_changed: false,
            ctx: ValidationContext {
                smtputf8: config.mail.smtputf8,
                public_url: Some(config.base_url()),
                ..ValidationContext::default()
            },
            summaries: BTreeMap::new(),
            unreadable: BTreeMap::new(),
            refreshed: Instant::now(),
            kinds,
            watcher: Some(view),
        };
        reload.summaries = reload.load_live().await?;
        if let Some(names) = &file_names {
            reload.summaries.retain(|name, _| names.contains(name));
        }
        reload.set_folder(folder).await?;
        if let Some(names) = &file_names {
            let definitions: Vec<_> = reload.folder.pipelines.iter().map(to_definition_record).collect();
            db.definitions().replace_live(&definitions, names).await?;
        }
        reload.published = published_digests(&reload.folder, &BTreeMap::new());
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
                        (view, looked) = run_watcher(view, PipelineWatcher::poll_changes).await?;
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
            self.set_folder(folder).await?;
        } else if self.live_changed {
            // What another process has published may close a loop with a file here, or open one.
            self.set_folder(self.compiled.clone()).await?;
        }
        // This also retries changes that could not be published before.
        let published = self.publish_changes().await?;
        if has_changed || published || self.refreshed.elapsed() >= REFRESH_INTERVAL {
            self.refreshed = Instant::now();
            self.refresh_registry(true).await?;
        }
        Ok(())
    }

    /// Replaces the folder, and logs each newly rejected file.
    async fn set_folder(&mut self, compiled: PipelineFolder) -> Result<()> {
        let (live, unchecked) = (self.live_flows(&compiled), compiled.clone());
        // With many pipelines, this takes too long for a thread of the runtime.
        let checked = tokio::task::spawn_blocking(move || unchecked.refuse_loops(&live)).await;
        let folder = checked.map_err(|error| Error::new(codes::INTERNAL_ERROR, error.to_string()))?;
        self.compiled = compiled;
        self.live_changed = false;
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
        Ok(())
    }

    /// What is live, without the names whose last file is gone.
    fn live_flows(&self, compiled: &PipelineFolder) -> BTreeMap<String, LiveFlow> {
        let in_folder = |name: &str| {
            compiled.pipelines.iter().any(|(pipeline, _)| pipeline.plan.name == name)
                || compiled.refused.iter().any(|refused| refused.name == name)
        };
        let stays = |name: &str| in_folder(name) || !self.published.contains_key(name);
        let flow = |(name, known): (&String, &PipelineSummary)| {
            (name.clone(), LiveFlow { digest: known.digest.clone(), flow: known.trigger_flow.clone() })
        };
        self.summaries.iter().filter(|(name, _)| stays(name)).map(flow).collect()
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

    /// Loads the live pipelines from the database. Those that are known are not compiled again.
    async fn load_live(&mut self) -> Result<BTreeMap<String, PipelineSummary>> {
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
        Ok(shown)
    }

    /// Shows what is live in the database, and logs changes if `log_changes` is set.
    async fn refresh_registry(&mut self, log_changes: bool) -> Result<()> {
        let shown = self.load_live().await?;
        let digests = |all: &BTreeMap<String, PipelineSummary>| -> Vec<(String, String)> {
            all.iter().map(|(name, pipeline)| (name.clone(), pipeline.digest.clone())).collect()
        };
        self.live_changed |= digests(&shown) != digests(&self.summaries);
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
        match pipeline::compile_definition(None, &definition.source, &self.kinds, &self.ctx) {
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

/// Runs `scan` in a blocking thread, because a network folder or a database may be slow. The error is a panic of the scan.
async fn run_watcher<T: Send + 'static>(
    mut view: PipelineWatcher,
    scan: fn(&mut PipelineWatcher) -> T,
) -> Result<(PipelineWatcher, T)> {
    let scan = tokio::task::spawn_blocking(move || {
        let result = scan(&mut view);
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
