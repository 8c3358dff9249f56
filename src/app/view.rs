//! What is looked at to keep the pipelines up to date: their folder, and the templates and files of SQL that they may name.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files::{Files, Look, SETTLE, Stamp, stamps};
use super::surroundings;
use super::watch::{Events, POLL};
use crate::config::{Config, Watch};
use afterload_core::error::Result;
use afterload_mailer::Mailer;
use afterload_pipeline::catalogue::Folder;
use afterload_pipeline::{Kinds, Surroundings, sql_files};

/// The folder of the pipelines and what it depends on. Looking at it may block.
pub(super) struct View {
    config: Config,
    mail: Mailer,
    kinds: Arc<Kinds>,
    files: Files,
    events: Option<Events>,
    around: Surroundings,
    /// The files of the templates and of SQL, at the last look and when the pipelines were last judged by them.
    others: BTreeMap<PathBuf, Option<Stamp>>,
    judged_by: BTreeMap<PathBuf, Option<Stamp>>,
    moving: bool,
}

impl View {
    /// Reads everything for the first time.
    pub(super) fn open(config: &Config, kinds: Arc<Kinds>, mail: &Mailer) -> Result<Self> {
        let events = (config.watch == Watch::Auto).then(|| Events::new(config.pipelines.clone()));
        let others = others(config);
        let mut view = Self {
            files: Files::new(config.pipelines.clone()),
            around: surroundings(config, mail),
            judged_by: others.clone(),
            config: config.clone(),
            mail: mail.clone(),
            moving: false,
            kinds,
            events,
            others,
        };
        view.renew();
        view.moving = view.files.look(Instant::now(), Duration::ZERO)?.moving;
        Ok(view)
    }

    fn renew(&mut self) {
        if let Some(events) = &mut self.events {
            events.renew();
        }
    }

    /// What the folder holds.
    pub(super) fn folder(&mut self) -> Folder {
        self.files.folder(&self.kinds, &self.around)
    }

    /// The names of all its files, also of those that are still being written.
    pub(super) fn names(&self) -> Vec<String> {
        self.files.names()
    }

    /// Waits until it is time for a look.
    pub(super) async fn wait(&self) {
        let period = if self.moving { SETTLE } else { POLL };
        match &self.events {
            // While something moves, more will be told than is worth a look.
            Some(events) if !self.moving => events.wait(period).await,
            _ => tokio::time::sleep(period).await,
        }
    }

    /// Looks; gives what the folder holds if that may have changed.
    ///
    /// # Errors
    /// `io_error`
    pub(super) fn look(&mut self) -> Result<Option<Folder>> {
        self.renew();
        let Look { changed, moving } = self.files.look(Instant::now(), SETTLE)?;
        self.moving = moving;
        Ok((self.look_at_others() || changed).then(|| self.folder()))
    }

    /// Judges the pipelines anew once templates or files of SQL have changed and are the same for two looks.
    fn look_at_others(&mut self) -> bool {
        let now = others(&self.config);
        let settled = now == self.others;
        self.moving |= !settled;
        self.others = now;
        if !settled || self.others == self.judged_by {
            return false;
        }
        self.judged_by = self.others.clone();
        self.around = surroundings(&self.config, &self.mail);
        self.files.reconsider();
        true
    }
}

/// The states of the files that pipelines may name.
fn others(config: &Config) -> BTreeMap<PathBuf, Option<Stamp>> {
    let mut others = stamps(&config.templates.join("email"));
    others.extend(sql_files(&config.pipelines).into_iter().map(|path| (path.clone(), Stamp::of(&path))));
    others
}
