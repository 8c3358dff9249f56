//! The stores of the database: one for each concern. A store is a view that costs nothing.

use super::api_keys::ApiKeyStore;
use super::artifacts::ArtifactStore;
use super::claims::ClaimStore;
use super::concurrency::ConcurrencyStore;
use super::db::Db;
use super::dedup::DedupStore;
use super::definitions::DefinitionStore;
use super::delivery_log::DeliveryLogStore;
use super::download_links::DownloadLinkStore;
use super::effect_log::EffectLogStore;
use super::events::EventStore;
use super::geo_cache::GeoCacheStore;
use super::items::ItemStore;
use super::notifications::NotificationStore;
use super::pauses::PauseStore;
use super::polls::PollStore;
use super::rate_limits::RateLimitStore;
use super::retention::RetentionStore;
use super::runs::RunStore;
use super::schedules::ScheduleStore;
use super::steps::StepStore;
use super::suspensions::SuspensionStore;
use super::tx::DbTx;
use super::uploads::UploadStore;

/// What is read beside all writers, or written in a transaction of its own.
impl Db {
    /// The API keys.
    pub fn api_keys(&self) -> ApiKeyStore<'_> {
        ApiKeyStore(self)
    }

    /// The files that afterload owns, and what refers to them.
    pub fn artifacts(&self) -> ArtifactStore<&Self> {
        ArtifactStore(self)
    }

    /// The concurrency slots of runs.
    pub fn concurrency(&self) -> ConcurrencyStore<&Self> {
        ConcurrencyStore(self)
    }

    /// The keys that have started a run.
    pub fn dedup_keys(&self) -> DedupStore<&Self> {
        DedupStore(self)
    }

    /// The definitions of pipelines, live and past.
    pub fn definitions(&self) -> DefinitionStore<&Self> {
        DefinitionStore(self)
    }

    /// The deliveries of steps that send to many.
    pub fn delivery_log(&self) -> DeliveryLogStore<'_> {
        DeliveryLogStore(self)
    }

    /// The links to files.
    pub fn download_links(&self) -> DownloadLinkStore<&Self> {
        DownloadLinkStore(self)
    }

    /// The effects that must not knowingly be repeated.
    pub fn effect_log(&self) -> EffectLogStore<'_> {
        EffectLogStore(self)
    }

    /// The events that the application published.
    pub fn events(&self) -> EventStore<&Self> {
        EventStore(self)
    }

    /// The cached records of geolocation services.
    pub fn geo_cache(&self) -> GeoCacheStore<'_> {
        GeoCacheStore(self)
    }

    /// The items of steps with `for_each`.
    pub fn items(&self) -> ItemStore<&Self> {
        ItemStore(self)
    }

    /// The notifications of the end of runs.
    pub fn notifications(&self) -> NotificationStore<&Self> {
        NotificationStore(self)
    }

    /// The pauses of queues and pipelines.
    pub fn pauses(&self) -> PauseStore<'_> {
        PauseStore(self)
    }

    /// The polls of buckets, and which process does them.
    pub fn poll_claims(&self) -> PollStore<'_> {
        PollStore(self)
    }

    /// The reserved starts of steps with a `rate_limit`.
    pub fn rate_limits(&self) -> RateLimitStore<&Self> {
        RateLimitStore(self)
    }

    /// What has to expire or to be deleted.
    pub fn retention(&self) -> RetentionStore<&Self> {
        RetentionStore(self)
    }

    /// The runs.
    pub fn runs(&self) -> RunStore<&Self> {
        RunStore(self)
    }

    /// The cursors of cron schedules.
    pub fn schedules(&self) -> ScheduleStore<'_> {
        ScheduleStore(self)
    }

    /// The steps of runs.
    pub fn steps(&self) -> StepStore<&Self> {
        StepStore(self)
    }

    /// The announced uploads.
    pub fn uploads(&self) -> UploadStore<'_> {
        UploadStore(self)
    }
}

/// What belongs to this transaction.
impl DbTx {
    /// The files that afterload owns, and what refers to them.
    pub fn artifacts(&mut self) -> ArtifactStore<&mut Self> {
        ArtifactStore(self)
    }

    /// The claims of attempts on their steps.
    pub fn claims(&mut self) -> ClaimStore<'_> {
        ClaimStore(self)
    }

    /// The concurrency slots of runs.
    pub fn concurrency(&mut self) -> ConcurrencyStore<&mut Self> {
        ConcurrencyStore(self)
    }

    /// The keys that have started a run.
    pub fn dedup_keys(&mut self) -> DedupStore<&mut Self> {
        DedupStore(self)
    }

    /// The definitions of pipelines, live and past.
    pub fn definitions(&mut self) -> DefinitionStore<&mut Self> {
        DefinitionStore(self)
    }

    /// The links to files.
    pub fn download_links(&mut self) -> DownloadLinkStore<&mut Self> {
        DownloadLinkStore(self)
    }

    /// The events that the application published.
    pub fn events(&mut self) -> EventStore<&mut Self> {
        EventStore(self)
    }

    /// The items of steps with `for_each`.
    pub fn items(&mut self) -> ItemStore<&mut Self> {
        ItemStore(self)
    }

    /// The notifications of the end of runs.
    pub fn notifications(&mut self) -> NotificationStore<&mut Self> {
        NotificationStore(self)
    }

    /// The reserved starts of steps with a `rate_limit`.
    pub fn rate_limits(&mut self) -> RateLimitStore<&mut Self> {
        RateLimitStore(self)
    }

    /// What has to expire or to be deleted.
    pub fn retention(&mut self) -> RetentionStore<&mut Self> {
        RetentionStore(self)
    }

    /// The runs.
    pub fn runs(&mut self) -> RunStore<&mut Self> {
        RunStore(self)
    }

    /// The steps of runs.
    pub fn steps(&mut self) -> StepStore<&mut Self> {
        StepStore(self)
    }

    /// The suspended steps.
    pub fn suspensions(&mut self) -> SuspensionStore<'_> {
        SuspensionStore(self)
    }
}
