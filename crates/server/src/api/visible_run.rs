//! A run as an answer may show it. Every answer with a run is made here, so that none shows more than its caller may
//! read.

use schemars::JsonSchema;
use serde::Serialize;
use ulid::Ulid;

use super::ApiState;
use super::auth::Caller;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_engine::{RunView, signed_artifact_url};
use afterload_state::{RunRecord, RunStatus};

/// What permits a caller to see a run.
#[derive(Clone, Debug)]
pub(super) enum RunAccess {
    /// The scopes of an API key.
    Key(Caller),
    /// The token of the run.
    Token,
    /// The request that created the run, or its token to do so. The answer brings the token of the run.
    Creator,
}

/// A run, as much of it as the caller may see.
#[derive(Debug, Serialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum VisibleRun {
    /// The whole run.
    Whole(Box<RunView>),
    /// For keys that may change the run but not read it.
    Receipt(RunReceipt),
}

/// What confirms a change to keys that may not read the run. It holds nothing that the run was given or has made.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct RunReceipt {
    /// The id.
    id: String,
    /// The pipeline.
    pipeline: String,
    /// `queued`, `running`, `succeeded`, `failed` or `cancelled`.
    #[schemars(with = "RunStatus")]
    status: &'static str,
    /// Rises with every change.
    revision: i64,
}

impl From<&RunRecord> for RunReceipt {
    fn from(run: &RunRecord) -> Self {
        let (id, pipeline) = (run.id.clone(), run.pipeline.clone());
        Self { id, pipeline, status: run.status.as_str(), revision: run.revision }
    }
}

impl RunAccess {
    /// True if the caller may read the runs of this pipeline.
    pub(super) fn can_read(&self, pipeline: &str) -> bool {
        match self {
            Self::Key(caller) => caller.can_read(pipeline),
            Self::Token | Self::Creator => true,
        }
    }

    /// The run as the caller may see it.
    pub(super) fn show_run(&self, app: &ApiState, run: RunView) -> VisibleRun {
        if !self.can_read(&run.pipeline) {
            let RunView { id, pipeline, status, revision, .. } = run;
            return VisibleRun::Receipt(RunReceipt { id, pipeline, status, revision });
        }
        VisibleRun::Whole(Box::new(self.with_file_urls(app, run)))
    }

    /// The run with the URLs of its files for this kind of access.
    pub(super) fn with_file_urls(&self, app: &ApiState, mut run: RunView) -> RunView {
        if matches!(self, Self::Token) {
            // The token of the run also permits its files.
            for artifact in &mut run.artifacts {
                artifact.url = signed_artifact_url(app.base_url(), app.keyring(), &artifact.id);
            }
        }
        run
    }
}

/// Reads a run, for the code that shows it by a [`RunAccess`].
pub(super) async fn find_run(app: &ApiState, id: &str) -> Result<Option<RunView>> {
    // Only valid ids reach the database: PostgreSQL rejects NUL, for example.
    match Ulid::from_string(id) {
        Ok(_) => RunView::read(app.db(), id, app.base_url()).await,
        Err(_) => Ok(None),
    }
}

pub(super) fn run_not_found(id: &str) -> Error {
    Error::new(codes::RUN_NOT_FOUND, format!("there is no run `{id}`"))
}
