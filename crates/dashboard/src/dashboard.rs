//! What the handlers of all pages share.

use std::sync::Arc;

use axum::Router;

use crate::day_counts::DayCounts;
use crate::page_cache::PageCache;
use crate::session_cache::SessionCache;
use afterload_core::clock::UnixMillis;
use afterload_server::api::{ApiState, api_router};

/// The state of the dashboard. Cheap to clone.
#[derive(Clone)]
pub struct Dashboard(Arc<DashboardParts>);

struct DashboardParts {
    api: ApiState,
    /// The API inside the process. Writes and downloads go through it.
    api_router: Router,
    pages: PageCache,
    sessions: SessionCache,
    day_counts: DayCounts,
}

impl Dashboard {
    pub(crate) fn new(api: ApiState) -> Self {
        let day_counts = DayCounts::new(api.db().clone());
        Self(Arc::new(DashboardParts {
            api_router: api_router(api.clone()),
            api,
            pages: PageCache::default(),
            sessions: SessionCache::default(),
            day_counts,
        }))
    }

    pub(crate) fn api(&self) -> &ApiState {
        &self.0.api
    }

    pub(crate) fn api_router(&self) -> Router {
        self.0.api_router.clone()
    }

    pub(crate) fn base_url(&self) -> &str {
        self.0.api.base_url()
    }

    pub(crate) fn pages(&self) -> &PageCache {
        &self.0.pages
    }

    pub(crate) fn sessions(&self) -> &SessionCache {
        &self.0.sessions
    }

    pub(crate) fn day_counts(&self) -> &DayCounts {
        &self.0.day_counts
    }

    pub(crate) fn now(&self) -> UnixMillis {
        self.0.api.db().now()
    }
}
