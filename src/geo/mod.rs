//! Where addresses are: files in MaxMind's format, asked in the order that a step names.

mod address;
mod answer;
mod mmdb;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

pub use address::{is_local, parse};
pub use answer::Answer;

use self::mmdb::Mmdb;
use crate::config::Config;
use crate::error::{Error, Result};

/// Who says where addresses are that are nowhere in the world.
const LOCAL: &str = "local";

/// Everybody who can be asked where an address is. Cheap to clone.
#[derive(Clone)]
pub struct Geo(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    files: Mutex<BTreeMap<String, Arc<Mmdb>>>,
}

/// Somebody who can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Provider {
    /// The file of this name, without its ending, in the folder of the configuration.
    Mmdb(String),
}

/// Whom to ask, in this order, and what to say of addresses that are nowhere in the world.
#[derive(Clone, Debug)]
pub struct Chain {
    /// Whom to ask.
    pub providers: Vec<Provider>,
    /// What to say of loopback and private addresses.
    pub local: Answer,
}

impl Provider {
    /// Reads `mmdb:NAME`.
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
            _ => Err(Error::permanent("geo_provider_unknown", format!("`{text}` cannot be asked where an address is"))
                .hint("write `mmdb:city` for the file `city.mmdb` in `geo.folder` of the configuration")),
        }
    }
}

impl fmt::Display for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mmdb(name) => write!(f, "mmdb:{name}"),
        }
    }
}

impl Geo {
    /// Reads no file yet.
    pub fn new(config: &Config) -> Self {
        Self(Arc::new(Inner { folder: config.geo_folder(), files: Mutex::default() }))
    }

    /// Where each address is, in their order; `None` where nobody knows. Who fails is passed over for those that others
    /// know.
    ///
    /// # Errors
    /// `geo_file_missing`, `geo_file_invalid`: of the first who failed, where nobody else knew an address.
    pub async fn find(&self, chain: &Chain, addresses: &[IpAddr]) -> Result<Vec<Option<Answer>>> {
        let local = |ip: &IpAddr| {
            let answer =
                || Answer { ip: Some(ip.to_string()), provider: Some(LOCAL.to_owned()), ..chain.local.clone() };
            is_local(*ip).then(answer)
        };
        let mut found: Vec<Result<Option<Answer>>> = addresses.iter().map(|ip| Ok(local(ip))).collect();
        for provider in &chain.providers {
            let open: Vec<usize> = (0..found.len()).filter(|place| !matches!(found[*place], Ok(Some(_)))).collect();
            if open.is_empty() {
                break;
            }
            let answers = self.ask(provider, open.iter().map(|place| addresses[*place]).collect()).await;
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
    async fn ask(&self, provider: &Provider, addresses: Vec<IpAddr>) -> Vec<Result<Option<Answer>>> {
        let count = addresses.len();
        let asked = match provider {
            Provider::Mmdb(name) => {
                let file = self.file(name);
                tokio::task::spawn_blocking(move || file.find(&addresses)).await.unwrap_or_else(|error| {
                    Err(Error::permanent("internal_error", format!("the look-up panicked: {error}")))
                })
            }
        };
        match asked {
            Ok(answers) => answers.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error); count],
        }
    }

    fn file(&self, name: &str) -> Arc<Mmdb> {
        let mut files = self.0.files.lock().unwrap_or_else(PoisonError::into_inner);
        let open = || Arc::new(Mmdb::new(&self.0.folder, name));
        files.entry(name.to_owned()).or_insert_with(open).clone()
    }
}
