//! One reading of a page for all who look at it: the database is asked once a second, however many browsers ask.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::time::Instant;

use afterload_core::error::Result;

/// How long a reading is shown.
const PAGE_LIFETIME: Duration = Duration::from_secs(1);
/// More pages than this are not remembered.
const MAX_PAGES: usize = 256;

/// A page as it was read.
#[derive(Clone, Debug)]
pub(crate) struct RenderedPage {
    pub html: Bytes,
    /// The entity tag, with its quotes.
    pub etag: String,
}

/// The last reading of each page.
#[derive(Default)]
pub(crate) struct PageCache(Mutex<HashMap<String, Arc<CachedPage>>>);

#[derive(Default)]
struct CachedPage(tokio::sync::Mutex<Option<(Instant, RenderedPage)>>);

impl PageCache {
    /// Returns the page for this key, which `render` makes if its last reading is too old. Others who want the same
    /// page wait for it.
    ///
    /// # Errors
    /// Those of `render`.
    pub(crate) async fn get_or_render<F>(
        &self,
        key: String,
        now: Instant,
        render: impl FnOnce() -> F,
    ) -> Result<RenderedPage>
    where
        F: Future<Output = Result<String>>,
    {
        let cached = self.entry(key);
        let mut page = cached.0.lock().await;
        if let Some((_, known)) = page.as_ref().filter(|(at, _)| now.duration_since(*at) < PAGE_LIFETIME) {
            return Ok(known.clone());
        }
        let html = render().await?;
        let etag = format!("\"{}\"", hex::encode(Sha256::digest(&html)));
        let rendered = RenderedPage { html: html.into(), etag };
        // It counts from its begin: what is committed later is not in it.
        *page = Some((now, rendered.clone()));
        Ok(rendered)
    }

    /// Forgets all pages, because something has been changed.
    pub(crate) fn clear(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn entry(&self, key: String) -> Arc<CachedPage> {
        let mut pages = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if pages.len() >= MAX_PAGES && !pages.contains_key(&key) {
            pages.clear();
        }
        pages.entry(key).or_default().clone()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn many_viewers_share_one_reading() {
        let (cache, readings) = (PageCache::default(), AtomicUsize::new(0));
        let now = Instant::now();
        let read = async |key: &str, now: Instant| {
            let render = || async {
                tokio::task::yield_now().await;
                Ok(format!("reading {}", readings.fetch_add(1, Ordering::SeqCst)))
            };
            cache.get_or_render(key.to_owned(), now, render).await.unwrap()
        };
        let (one, other) = tokio::join!(read("a", now), read("a", now));
        assert_eq!((one.html.as_ref(), &one.etag), (b"reading 0".as_slice(), &other.etag));
        assert_eq!(read("b", now).await.html.as_ref(), b"reading 1");
        cache.clear();
        assert_eq!(read("a", now).await.html.as_ref(), b"reading 2");
        assert_eq!(read("a", now + PAGE_LIFETIME / 2).await.html.as_ref(), b"reading 2");
        assert_eq!(read("a", now + PAGE_LIFETIME).await.html.as_ref(), b"reading 3");
        for number in 0..3 * MAX_PAGES {
            cache.entry(number.to_string());
        }
        assert!(cache.0.lock().unwrap().len() <= MAX_PAGES);
    }
}
