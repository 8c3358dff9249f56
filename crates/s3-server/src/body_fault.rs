//! Why the body of a request ended early. s3s keeps only the texts of such errors, so the code that sees an error leaves
//! its kind here.

use std::sync::{Arc, OnceLock};

use hyper::http::Extensions;

/// Why a body ended early.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFault {
    /// Its sender left.
    Broken,
    /// Its sender was too slow.
    Slow,
    /// A signed chunk is larger than allowed.
    ChunkTooLarge,
}

/// Holds the fault of one body. All clones share it, and the first fault stays.
#[derive(Clone, Debug, Default)]
pub(super) struct BodyFaultCell(Arc<OnceLock<BodyFault>>);

impl BodyFaultCell {
    /// The cell of a request.
    pub(super) fn from_extensions(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_default()
    }

    pub(super) fn set(&self, fault: BodyFault) {
        // Another fault was first.
        let _ = self.0.set(fault);
    }

    pub(super) fn get(&self) -> Option<BodyFault> {
        self.0.get().copied()
    }
}
