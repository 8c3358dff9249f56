//! Outgoing mail: addresses, templates, messages and transports.
//!
//! Mail goes to a server (`smtp.rs`), or to a folder of `.eml` files if no server is configured (`outbox.rs`). A new
//! transport is one more file beside them and one more variant of `MailTransport`.

mod address;
mod bounces;
pub mod codes;
mod config;
mod content;
mod custom_header;
mod dkim;
mod domain_rate;
mod fields;
mod header_encoding;
mod inline_css;
mod message;
mod mime_parts;
mod outbox;
mod pictures;
mod plain_text;
mod smtp;
mod suppressions;
mod template_source;
mod templates;
mod turns;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

pub use address::MailAddress;
pub use bounces::{
    BounceKind, BounceReport, ParsedBounces, SnsConfirmation, is_topic_validation, parse_provider_report,
    parse_report_message,
};
pub use config::{DkimConfig, MailConfig, MailLimits, SmtpConfig, SmtpTls};
pub use content::MailContent;
pub use custom_header::CustomHeader;
pub use fields::{TextFields, check_address, check_sender, check_text, is_deferral_error, is_recipient_error};
pub use message::{MessageId, OutgoingMail};
pub use mime_parts::MailAttachment;
pub use pictures::{find_content_ids, is_content_id};
pub use suppressions::{SuppressionList, is_list_name};
pub use turns::{GrantedTurns, HeldTurn, MAX_TURN_LEAD_MS, MailTurn, MailTurns, RateSlots, TurnRequest};

use afterload_core::clock::Clock;
use afterload_core::error::{Error, Result};
use afterload_core::units::ByteSize;
use afterload_metrics::Metrics;
use dkim::DkimSigner;
use domain_rate::DomainRates;
use outbox::MailOutbox;
use smtp::SmtpClient;
use templates::MailTemplates;

/// Renders and sends mails. Cheap to clone.
#[derive(Clone)]
pub struct Mailer {
    inner: Arc<MailerState>,
    clock: Clock,
    metrics: Metrics,
    /// The rate slots that all processes share; `None`: mail is not rate limited.
    slots: Option<Arc<dyn RateSlots>>,
    /// The suppressed addresses; `None`: every address receives mails.
    suppressions: Option<Arc<dyn SuppressionList>>,
}

/// The options of the mailer. The binary creates them from the configuration file.
#[derive(Clone, Debug)]
pub struct MailerOptions {
    /// The mail settings.
    pub mail: MailConfig,
    /// The size limits of mails.
    pub limits: MailLimits,
    /// The folder of the mail templates.
    pub templates: PathBuf,
    /// The folder that receives `.eml` files if no server is configured.
    pub outbox: PathBuf,
}

struct MailerState {
    default_sender: MailAddress,
    templates: MailTemplates,
    transport: MailTransport,
    dkim: Option<DkimSigner>,
    smtputf8: bool,
    domain_rates: DomainRates,
    max_attachments_size: ByteSize,
    retry_delays: Vec<Duration>,
}

enum MailTransport {
    Outbox(MailOutbox),
    Smtp(Box<SmtpClient>),
}

/// Why a mail was not sent, or may not have been.
#[derive(Debug)]
pub enum MailSendError {
    /// It was certainly not sent, so it can be sent again.
    NotSent(Error),
    /// The reply was lost; the mail may have been sent.
    Unknown(Error),
}

impl Mailer {
    /// Creates a mailer. It connects to nothing yet.
    ///
    /// # Errors
    /// `mail_invalid_sender` if `mail.from` is not an address, `mail_tls_failed` if `mail.smtp.ca` cannot be read,
    /// `mail_dkim_invalid` if the key of `mail.dkim` cannot be used.
    pub fn new(options: &MailerOptions, clock: Clock) -> Result<Self> {
        let config = &options.mail;
        let from = MailAddress::parse_any_sender(&config.from, config.smtputf8)
            .map_err(|error| error.context("`mail.from`"))?;
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
            dkim: config.dkim.as_ref().map(DkimSigner::new).transpose()?,
            smtputf8: config.smtputf8,
            domain_rates: pace,
            max_attachments_size: attachments,
            retry_delays: config.retry_delays.iter().map(|delay| delay.0).collect(),
        });
        Ok(Self { inner, clock, metrics: Metrics::default(), slots: None, suppressions: None })
    }

    /// Counts mails in `metrics` and shares the rate limits with all processes that use `slots`.
    pub fn with_shared(self, metrics: Metrics, slots: Arc<dyn RateSlots>) -> Self {
        Self { metrics, slots: Some(slots), ..self }
    }

    /// Asks `suppressions` who receives no mails, and for the links by which recipients unsubscribe.
    pub fn with_suppressions(self, suppressions: Arc<dyn SuppressionList>) -> Self {
        Self { suppressions: Some(suppressions), ..self }
    }

    /// Returns the mailbox keys of those recipients that receive no mails of `list`; without a list, of those that
    /// receive none at all.
    ///
    /// # Errors
    /// The suppressions cannot be read.
    pub async fn find_suppressed(&self, list: Option<&str>, recipients: &[MailAddress]) -> Result<BTreeSet<String>> {
        let Some(suppressions) = &self.suppressions else { return Ok(BTreeSet::new()) };
        let addresses: Vec<String> = recipients.iter().map(MailAddress::mailbox_key).collect();
        suppressions.find_suppressed(list, &addresses).await
    }

    /// Creates the links by which the recipients unsubscribe from `list`, by mailbox key.
    ///
    /// # Errors
    /// `mail_unsubscribe_unavailable`
    pub async fn create_unsubscribe_urls(
        &self,
        list: &str,
        run: &str,
        recipients: &[MailAddress],
    ) -> Result<BTreeMap<String, String>> {
        let Some(suppressions) = &self.suppressions else {
            return Err(Error::new(codes::MAIL_UNSUBSCRIBE_UNAVAILABLE, "nobody records who unsubscribes"));
        };
        let addresses: Vec<String> = recipients.iter().map(MailAddress::mailbox_key).collect();
        suppressions.create_unsubscribe_urls(list, run, &addresses).await
    }

    /// Counts a mail that was not sent because its recipient is suppressed.
    pub fn count_suppressed(&self) {
        self.metrics.count_mail("suppressed");
    }

    /// The sender for steps that name none.
    pub fn default_sender(&self) -> &MailAddress {
        &self.inner.default_sender
    }

    /// Parses the address of a recipient. `mail.smtputf8` says whether other letters than ASCII can stand before the `@`.
    ///
    /// # Errors
    /// `mail_invalid_recipient`
    pub fn parse_recipient(&self, text: &str) -> Result<MailAddress> {
        MailAddress::parse_any_recipient(text, self.inner.smtputf8)
    }

    /// Parses the address of a sender, as [`Self::parse_recipient`].
    ///
    /// # Errors
    /// `mail_invalid_sender`
    pub fn parse_sender(&self, text: &str) -> Result<MailAddress> {
        MailAddress::parse_any_sender(text, self.inner.smtputf8)
    }

    /// Compiles all templates, those of the configured folder and the built-in ones. Returns the names of the usable ones,
    /// and the unusable ones, each with the reason.
    pub fn check_templates(&self) -> (BTreeSet<String>, BTreeMap<String, String>) {
        let (mut usable, mut broken) = (BTreeSet::new(), BTreeMap::new());
        for (name, fault) in self.inner.templates.list_templates() {
            if let Some(fault) = fault {
                broken.insert(name, fault);
            } else {
                usable.insert(name);
            }
        }
        (usable, broken)
    }

    /// Renders a template. `subject` replaces the template's own subject.
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

    /// The variables of a template's preview, from its `preview.yaml`; empty without one.
    ///
    /// # Errors
    /// `mail_template_invalid` with the file and line.
    pub fn preview_vars(&self, template: &str) -> Result<Map<String, Value>> {
        self.inner.templates.preview_vars(template)
    }

    /// The maximum total size of the attachments of a mail.
    pub fn attachment_limit(&self) -> ByteSize {
        self.inner.max_attachments_size
    }

    /// The pauses before a deferred mail is tried again.
    pub fn retry_delays(&self) -> &[Duration] {
        &self.inner.retry_delays
    }

    /// True if mail for some recipients is rate limited.
    pub fn has_rate_limits(&self) -> bool {
        self.slots.is_some() && !self.inner.domain_rates.is_empty()
    }

    /// True if mail for this recipient is rate limited.
    pub fn is_rate_limited(&self, recipient: &MailAddress) -> bool {
        self.slots.is_some() && self.inner.domain_rates.rate_for(recipient).is_some()
    }

    /// Sends `mail` to one of its recipients. The outbox replaces an earlier mail with the same `id`; with SMTP the
    /// receiver gets the same Message-ID twice.
    ///
    /// # Errors
    /// The error states whether the mail may have been sent nevertheless.
    pub async fn send(
        &self,
        mail: &OutgoingMail,
        recipient: &MailAddress,
        id: &MessageId,
    ) -> Result<(), MailSendError> {
        let now = self.clock.now();
        let message = mail.build_message(recipient, id, now).map_err(MailSendError::NotSent)?;
        let mut bytes = message.formatted();
        if let Some(dkim) = &self.inner.dkim {
            bytes = dkim.sign_message(&bytes, now).map_err(MailSendError::NotSent)?;
        }
        let handed = match &self.inner.transport {
            MailTransport::Outbox(outbox) => outbox.write_message(id, recipient, &bytes).await,
            MailTransport::Smtp(smtp) => {
                smtp.send_message(message.envelope(), &bytes, mail.needs_smtputf8(recipient)).await
            }
        };
        self.metrics.count_mail(match &handed {
            Ok(()) => "sent",
            Err(MailSendError::NotSent(_)) => "failed",
            Err(MailSendError::Unknown(_)) => "uncertain",
        });
        handed
    }
}

/// Makes one line without control characters, as a header needs. CR, LF and NUL could start another header (or make
/// `lettre` panic), so they become spaces like all white space.
fn to_single_line(text: &str) -> String {
    let words = text.split(|c: char| c.is_control() || c.is_whitespace()).filter(|word| !word.is_empty());
    words.collect::<Vec<_>>().join(" ")
}
