//! The settings of outgoing mail.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::secret::Secret;
use afterload_core::units::{ByteSize, HumanDuration};

/// How mail leaves.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MailConfig {
    /// The folder that receives `.eml` files; default `data/outbox`.
    pub outbox: Option<PathBuf>,
    /// The sender where a step names none.
    pub from: String,
    /// The server that takes our mail; without one, mail goes into the outbox.
    pub smtp: Option<SmtpConfig>,
    /// How many mails may leave in a minute, in all processes together, for the people of a domain: `gmail.com: 60`; `*`
    /// stands for each domain that is not named. What has to wait does so in its step, and holds up what the step would send
    /// after it; a step with many mails for such a domain needs a `timeout` to match.
    pub per_minute: BTreeMap<String, u32>,
}

impl MailConfig {
    /// The key in `per_minute` for all other domains.
    pub const OTHERS: &str = "*";
}

impl Default for MailConfig {
    fn default() -> Self {
        let from = "afterload <afterload@localhost>".into();
        Self { outbox: None, from, smtp: None, per_minute: BTreeMap::new() }
    }
}

/// A server that takes our mail.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// Its name, the same as in its certificate.
    pub host: String,
    /// Its port; default 587, with `tls: implicit` 465, with `tls: none` 25.
    #[serde(default)]
    pub port: Option<u16>,
    /// How the connection is protected.
    #[serde(default)]
    pub tls: SmtpTls,
    /// Who we are to the server.
    #[serde(default)]
    pub user: Option<String>,
    /// The password that goes with it.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file with certificates in PEM form that are trusted beside those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// How long each exchange with the server may take; default `60s`.
    #[serde(default = "default_smtp_timeout")]
    pub timeout: HumanDuration,
    /// Connections at the same time; default 4.
    #[serde(default = "default_smtp_connections")]
    #[schemars(range(min = 1, max = 100))]
    pub connections: usize,
}

impl SmtpConfig {
    /// The configured port, or the default port of the TLS mode.
    pub fn effective_port(&self) -> u16 {
        self.port.unwrap_or(match self.tls {
            SmtpTls::None => 25,
            SmtpTls::Starttls => 587,
            SmtpTls::Implicit => 465,
        })
    }
}

fn default_smtp_timeout() -> HumanDuration {
    HumanDuration(std::time::Duration::from_secs(60))
}

fn default_smtp_connections() -> usize {
    4
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum SmtpTls {
    /// TLS after a greeting in the clear; a server that does not offer it gets no mail.
    #[default]
    Starttls,
    /// TLS from the start.
    Implicit,
    /// None at all; only for a server on this machine or on a network of its own.
    None,
}

/// Limits on mails, because servers refuse large ones, and each is held in memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MailLimits {
    /// How large the attachments of a mail may be together; default `10mb`. On their way they grow by a third.
    pub attachments: ByteSize,
}

impl Default for MailLimits {
    fn default() -> Self {
        Self { attachments: ByteSize(10 << 20) }
    }
}
