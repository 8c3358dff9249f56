//! The status of a step.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::codes;
use afterload_core::error::{Error, Result};

/// Where a step is. `ARCHITECTURE.md` draws the transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum StepStatus {
    /// What it needs has not ended yet.
    Waiting,
    /// Its job is in the queue.
    Queued,
    /// A worker holds its job.
    Running,
    /// It waits for a time or an event; no worker holds it.
    Suspended,
    /// It failed and will be tried again.
    Retrying,
    /// It ended as it should.
    Succeeded,
    /// It failed for good.
    Failed,
    /// Its condition did not hold, or its section was not called for.
    Skipped,
    /// Something it needs failed.
    Cancelled,
    /// It took its process down again and again.
    Quarantined,
}

impl StepStatus {
    const ALL: [Self; 10] = [
        Self::Waiting,
        Self::Queued,
        Self::Running,
        Self::Suspended,
        Self::Retrying,
        Self::Succeeded,
        Self::Failed,
        Self::Skipped,
        Self::Cancelled,
        Self::Quarantined,
    ];

    /// The name in the database and in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Suspended => "suspended",
            Self::Retrying => "retrying",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
            Self::Cancelled => "cancelled",
            Self::Quarantined => "quarantined",
        }
    }

    /// Returns true if the step has ended.
    pub fn is_final(self) -> bool {
        match self {
            Self::Waiting | Self::Queued | Self::Running | Self::Suspended | Self::Retrying => false,
            Self::Succeeded | Self::Failed | Self::Skipped | Self::Cancelled | Self::Quarantined => true,
        }
    }

    /// Parses a status.
    pub fn from_name(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == text)
    }

    pub(crate) fn parse(text: &str) -> Result<Self> {
        Self::from_name(text).ok_or_else(|| Error::new(codes::DATABASE_ERROR, format!("unknown step status `{text}`")))
    }
}
