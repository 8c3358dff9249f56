//! Typed access to the tables, one type for each concern. Each is a view that costs nothing to create.

use super::api_keys::ApiKeyStore;
use super::artifacts::ArtifactStore;
use super::claims::ClaimStore;
use super::concurrency::ConcurrencyStore;
use super::dashboard_sessions::DashboardSessionStore;
use super::db::Db;
use super::deadlines::DeadlineStore;
use super::dedup::DedupStore;
use super::definitions::DefinitionStore;
use super::delivery_log::DeliveryLogStore;
use super::download_links::DownloadLinkStore;
use super::effect_log::EffectLogStore;
use super::event_batches::EventBatchStore;
use super::events::EventStore;
use super::geo_cache::GeoCacheStore;
use super::items::ItemStore;
use super::mail_suppressions::MailSuppressionStore;
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

/// Reads run beside all writers. Each write runs in a transaction of its own.
impl Db {
    /// The API keys.
    pub fn api_keys(&self) -> ApiKeyStore<'_> {
        ApiKeyStore(self)
    }

    /// The artifacts and the references to them.
    pub fn artifacts(&self) -> ArtifactStore<&Self> {
        ArtifactStore(self)
    }

    /// The concurrency slots of runs.
    pub fn concurrency(&self) -> ConcurrencyStore<&Self> {
        ConcurrencyStore(self)
    }

    /// The deadlines of runs.
    pub fn deadlines(&self) -> DeadlineStore<&Self> {
        DeadlineStore(self)
    }

    /// The sign-ins to the dashboard.
    pub fn dashboard_sessions(&self) -> DashboardSessionStore<'_> {
        DashboardSessionStore(self)
    }

    /// The dedup keys.
    pub fn dedup_keys(&self) -> DedupStore<&Self> {
        DedupStore(self)
    }

    /// The definitions of pipelines, live and past.
    pub fn definitions(&self) -> DefinitionStore<&Self> {
        DefinitionStore(self)
    }

    /// The delivery log of fan-out steps.
    pub fn delivery_log(&self) -> DeliveryLogStore<'_> {
        DeliveryLogStore(self)
    }

    /// The download links.
    pub fn download_links(&self) -> DownloadLinkStore<&Self> {
        DownloadLinkStore(self)
    }

    /// The effect log.
    pub fn effect_log(&self) -> EffectLogStore<'_> {
        EffectLogStore(self)
    }

    /// The events that wait for a run with others.
    pub fn event_batches(&self) -> EventBatchStore<&Self> {
        EventBatchStore(self)
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

    /// The suppressed addresses and the unsubscribe links.
    pub fn mail_suppressions(&self) -> MailSuppressionStore<'_> {
        MailSuppressionStore(self)
    }

    /// The notifications of the end of runs.
    pub fn notifications(&self) -> NotificationStore<&Self> {
        NotificationStore(self)
    }

    /// The pauses of queues and pipelines.
    pub fn pauses(&self) -> PauseStore<'_> {
        PauseStore(self)
    }

    /// The claims of polls.
    pub fn poll_claims(&self) -> PollStore<'_> {
        PollStore(self)
    }

    /// The rate limits of steps.
    pub fn rate_limits(&self) -> RateLimitStore<&Self> {
        RateLimitStore(self)
    }

    /// Files that expire and runs that are due for deletion.
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

/// Reads and writes run in this transaction.
impl DbTx {
    /// The artifacts and the references to them.
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

    /// The deadlines of runs.
    pub fn deadlines(&mut self) -> DeadlineStore<&mut Self> {
        DeadlineStore(self)
    }

    /// The dedup keys.
    pub fn dedup_keys(&mut self) -> DedupStore<&mut Self> {
        DedupStore(self)
    }

    /// The definitions of pipelines, live and past.
    pub fn definitions(&mut self) -> DefinitionStore<&mut Self> {
        DefinitionStore(self)
    }

    /// The download links.
    pub fn download_links(&mut self) -> DownloadLinkStore<&mut Self> {
        DownloadLinkStore(self)
    }

    /// The events that wait for a run with others.
    pub fn event_batches(&mut self) -> EventBatchStore<&mut Self> {
        EventBatchStore(self)
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

    /// The rate limits of steps.
    pub fn rate_limits(&mut self) -> RateLimitStore<&mut Self> {
        RateLimitStore(self)
    }

    /// Files that expire and runs that are due for deletion.
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
