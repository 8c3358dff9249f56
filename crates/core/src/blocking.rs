//! Moves work on large inputs off the threads of the runtime, on which it would delay all other requests.

use crate::codes;
use crate::error::{Error, Result};

/// Work on inputs up to this size takes less than a switch of threads is worth.
const MAX_INLINE_INPUT_BYTES: usize = 16 << 10;

/// Runs `work` on an input of this size: at once if it is small, and on a thread of its own otherwise.
///
/// # Errors
/// `internal_error` if the runtime ends meanwhile.
pub async fn run_sized<T: Send + 'static>(input_bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    if input_bytes <= MAX_INLINE_INPUT_BYTES {
        return Ok(work());
    }
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => Ok(result),
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(ended) => Err(Error::new(codes::INTERNAL_ERROR, ended.to_string())),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn large_work_runs_on_a_thread_of_its_own() {
        let here = std::thread::current().id();
        let thread = async |bytes| run_sized(bytes, || std::thread::current().id()).await.unwrap();
        assert_eq!(thread(MAX_INLINE_INPUT_BYTES).await, here);
        assert_ne!(thread(MAX_INLINE_INPUT_BYTES + 1).await, here);
    }
}
