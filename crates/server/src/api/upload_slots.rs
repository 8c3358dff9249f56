//! Limits how many uploads are received in parallel. Callers with keys and callers with upload tokens have separate
//! slots, so that neither can take those of the other. A token has one at a time.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::codes;
use afterload_core::error::{Error, Result};

/// How many forms of callers with keys are read in parallel. Each may buffer about 24 MiB on its way to the store.
pub(super) const MAX_KEY_UPLOADS: usize = 64;
/// How many uploads by token are received in parallel.
pub(super) const MAX_TOKEN_UPLOADS: usize = 32;
const UPLOAD_RETRY_AFTER: Duration = Duration::from_secs(5);

pub(super) struct UploadSlots {
    keys: Semaphore,
    tokens: Semaphore,
    /// The uploads that are being received by token.
    receiving: Mutex<HashSet<String>>,
}

/// The slot of an upload by token.
pub(super) struct TokenSlot<'a> {
    slots: &'a UploadSlots,
    upload: String,
    _permit: SemaphorePermit<'a>,
}

impl Drop for TokenSlot<'_> {
    fn drop(&mut self) {
        self.slots.lock_receiving().remove(&self.upload);
    }
}

impl UploadSlots {
    pub(super) fn new() -> Self {
        Self {
            keys: Semaphore::new(MAX_KEY_UPLOADS),
            tokens: Semaphore::new(MAX_TOKEN_UPLOADS),
            receiving: Mutex::default(),
        }
    }

    fn lock_receiving(&self) -> MutexGuard<'_, HashSet<String>> {
        self.receiving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A slot for the form of a caller with a key.
    ///
    /// # Errors
    /// `too_many_uploads`
    pub(super) fn take_key_slot(&self) -> Result<SemaphorePermit<'_>> {
        self.keys.try_acquire().map_err(|_| too_many_uploads(MAX_KEY_UPLOADS))
    }

    /// A slot for the upload with this id, whose token the caller has.
    ///
    /// # Errors
    /// `too_many_uploads`, or `upload_in_progress` if the upload is being received by another request.
    pub(super) fn take_token_slot(&self, upload: &str) -> Result<TokenSlot<'_>> {
        let mut receiving = self.lock_receiving();
        if receiving.contains(upload) {
            return Err(Error::new(codes::UPLOAD_IN_PROGRESS, "another request is sending this file")
                .with_retry_after(UPLOAD_RETRY_AFTER));
        }
        let permit = self.tokens.try_acquire().map_err(|_| too_many_uploads(MAX_TOKEN_UPLOADS))?;
        receiving.insert(upload.to_owned());
        Ok(TokenSlot { slots: self, upload: upload.to_owned(), _permit: permit })
    }
}

fn too_many_uploads(most: usize) -> Error {
    Error::new(codes::TOO_MANY_UPLOADS, format!("{most} uploads are under way")).with_retry_after(UPLOAD_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_and_keys_have_separate_slots() {
        let slots = UploadSlots::new();
        let mut held: Vec<_> =
            (0..MAX_TOKEN_UPLOADS).map(|number| slots.take_token_slot(&number.to_string()).unwrap()).collect();
        assert_eq!(slots.take_token_slot("0").err().unwrap().code(), codes::UPLOAD_IN_PROGRESS);
        assert_eq!(slots.take_token_slot("one more").err().unwrap().code(), codes::TOO_MANY_UPLOADS);
        let keys: Vec<_> = std::iter::from_fn(|| slots.take_key_slot().ok()).collect();
        assert_eq!(keys.len(), MAX_KEY_UPLOADS);
        held.remove(0);
        drop(slots.take_token_slot("0").unwrap());
        assert!(slots.take_token_slot("one more").is_ok());
    }
}
