//! Keeps what is live in step with the folder of the pipelines, and what this process shows in step with the database.
//!
//! The live definition of a name is a row in the database. A process publishes what changes in its own folder, and only
//! that, so that processes with different folders (in the middle of a deployment) do not undo each other's work; all of
//! them show what the database says.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::view::View;
use crate::config::{Config, Watch};
use afterload_core::error::{Error, Result};
use afterload_mailer::Mailer;
use afterload_pipeline::catalogue::{Folder, Refused};
use afterload_pipeline::{self as pipeline, Kinds, Pipeline, Surroundings};
use afterload_server::api::{Catalogue, Live, LivePipeline, RefusedFile};
use afterload_state::{Db, Definition};

/// How often the database is asked for what others have published.
const REFRESH: Duration = Duration::from_secs(1);

/// What keeps the pipelines of a process up to date.
pub(super) struct Reload {
    db: Db,
    kinds: Arc<Kinds>,
    live: Live,
    watch: Watch,
    /// Taken by [`Self::run`].
    view: Option<View>,
    /// What the folder holds, as it was last taken in.
    folder: Folder,
    /// The names of the folder, each with the digest that this process published; `None` while only refused files had it.
    mine: BTreeMap<String, Option<String>>,
    /// What the catalogue shows, by name.
    shown: BTreeMap<String, LivePipeline>,
    /// The digests of live definitions that this version cannot read, by name; told once.
    unread: BTreeMap<String, String>,
    refreshed: Instant,
}

impl Reload {
    /// Makes the pipelines of the folder live. A file that is refused leaves what was live under its name; a process
    /// without the folder works on what others have published.
    ///
    /// # Errors
    /// `io_error`, or those of the database.
    pub(super) async fn open(db: &Db, config: &Config, kinds: Kinds, mail: &Mailer) -> Result<Self> {
        let kinds = Arc::new(kinds);
        let mut view = View::open(config, kinds.clone(), mail)?;
        let folder = view.folder();
        if config.pipelines.is_dir() {
            let definitions: Vec<_> = folder.pipelines.iter().map(definition).collect();
            db.publish(&definitions, &view.names()).await?;
        }
        let mut reload = Self {
            db: db.clone(),
            live: Live::default(),
            watch: config.watch,
            mine: names(&folder, &BTreeMap::new()),
            folder: Folder::default(),
            shown: BTreeMap::new(),
            unread: BTreeMap::new(),
            refreshed: Instant::now(),
            kinds,
            view: Some(view),
        };
        reload.take(folder);
        reload.refresh(false).await?;
        Ok(reload)
    }

    /// The pipelines of this moment, for those who answer requests.
    pub(super) fn live(&self) -> Live {
        self.live.clone()
    }

    /// What the folder holds.
    pub(super) fn folder(&self) -> Folder {
        self.folder.clone()
    }

    /// Follows the folder and the database until `stop`. Whatever fails is told once and tried again.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let Some(mut view) = self.view.take() else { return };
        let mut failing = false;
        let following = async {
            loop {
                let done = match self.watch {
                    Watch::Off => {
                        tokio::time::sleep(REFRESH).await;
                        self.follow(None).await
                    }
                    Watch::Auto | Watch::Poll => {
                        view.wait().await;
                        let looked;
                        (view, looked) = looked_at(view).await?;
                        match looked {
                            Ok(folder) => self.follow(folder).await,
                            Err(error) => Err(error),
                        }
                    }
                };
                if let Err(error) = &done
                    && !failing
                {
                    warn!(error.code = error.code(), "the pipelines cannot be followed; trying again: {error}");
                }
                failing = done.is_err();
            }
        };
        let followed: Option<Result<()>> = stop.run_until_cancelled(following).await;
        if let Some(Err(error)) = followed {
            warn!(error.code = error.code(), "the pipelines are no longer followed: {error}");
        }
    }

    /// Publishes what has changed in the folder, and shows what is live.
    async fn follow(&mut self, folder: Option<Folder>) -> Result<()> {
        let news = folder.is_some();
        if let Some(folder) = folder {
            self.take(folder);
        }
        // What could not be published before is tried again.
        let published = self.publish().await?;
        if news || published || self.refreshed.elapsed() >= REFRESH {
            self.refreshed = Instant::now();
            self.refresh(true).await?;
        }
        Ok(())
    }

    /// Tells of each file that is refused for a new reason, and remembers what the folder holds.
    fn take(&mut self, folder: Folder) {
        let same = |a: &Refused, b: &Refused| a.file == b.file && a.text == b.text && a.summary() == b.summary();
        for refused in &folder.refused {
            if !self.folder.refused.iter().any(|known| same(known, refused)) {
                let what = "pipeline refused; what was live under its name still is";
                warn!(pipeline.file = refused.file, pipeline.name = refused.name, "{what}: {}", refused.summary());
            }
        }
        self.folder = folder;
    }

    /// True if anything had to be published.
    async fn publish(&mut self) -> Result<bool> {
        let now = names(&self.folder, &self.mine);
        if now == self.mine {
            return Ok(false);
        }
        let new = |(pipeline, _): &&(Pipeline, String)| {
            self.mine.get(&pipeline.plan.name).is_none_or(|known| known.as_ref() != Some(&pipeline.plan.digest))
        };
        let changed: Vec<_> = self.folder.pipelines.iter().filter(new).map(definition).collect();
        let gone: Vec<_> = self.mine.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
        self.db.republish(&changed, &gone).await?;
        self.mine = now;
        Ok(true)
    }

    /// Shows what the database says is live, and tells what is new.
    async fn refresh(&mut self, tell: bool) -> Result<()> {
        let mut shown = BTreeMap::new();
        for (name, digest) in self.db.live().await? {
            let known = self.shown.get(&name).filter(|known| known.digest == digest).cloned();
            let found = match known {
                None if self.unread.get(&name) == Some(&digest) => None,
                None => self.read(&name, &digest).await?,
                known => known,
            };
            shown.extend(found.map(|pipeline| (name, pipeline)));
        }
        for (name, pipeline) in shown.iter().filter(|_| tell) {
            if self.shown.get(name).is_none_or(|known| known.digest != pipeline.digest) {
                info!(pipeline.name = name, pipeline.digest = pipeline.digest, "pipeline is live");
            }
        }
        for name in self.shown.keys().filter(|name| !shown.contains_key(*name)) {
            info!(pipeline.name = name, "pipeline is no longer live; its runs go on");
        }
        self.shown = shown;
        let refused = self.folder.refused.iter().map(RefusedFile::from).collect();
        self.live.publish(Catalogue { pipelines: self.shown.values().cloned().collect(), refused });
        Ok(())
    }

    /// A definition that somebody published; `None` if it is not one for this version.
    async fn read(&mut self, name: &str, digest: &str) -> Result<Option<LivePipeline>> {
        let Some(definition) = self.db.definition(digest).await? else { return Ok(None) };
        match pipeline::load(None, &definition.source, &self.kinds, &Surroundings::default()) {
            Ok(pipeline) => Ok(Some(LivePipeline::new(&pipeline, &definition.source))),
            Err(problems) => {
                let first = problems.first().map_or("", |problem| &problem.message);
                warn!(pipeline.name = name, "the live definition is not valid for this version: {first}");
                self.unread.insert(name.to_owned(), digest.to_owned());
                Ok(None)
            }
        }
    }
}

/// Looks in a thread of its own: a folder on a network may take its time. The error is that of a look that broke down.
async fn looked_at(mut view: View) -> Result<(View, Result<Option<Folder>>)> {
    let looking = tokio::task::spawn_blocking(move || {
        let looked = view.look();
        (view, looked)
    });
    looking.await.map_err(|error| Error::permanent("internal_error", error.to_string()))
}

fn definition((pipeline, source): &(Pipeline, String)) -> Definition {
    Definition { name: pipeline.plan.name.clone(), digest: pipeline.plan.digest.clone(), source: source.clone() }
}

/// The names of a folder with what is published under each once `folder` is: a refused file leaves what was there.
fn names(folder: &Folder, before: &BTreeMap<String, Option<String>>) -> BTreeMap<String, Option<String>> {
    let refused = folder.refused.iter().map(|refused| {
        let known = before.get(&refused.name).cloned().flatten();
        (refused.name.clone(), known)
    });
    let good =
        folder.pipelines.iter().map(|(pipeline, _)| (pipeline.plan.name.clone(), Some(pipeline.plan.digest.clone())));
    // A good file goes before a refused one of the same name.
    refused.chain(good).collect()
}
