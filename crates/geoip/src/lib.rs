//! Finds the location of IP addresses, in files of MaxMind's format and in web services, in the order that a step
//! names.

pub mod codes;
mod config;
mod geo_record;
mod http;
mod ip;
mod mmdb;

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

pub use config::{GeoConfig, GeoHttpConfig, GeoPreset};
pub use geo_record::{GeoField, GeoRecord};
pub use ip::{is_local_ip, parse_ip};

use self::http::GeoHttpService;
use self::mmdb::MmdbFile;
use afterload_core::clock::{Clock, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_core::secret::Secret;

const LOCAL_PROVIDER: &str = "local";
/// How many addresses are looked up at one service in parallel.
const MAX_PARALLEL_LOOKUPS: usize = 4;
/// How long it is cached, at most, that a service does not know an address.
const MAX_UNKNOWN_TTL: Duration = Duration::from_secs(86_400);

/// Finds the location of addresses. Cheap to clone.
#[derive(Clone)]
pub struct GeoLocator(Arc<GeoLocatorState>);

struct GeoLocatorState {
    folder: PathBuf,
    files: Mutex<BTreeMap<String, Arc<MmdbFile>>>,
    services: BTreeMap<String, GeoHttpService>,
    cache: Arc<dyn AnswerCache>,
    clock: Clock,
}

/// The options of the locator. The binary creates them from the configuration file.
#[derive(Clone, Debug)]
pub struct GeoOptions {
    /// The folder of the files that `mmdb:NAME` names.
    pub folder: PathBuf,
    /// The web services that `http:NAME` names.
    pub services: BTreeMap<String, GeoHttpConfig>,
}

/// A cache of the services' answers that all processes share.
pub trait AnswerCache: Send + Sync {
    /// The unexpired answers of `provider` for these addresses that were stored at `since` or later. A value of `None`:
    /// the service does not know the address.
    fn answers<'a>(
        &'a self,
        provider: &'a str,
        addresses: &'a [String],
        since: UnixMillis,
    ) -> BoxFuture<'a, Result<HashMap<String, Option<Value>>>>;

    /// Stores the answer of `provider` for an address.
    fn store_answer<'a>(
        &'a self,
        provider: &'a str,
        address: &'a str,
        answer: Option<&'a Value>,
        expires_at: UnixMillis,
    ) -> BoxFuture<'a, Result<()>>;
}

/// Sends GET requests to web services.
pub trait HttpGet: Send + Sync {
    /// Returns the JSON of the response, without secrets that it echoes; `None` for a 404.
    fn get_json<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(String, Secret)],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Option<Value>>>;
}

/// Waits until a call may start. Whoever asks decides what it does meanwhile.
pub trait CallWaiter: Send + Sync {
    /// Waits for this time. Fails with `step_stopped` if the caller should stop.
    fn wait(&self, pause: Duration) -> BoxFuture<'_, Result<()>>;
}

/// A source of locations.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GeoProvider {
    /// The file of this name, without its extension, in the configured folder.
    Mmdb(String),
    /// The web service of this name in the configuration.
    Http(String),
}

/// The providers to ask, in order, and the record of local addresses.
#[derive(Clone, Debug)]
pub struct ProviderChain {
    /// The providers, in order.
    pub providers: Vec<GeoProvider>,
    /// The record of addresses without a public location.
    pub local_record: GeoRecord,
    /// How long the answers of services stay cached.
    pub max_cache_age: Duration,
}

impl GeoProvider {
    /// Parses `mmdb:NAME` or `http:NAME`.
    ///
    /// # Errors
    /// `geo_provider_unknown`
    pub fn parse(text: &str) -> Result<Self> {
        let is_valid = |name: &str| {
            let first = name.chars().next();
            first.is_some_and(|letter| letter.is_ascii_alphanumeric())
                && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter))
        };
        match text.split_once(':') {
            Some(("mmdb", name)) if is_valid(name) => Ok(Self::Mmdb(name.to_owned())),
            Some(("http", name)) if is_valid(name) => Ok(Self::Http(name.to_owned())),
            _ => Err(Error::new(codes::GEO_PROVIDER_UNKNOWN, format!("`{text}` cannot be asked where an address is"))
                .with_hint(
                    "write `mmdb:city` for the file `city.mmdb` in `geo.folder`, or `http:NAME` for one of `geo.http`",
                )),
        }
    }
}

impl fmt::Display for GeoProvider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmdb(name) => write!(f, "mmdb:{name}"),
            Self::Http(name) => write!(f, "http:{name}"),
        }
    }
}

impl GeoLocator {
    /// Creates a locator. Files are opened at the first lookup.
    pub fn new(options: GeoOptions, cache: Arc<dyn AnswerCache>, http: &Arc<dyn HttpGet>, clock: Clock) -> Self {
        let service = |(name, config)| (String::clone(name), GeoHttpService::new(name, config, http.clone()));
        let services = options.services.iter().map(service).collect();
        Self(Arc::new(GeoLocatorState { folder: options.folder, files: Mutex::default(), services, cache, clock }))
    }

    /// Returns the location of each address, in order, without the address itself; `None` if no provider knows it. A
    /// provider that fails is skipped for addresses that another provider knows. `waiter` waits for the rate limits and
    /// the `Retry-After` of services.
    ///
    /// # Errors
    /// If a provider failed and no other one knew an address: `geo_file_missing`, `geo_file_invalid`,
    /// `geo_provider_unknown`, `geo_provider_resting`, and the errors of HTTP calls. `step_stopped`.
    pub async fn find_records(
        &self,
        chain: &ProviderChain,
        addresses: &[IpAddr],
        (waiter, stop): (&dyn CallWaiter, &CancellationToken),
    ) -> Result<Vec<Option<Arc<GeoRecord>>>> {
        let local = Arc::new(GeoRecord { provider: Some(LOCAL_PROVIDER.to_owned()), ..chain.local_record.clone() });
        let mut found: Vec<Result<Option<Arc<GeoRecord>>>> =
            addresses.iter().map(|ip| Ok(is_local_ip(*ip).then(|| local.clone()))).collect();
        for provider in &chain.providers {
            let open: Vec<usize> = (0..found.len()).filter(|place| !matches!(found[*place], Ok(Some(_)))).collect();
            if open.is_empty() {
                break;
            }
            let wanted: Vec<IpAddr> = open.iter().map(|place| addresses[*place]).collect();
            let answers = match provider {
                GeoProvider::Mmdb(name) => self.find_in_file(name, wanted).await,
                GeoProvider::Http(name) => {
                    self.find_in_service(name, &wanted, chain.max_cache_age, (waiter, stop)).await
                }
            };
            if stop.is_cancelled() {
                return Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop"));
            }
            if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
                tracing::warn!(geo.provider = %provider, %error, "the geo provider failed for some addresses");
            }
            for (place, answer) in open.into_iter().zip(answers) {
                // Keep the error of a failed provider until another one knows the address: the failed one might have
                // known it.
                if found[place].is_ok() || matches!(answer, Ok(Some(_))) {
                    found[place] = answer;
                }
            }
        }
        found.into_iter().collect()
    }

    /// Looks up all addresses in one file. Returns one result per address, in order.
    async fn find_in_file(&self, name: &str, addresses: Vec<IpAddr>) -> Vec<Result<Option<Arc<GeoRecord>>>> {
        let (count, file) = (addresses.len(), self.mmdb_file(name));
        let read = tokio::task::spawn_blocking(move || file.find_records(&addresses)).await;
        match read
            .unwrap_or_else(|error| Err(Error::new(codes::INTERNAL_ERROR, format!("the look-up panicked: {error}"))))
        {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); count],
        }
    }

    /// Looks up addresses at a service; asks it only for those that are not cached.
    async fn find_in_service(
        &self,
        name: &str,
        addresses: &[IpAddr],
        cache: Duration,
        waits: (&dyn CallWaiter, &CancellationToken),
    ) -> Vec<Result<Option<Arc<GeoRecord>>>> {
        let Some(service) = self.0.services.get(name) else {
            let unknown =
                Error::new(codes::GEO_PROVIDER_UNKNOWN, format!("the configuration has no `geo.http.{name}`"));
            return vec![Err(unknown); addresses.len()];
        };
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let since = self.0.clock.now() - to_unix_millis(cache);
        let cached = match self.0.cache.answers(&service.cache_key, &texts, since).await {
            Ok(cached) => cached,
            Err(error) => return vec![Err(error); addresses.len()],
        };
        let one = async |place: usize| match cached.get(&texts[place]) {
            Some(answer) => Ok(answer.clone().and_then(|answer| serde_json::from_value(answer).ok()).map(Arc::new)),
            None => self.call_service(service, addresses[place], cache, waits).await.map(|answer| answer.map(Arc::new)),
        };
        futures::stream::iter(0..addresses.len()).map(one).buffered(MAX_PARALLEL_LOOKUPS).collect().await
    }

    /// Asks a service and caches its answer.
    async fn call_service(
        &self,
        service: &GeoHttpService,
        ip: IpAddr,
        cache: Duration,
        (waiter, stop): (&dyn CallWaiter, &CancellationToken),
    ) -> Result<Option<GeoRecord>> {
        let answer = service.find_record(ip, waiter, stop).await?;
        let value = answer.as_ref().and_then(|answer| serde_json::to_value(answer).ok());
        let ttl = if answer.is_some() { cache } else { cache.min(MAX_UNKNOWN_TTL) };
        let expires = self.0.clock.now().saturating_add(to_unix_millis(ttl));
        self.0.cache.store_answer(&service.cache_key, &ip.to_string(), value.as_ref(), expires).await?;
        Ok(answer)
    }

    fn mmdb_file(&self, name: &str) -> Arc<MmdbFile> {
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || Arc::new(MmdbFile::new(&self.0.folder, name));
        files.entry(name.to_owned()).or_insert_with(open).clone()
    }
}

fn to_unix_millis(time: Duration) -> UnixMillis {
    UnixMillis::try_from(time.as_millis()).unwrap_or(UnixMillis::MAX)
}
