//! The settings of geo lookups.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use afterload_core::secret::Secret;
use afterload_core::units::HumanDuration;

/// The providers of geo lookups.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GeoConfig {
    /// The folder of the files that `mmdb:NAME` names; default `data/geo`.
    pub folder: Option<PathBuf>,
    /// Web services that `http:NAME` names.
    pub http: BTreeMap<String, GeoHttpConfig>,
}

/// A web service for geo lookups.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GeoHttpConfig {
    /// A known service with its URL, fields and limits. Other settings here override it.
    pub preset: Option<GeoPreset>,
    /// The URL, with `{ip}` for the address to look up. It may contain `${NAME}` for an environment variable.
    pub url: Option<String>,
    /// Headers, such as `Authorization: Bearer ${TOKEN}`.
    pub headers: BTreeMap<String, Secret>,
    /// The position of each output in the JSON of the response, as a JSON pointer such as `/location/city`.
    pub fields: BTreeMap<String, String>,
    /// The values that mark an unknown address in the response, by JSON pointer. A status of 404 also means unknown.
    pub unknown: BTreeMap<String, Value>,
    /// The maximum number of calls per minute and process.
    #[schemars(range(min = 1, max = 60_000))]
    pub per_minute: Option<u32>,
    /// The timeout of a call.
    pub timeout: HumanDuration,
}

impl Default for GeoHttpConfig {
    fn default() -> Self {
        Self {
            preset: None,
            url: None,
            headers: BTreeMap::new(),
            fields: BTreeMap::new(),
            unknown: BTreeMap::new(),
            per_minute: None,
            timeout: HumanDuration(std::time::Duration::from_secs(5)),
        }
    }
}

/// Known services.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum GeoPreset {
    /// ip-api.com: no key, 45 calls a minute, no commercial use, not encrypted.
    IpApi,
    /// ipinfo.io: `headers: { Authorization: "Bearer ${TOKEN}" }`.
    Ipinfo,
    /// ipapi.co.
    Ipapi,
}

impl GeoHttpConfig {
    /// The output fields that `fields` can map.
    pub const MAPPABLE_FIELDS: [&str; 10] =
        ["country", "country_code", "region", "city", "postal_code", "latitude", "longitude", "timezone", "asn", "isp"];

    /// Fills in the settings of the preset where this configuration sets none.
    #[must_use]
    pub fn with_preset(&self) -> Self {
        let Some(preset) = self.preset else { return self.clone() };
        let defaults = preset.preset_config();
        Self {
            preset: None,
            url: self.url.clone().or(defaults.url),
            headers: self.headers.clone(),
            fields: if self.fields.is_empty() { defaults.fields } else { self.fields.clone() },
            unknown: if self.unknown.is_empty() { defaults.unknown } else { self.unknown.clone() },
            per_minute: self.per_minute.or(defaults.per_minute),
            timeout: self.timeout,
        }
    }
}

impl GeoPreset {
    fn preset_config(self) -> GeoHttpConfig {
        let (url, fields, (pointer, value), per_minute): (_, &[_], _, _) = match self {
            Self::IpApi => (
                "http://ip-api.com/json/{ip}?fields=status,country,countryCode,regionName,city,zip,lat,lon,timezone,isp,as",
                &[
                    ("country", "/country"),
                    ("country_code", "/countryCode"),
                    ("region", "/regionName"),
                    ("city", "/city"),
                    ("postal_code", "/zip"),
                    ("latitude", "/lat"),
                    ("longitude", "/lon"),
                    ("timezone", "/timezone"),
                    ("asn", "/as"),
                    ("isp", "/isp"),
                ],
                ("/status", Value::from("fail")),
                Some(45),
            ),
            Self::Ipinfo => (
                "https://ipinfo.io/{ip}/json",
                &[
                    ("country_code", "/country"),
                    ("region", "/region"),
                    ("city", "/city"),
                    ("postal_code", "/postal"),
                    ("latitude", "/loc"),
                    ("longitude", "/loc"),
                    ("timezone", "/timezone"),
                    ("asn", "/org"),
                    ("isp", "/org"),
                ],
                ("/bogon", Value::from(true)),
                None,
            ),
            Self::Ipapi => (
                "https://ipapi.co/{ip}/json/",
                &[
                    ("country", "/country_name"),
                    ("country_code", "/country_code"),
                    ("region", "/region"),
                    ("city", "/city"),
                    ("postal_code", "/postal"),
                    ("latitude", "/latitude"),
                    ("longitude", "/longitude"),
                    ("timezone", "/timezone"),
                    ("asn", "/asn"),
                    ("isp", "/org"),
                ],
                ("/error", Value::from(true)),
                None,
            ),
        };
        GeoHttpConfig {
            url: Some(url.to_owned()),
            fields: fields.iter().map(|(name, pointer)| ((*name).to_owned(), (*pointer).to_owned())).collect(),
            unknown: BTreeMap::from([(pointer.to_owned(), value)]),
            per_minute,
            ..GeoHttpConfig::default()
        }
    }
}
