//! Where addresses are: files in MaxMind's format and services on the web, asked in the order that a step names.

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
use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_core::secret::Secret;

/// Who says where addresses are that are nowhere in the world.
const LOCAL_PROVIDER: &str = "local";
/// Addresses that one service is asked for at once.
const MAX_PARALLEL_LOOKUPS: usize = 4;
/// That a service does not know an address is believed for a day at most.
const MAX_UNKNOWN_TTL: Duration = Duration::from_secs(86_400);

/// Everybody who can be asked where an address is. Cheap to clone.
#[derive(Clone)]
pub struct GeoLocator(Arc<GeoLocatorState>);

struct GeoLocatorState {
    folder: PathBuf,
    files: Mutex<BTreeMap<String, Arc<MmdbFile>>>,
    services: BTreeMap<String, GeoHttpService>,
    cache: Arc<dyn AnswerCache>,
}

/// What geo look-ups need to know. The binary makes it from the configuration file.
#[derive(Clone, Debug)]
pub struct GeoOptions {
    /// The folder of the files that `mmdb:NAME` names.
    pub folder: PathBuf,
    /// Services on the web that `http:NAME` names.
    pub services: BTreeMap<String, GeoHttpConfig>,
}

/// Remembers what services answered, for all processes.
pub trait AnswerCache: Send + Sync {
    /// What `provider` answered for these addresses at `since` or later and that has not expired. A value of `None`: the
    /// service does not know the address.
    fn answers<'a>(
        &'a self,
        provider: &'a str,
        addresses: &'a [String],
        since: UnixMillis,
    ) -> BoxFuture<'a, Result<HashMap<String, Option<Value>>>>;

    /// Stores what `provider` answered for an address.
    fn store_answer<'a>(
        &'a self,
        provider: &'a str,
        address: &'a str,
        answer: Option<&'a Value>,
        expires_at: UnixMillis,
    ) -> BoxFuture<'a, Result<()>>;
}

/// Calls services on the web.
pub trait HttpGet: Send + Sync {
    /// The JSON of the answer, without secrets that it echoes; `None` for a 404.
    fn get_json<'a>(
        &'a self,
        url: &'a str,
        headers: &'a [(String, Secret)],
        timeout: Duration,
    ) -> BoxFuture<'a, Result<Option<Value>>>;
}

/// Somebody who can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GeoProvider {
    /// The file of this name, without its ending, in the folder of the configuration.
    Mmdb(String),
    /// The service of this name in the configuration.
    Http(String),
}

/// Whom to ask, in this order, and what to say of addresses that are nowhere in the world.
#[derive(Clone, Debug)]
pub struct ProviderChain {
    /// Whom to ask.
    pub providers: Vec<GeoProvider>,
    /// What to say of loopback and private addresses.
    pub local_record: GeoRecord,
    /// How long what services say is believed.
    pub max_cache_age: Duration,
}

impl GeoProvider {
    /// Reads `mmdb:NAME` or `http:NAME`.
    ///
    /// # Errors
    /// `geo_provider_unknown`
    pub fn parse(text: &str) -> Result<Self> {
        let sound = |name: &str| {
            let first = name.chars().next();
            first.is_some_and(|letter| letter.is_ascii_alphanumeric())
                && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-".contains(letter))
        };
        match text.split_once(':') {
            Some(("mmdb", name)) if sound(name) => Ok(Self::Mmdb(name.to_owned())),
            Some(("http", name)) if sound(name) => Ok(Self::Http(name.to_owned())),
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
    /// Reads no file yet, and calls nobody.
    pub fn new(options: GeoOptions, cache: Arc<dyn AnswerCache>, http: &Arc<dyn HttpGet>) -> Self {
        let service = |(name, config)| (String::clone(name), GeoHttpService::new(name, config, http.clone()));
        let services = options.services.iter().map(service).collect();
        Self(Arc::new(GeoLocatorState { folder: options.folder, files: Mutex::default(), services, cache }))
    }

    /// Where each address is, in their order, without the address itself; `None` where nobody knows. Who fails is passed over
    /// for those that others know.
    ///
    /// # Errors
    /// Where somebody failed and nobody else knew an address: `geo_file_missing`, `geo_file_invalid`,
    /// `geo_provider_unknown`, `geo_provider_resting`, and those of calls. `step_stopped`.
    pub async fn find_records(
        &self,
        chain: &ProviderChain,
        addresses: &[IpAddr],
        stop: &CancellationToken,
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
                GeoProvider::Http(name) => self.find_in_service(name, &wanted, chain.max_cache_age, stop).await,
            };
            if stop.is_cancelled() {
                return Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop"));
            }
            if let Some(error) = answers.iter().find_map(|answer| answer.as_ref().err()) {
                tracing::warn!(geo.provider = %provider, %error, "some addresses could not be looked up there");
            }
            for (place, answer) in open.into_iter().zip(answers) {
                // That somebody who failed might have known is not forgotten until somebody else knows.
                if found[place].is_ok() || matches!(answer, Ok(Some(_))) {
                    found[place] = answer;
                }
            }
        }
        found.into_iter().collect()
    }

    /// One answer for each address, in their order.
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

    /// The same of a service, of which is asked only what it has not been asked lately.
    async fn find_in_service(
        &self,
        name: &str,
        addresses: &[IpAddr],
        cache: Duration,
        stop: &CancellationToken,
    ) -> Vec<Result<Option<Arc<GeoRecord>>>> {
        let Some(service) = self.0.services.get(name) else {
            let unknown =
                Error::new(codes::GEO_PROVIDER_UNKNOWN, format!("the configuration has no `geo.http.{name}`"));
            return vec![Err(unknown); addresses.len()];
        };
        let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let known =
            match self.0.cache.answers(&service.cache_key, &texts, clock::now_millis() - to_unix_millis(cache)).await {
                Ok(known) => known,
                Err(error) => return vec![Err(error); addresses.len()],
            };
        let one = async |place: usize| match known.get(&texts[place]) {
            Some(answer) => Ok(answer.clone().and_then(|answer| serde_json::from_value(answer).ok()).map(Arc::new)),
            None => self.call_service(service, addresses[place], cache, stop).await.map(|answer| answer.map(Arc::new)),
        };
        futures::stream::iter(0..addresses.len()).map(one).buffered(MAX_PARALLEL_LOOKUPS).collect().await
    }

    /// Calls a service, and remembers what it says.
    async fn call_service(
        &self,
        service: &GeoHttpService,
        ip: IpAddr,
        cache: Duration,
        stop: &CancellationToken,
    ) -> Result<Option<GeoRecord>> {
        let answer = service.find_record(ip, stop).await?;
        let value = answer.as_ref().and_then(|answer| serde_json::to_value(answer).ok());
        let believed = if answer.is_some() { cache } else { cache.min(MAX_UNKNOWN_TTL) };
        let expires = clock::now_millis().saturating_add(to_unix_millis(believed));
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
