//! Outgoing mail: addresses, templates, messages, and the ways out.
//!
//! Mail leaves through a server (`smtp.rs`), or into a folder of `.eml` files where none is configured (`outbox.rs`).
//! Another way out is one more file beside them and one more arm of `Transport`.

mod address;
pub mod codes;
mod config;
mod domain_rate;
mod fields;
mod inline_css;
mod message;
mod outbox;
mod plain_text;
mod smtp;
mod templates;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use futures::future::BoxFuture;
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

pub use address::MailAddress;
pub use config::{MailConfig, MailLimits, SmtpConfig, SmtpTls};
pub use fields::{check_address, check_sender, check_text, is_recipient_error};
pub use message::{MailAttachment, MailContent, MessageId, OutgoingMail};

use afterload_core::clock::{self, UnixMillis};
use afterload_core::error::{Error, Result};
use afterload_core::units::ByteSize;
use afterload_metrics::Metrics;
use domain_rate::DomainRates;
use outbox::MailOutbox;
use smtp::SmtpClient;
use templates::MailTemplates;

/// The way out for mail. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    inner: Arc<MailerState>,
    metrics: Metrics,
    /// Spaces mails to a domain over all processes; `None`: no domain is paced.
    slots: Option<Arc<dyn RateSlots>>,
}

/// What the mailer needs to know. The binary makes it from the configuration file.
#[derive(Clone, Debug)]
pub struct MailerOptions {
    /// How mail leaves.
    pub mail: MailConfig,
    /// How large mails may be.
    pub limits: MailLimits,
    /// The folder of the mail templates.
    pub templates: PathBuf,
    /// The folder that receives `.eml` files where no server is configured.
    pub outbox: PathBuf,
}

/// Gives out moments of a key that all processes share, such as a row of a database.
pub trait RateSlots: Send + Sync {
    /// Takes the next free moment of `key`, now or later; the one after it is free `interval` milliseconds later.
    fn take_slot<'a>(&'a self, key: &'a str, interval: i64) -> BoxFuture<'a, Result<UnixMillis>>;
}

struct MailerState {
    default_sender: MailAddress,
    templates: MailTemplates,
    transport: MailTransport,
    domain_rates: DomainRates,
    max_attachments_size: ByteSize,
}

enum MailTransport {
    Outbox(MailOutbox),
    Smtp(Box<SmtpClient>),
}

/// A mail that was not, or perhaps not, handed over.
#[derive(Debug)]
pub enum MailSendError {
    /// It certainly did not leave; it may be tried again freely.
    NotSent(Error),
    /// The answer was lost; it may have left.
    Unknown(Error),
}

impl Mailer {
    /// The mailer that `options` ask for. Sends nothing yet.
    ///
    /// # Errors
    /// `mail_invalid_sender` if `mail.from` is not an address, `mail_tls_failed` if `mail.smtp.ca` cannot be read.
    pub fn new(options: &MailerOptions) -> Result<Self> {
        let config = &options.mail;
        let from = MailAddress::parse_sender(&config.from).map_err(|error| error.context("`mail.from`"))?;
        let templates = MailTemplates::new(options.templates.clone());
        let transport = match &config.smtp {
            Some(smtp) => MailTransport::Smtp(Box::new(SmtpClient::new(smtp)?)),
            None => MailTransport::Outbox(MailOutbox::new(options.outbox.clone())),
        };
        let (pace, attachments) = (DomainRates::new(config), options.limits.attachments);
        let inner = Arc::new(MailerState {
            default_sender: from,
            templates,
            transport,
            domain_rates: pace,
            max_attachments_size: attachments,
        });
        Ok(Self { inner, metrics: Metrics::default(), slots: None })
    }

    /// The same, counted by `metrics`, and paced over all processes that share `slots`.
    pub fn with_shared(self, metrics: Metrics, slots: Arc<dyn RateSlots>) -> Self {
        Self { metrics, slots: Some(slots), ..self }
    }

    /// The sender where a step names none.
    pub fn default_sender(&self) -> &MailAddress {
        &self.inner.default_sender
    }

    /// The names of the templates that can be used, those of the configured folder and those that ship.
    pub fn template_names(&self) -> BTreeSet<String> {
        self.inner
            .templates
            .list_templates()
            .into_iter()
            .filter(|(_, fault)| fault.is_none())
            .map(|(name, _)| name)
            .collect()
    }

    /// The templates that cannot be used, each with the reason.
    pub fn broken_templates(&self) -> BTreeMap<String, String> {
        self.inner.templates.list_templates().into_iter().filter_map(|(name, fault)| Some((name, fault?))).collect()
    }

    /// Fills in a template. A `subject` takes the place of the template's own.
    ///
    /// # Errors
    /// `mail_template_not_found`; `mail_template_invalid` with the file and line.
    pub fn render_template(
        &self,
        template: &str,
        subject: Option<String>,
        vars: Map<String, Value>,
    ) -> Result<MailContent> {
        self.inner.templates.render_template(template, subject, vars)
    }

    /// What a preview of a template fills in, from the `preview.yaml` beside its bodies; nothing without one.
    ///
    /// # Errors
    /// `mail_template_invalid` with the file and line.
    pub fn preview_vars(&self, template: &str) -> Result<Map<String, Value>> {
        self.inner.templates.preview_vars(template)
    }

    /// How large the attachments of a mail may be together.
    pub fn attachment_limit(&self) -> ByteSize {
        self.inner.max_attachments_size
    }

    /// Whether mail for this recipient has to wait for its turn.
    pub fn is_rate_limited(&self, recipient: &MailAddress) -> bool {
        self.slots.is_some() && self.inner.domain_rates.rate_for(recipient).is_some()
    }

    /// Waits until a mail may leave for this recipient, as often as `mail.per_minute` allows.
    ///
    /// # Errors
    /// `step_stopped` once `stop` has been cancelled, and those of the database.
    pub async fn wait_turn(&self, recipient: &MailAddress, stop: &CancellationToken) -> Result<()> {
        match (&self.slots, self.inner.domain_rates.rate_for(recipient)) {
            (Some(slots), Some(lane)) => lane.wait_turn(slots.as_ref(), stop).await,
            _ => Ok(()),
        }
    }

    /// Hands `mail` over for one of its recipients. The same `id` again replaces what was handed over before, where the way
    /// out can do that; elsewhere the receiving side sees the same Message-ID twice.
    ///
    /// # Errors
    /// Whether the mail may have left all the same.
    pub async fn send(
        &self,
        mail: &OutgoingMail,
        recipient: &MailAddress,
        id: &MessageId,
    ) -> Result<(), MailSendError> {
        let message = mail.build_message(recipient, id, clock::now_millis()).map_err(MailSendError::NotSent)?;
        let handed = match &self.inner.transport {
            MailTransport::Outbox(outbox) => outbox.write_message(id, recipient, &message.formatted()).await,
            MailTransport::Smtp(smtp) => smtp.send_message(message.envelope(), &message.formatted()).await,
        };
        self.metrics.count_mail(match &handed {
            Ok(()) => "sent",
            Err(MailSendError::NotSent(_)) => "failed",
            Err(MailSendError::Unknown(_)) => "uncertain",
        });
        handed
    }
}

/// One line without control characters: what may stand in a header. CR, LF and NUL would begin a header of the sender's
/// choice (or make `lettre` panic), so they become spaces like all white space.
fn to_single_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}
