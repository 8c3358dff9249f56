//! The settings of outgoing mail.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use afterload_core::secret::Secret;
use afterload_core::units::{ByteSize, HumanDuration};

/// Outgoing mail.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MailConfig {
    /// The folder that receives `.eml` files; default `data/outbox`.
    pub outbox: Option<PathBuf>,
    /// The default sender.
    pub from: String,
    /// The SMTP server; without one, mail goes into the outbox.
    pub smtp: Option<SmtpConfig>,
    /// The maximum number of mails per minute to a domain, in all processes together: `gmail.com: 60`; `*` is every
    /// other domain. A step that waits holds no worker, and its `timeout` does not run: for up to a second it waits in
    /// memory, for longer it is suspended.
    pub per_minute: BTreeMap<String, u32>,
    /// The pauses before a deferred mail is tried again; default `[1m, 5m, 15m, 1h, 2h, 4h, 4h, 4h, 4h, 4h]`, about a
    /// day. The step is suspended meanwhile. A step with its own `retry` follows that instead.
    pub retry_delays: Vec<HumanDuration>,
    /// The DKIM signature of each mail; without it, mails are not signed.
    pub dkim: Option<DkimConfig>,
    /// Whether addresses may have letters outside ASCII before the `@`; default false. Such a mail is sent only if the
    /// SMTP server offers SMTPUTF8.
    pub smtputf8: bool,
}

impl MailConfig {
    /// The key in `per_minute` for all other domains.
    pub const OTHERS: &str = "*";
}

impl Default for MailConfig {
    fn default() -> Self {
        let from = "afterload <afterload@localhost>".into();
        Self {
            outbox: None,
            from,
            smtp: None,
            per_minute: BTreeMap::new(),
            retry_delays: default_retry_delays(),
            dkim: None,
            smtputf8: false,
        }
    }
}

/// Servers that greylist accept a mail after some minutes; outages may last for hours.
fn default_retry_delays() -> Vec<HumanDuration> {
    const MINUTES: [u64; 10] = [1, 5, 15, 60, 120, 240, 240, 240, 240, 240];
    MINUTES.map(|minutes| HumanDuration(std::time::Duration::from_secs(60 * minutes))).into()
}

/// The DKIM signature of mails.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DkimConfig {
    /// The selector: the public key is the TXT record of `SELECTOR._domainkey.DOMAIN`.
    pub selector: String,
    /// The domain that answers for the mails, such as `example.com`. DMARC expects the domain of the sender, or one above it.
    pub domain: String,
    /// The file with the private key in PEM form (PKCS #8): RSA with 2048 to 4096 bits, or Ed25519.
    pub key_file: PathBuf,
}

impl DkimConfig {
    /// The domain as DNS knows it; `None` if it is none.
    pub fn ascii_domain(&self) -> Option<String> {
        match url::Host::parse(&self.domain) {
            Ok(url::Host::Domain(domain)) if is_dns_name(&domain) => Some(domain),
            _ => None,
        }
    }

    /// True if DNS can have a record for the selector.
    pub fn has_valid_selector(&self) -> bool {
        is_dns_name(&self.selector)
    }
}

/// True for labels of letters, digits, `-` and `_` with dots between them.
fn is_dns_name(name: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
    };
    name.len() <= 200 && name.split('.').all(is_label)
}

/// An SMTP server.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct SmtpConfig {
    /// The host name, the same as in its certificate.
    pub host: String,
    /// The port; default 587, with `tls: implicit` 465, with `tls: none` 25.
    #[serde(default)]
    pub port: Option<u16>,
    /// How the connection is protected.
    #[serde(default)]
    pub tls: SmtpTls,
    /// The user name.
    #[serde(default)]
    pub user: Option<String>,
    /// The password.
    #[serde(default)]
    pub password: Option<Secret>,
    /// A file with certificates in PEM form that are trusted in addition to those of the system.
    #[serde(default)]
    pub ca: Option<PathBuf>,
    /// The timeout of each exchange with the server; default `60s`.
    #[serde(default = "default_smtp_timeout")]
    pub timeout: HumanDuration,
    /// The maximum number of connections; default 4.
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
    /// STARTTLS; a server that does not offer it gets no mail.
    #[default]
    Starttls,
    /// TLS from the start of the connection.
    Implicit,
    /// No encryption; only for a server on this machine or in a private network.
    None,
}

/// Limits on mails. Servers reject large ones, and each mail is held in memory.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MailLimits {
    /// The maximum total size of the attachments of a mail; default `10mb`. Encoding enlarges them by a third.
    pub attachments: ByteSize,
}

impl Default for MailLimits {
    fn default() -> Self {
        Self { attachments: ByteSize(10 << 20) }
    }
}
