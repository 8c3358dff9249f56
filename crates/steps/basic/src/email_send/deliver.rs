//! Sends one copy per recipient. The effect log records the start and the end of each copy.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{EmailSend, EmailSendOutputs, MailAddresses, MailLinks, OnUncertain};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::units;
use afterload_mailer::{
    MailAddress, MailAttachment, MailContent, MailSendError, Mailer, MessageId, OutgoingMail, is_recipient_error,
};
use afterload_pipeline::Templated;
use afterload_step_api::{
    EffectRecorder, EffectState, FileLinks, FileVerifier, ProgressCounts, ProgressReporter, ProgressUpdate, RunInfo,
};

/// Every copy lists all recipients in `To` and `Cc`. Larger audiences use `notify.fanout`.
const MAX_RECIPIENTS: usize = 100;

const DEFAULT_LINK_LIFETIME: Duration = Duration::from_secs(7 * 86_400);
const MAX_LINK_LIFETIME: Duration = Duration::from_secs(3650 * 86_400);
pub(super) const LINK_LIFETIME_ERROR: &str = "`expires` must be from `1m` to `3650d`";
pub(super) const LINK_LIFETIME_HINT: &str = "write a duration such as `7d`";

pub(super) fn check_link_lifetime(said: units::HumanDuration) -> Result<Duration> {
    let fits = (Duration::from_secs(60)..=MAX_LINK_LIFETIME).contains(&said.0);
    if fits {
        Ok(said.0)
    } else {
        Err(Error::new(codes::WITH_INVALID, LINK_LIFETIME_ERROR).with_hint(LINK_LIFETIME_HINT))
    }
}

/// The parts of the step context that sending needs.
pub(super) struct MailJob<'a> {
    pub mailer: &'a Mailer,
    pub run: &'a RunInfo,
    pub verifier: &'a FileVerifier,
    pub links: &'a dyn FileLinks,
    pub key: &'a str,
    pub effects: &'a dyn EffectRecorder,
    pub progress: &'a ProgressReporter,
    pub stop: &'a CancellationToken,
}

impl MailJob<'_> {
    pub(super) async fn send_mail(
        &self,
        step: EmailSend,
        attachments: Vec<MailAttachment>,
    ) -> Result<EmailSendOutputs> {
        let (to, cc) = (parse_addresses(step.to)?, parse_addresses(step.cc)?);
        let recipients = unique_recipients(to.iter().chain(&cc).chain(&parse_addresses(step.bcc)?));
        let lives = step
            .expires
            .map(Templated::into_value)
            .transpose()?
            .map_or(Ok(DEFAULT_LINK_LIFETIME), check_link_lifetime)?;
        let links = self.create_links(step.links, lives).await?;
        let mail = OutgoingMail {
            from: match step.from {
                Some(from) => MailAddress::parse_sender(&from.into_value()?)?,
                None => self.mailer.default_sender().clone(),
            },
            reply_to: step.reply_to.map(|text| MailAddress::parse_recipient(&text.into_value()?)).transpose()?,
            to,
            cc,
            content: self.build_content(step.template, step.body, step.subject, step.vars, links)?,
            attachments,
            run: self.run.id.clone(),
        };
        if recipients.is_empty() || recipients.len() > MAX_RECIPIENTS {
            let message = format!("the mail has {} recipients; expected 1 to {MAX_RECIPIENTS}", recipients.len());
            return Err(Error::new(codes::MAIL_RECIPIENT_COUNT, message));
        }
        let (mut message_ids, mut failed) = (Vec::with_capacity(recipients.len()), Vec::new());
        for recipient in &recipients {
            if self.stop.is_cancelled() {
                return Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop"));
            }
            let id = MessageId::for_recipient(self.key, recipient, &mail.from);
            match self.send_copy(&mail, recipient, &id, step.on_uncertain).await {
                Ok(()) => message_ids.push(id.to_string()),
                // An error of one recipient must not keep the mail from the others.
                Err(error) if is_recipient_error(&error) => {
                    failed.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.progress.report_committed(ProgressUpdate {
                done: message_ids.len() as u64,
                total: Some(recipients.len() as u64),
                unit: "mails".into(),
                message: None,
                counts: ProgressCounts::new(),
            });
        }
        match failed.iter().position(Error::is_transient) {
            Some(first) => Err(failed.swap_remove(first)),
            None if failed.is_empty() => Ok(EmailSendOutputs { sent: message_ids.len() as u64, message_ids }),
            None => Err(refused_error(failed, recipients.len())),
        }
    }

    /// Sends one copy, unless the effect log shows that an earlier attempt sent it.
    async fn send_copy(
        &self,
        mail: &OutgoingMail,
        recipient: &MailAddress,
        id: &MessageId,
        on_uncertain: OnUncertain,
    ) -> Result<()> {
        let key = format!("mail:{}", recipient.mailbox_key());
        // Wait before the effect begins, because a stop while waiting must not leave it uncertain. A copy that is
        // already sent takes no slot.
        if self.mailer.is_rate_limited(recipient)
            && !matches!(self.effects.effect_state(&key).await?, EffectState::Done(_))
        {
            self.mailer.wait_turn(recipient, self.stop).await?;
        }
        match (self.effects.begin_effect(&key).await?, on_uncertain) {
            (EffectState::Done(_), _) => return Ok(()),
            (EffectState::Uncertain, OnUncertain::Hold) => {
                let message = format!("nobody knows whether the mail `{id}` to `{recipient}` has left");
                return Err(Error::new(codes::MAIL_UNCERTAIN, message));
            }
            (EffectState::New, _) | (EffectState::Uncertain, OnUncertain::Resend) => {}
        }
        match self.mailer.send(mail, recipient, id).await {
            Ok(()) => self.effects.mark_done(&key, json!({ "message_id": id.to_string() })).await,
            Err(MailSendError::NotSent(error)) => {
                self.effects.mark_not_done(&key).await?;
                Err(error)
            }
            Err(MailSendError::Unknown(error)) => Err(error),
        }
    }

    fn build_content(
        &self,
        template: Option<String>,
        body: Option<Templated<String>>,
        subject: Option<Templated<String>>,
        mut vars: Map<String, Value>,
        links: Vec<(String, String)>,
    ) -> Result<MailContent> {
        let subject = subject.map(Templated::into_value).transpose()?;
        let (Some(template), None) = (template, &body) else {
            let body = body.ok_or_else(|| Error::new(codes::WITH_INVALID, "the mail has no text"))?;
            let lines = links.iter().map(|(label, url)| format!("\n\n{label}: {url}")).collect::<String>();
            let text = format!("{}{lines}\n", body.into_value()?.trim_end());
            return Ok(MailContent { subject: subject.unwrap_or_default(), text, html: None });
        };
        let links = links.into_iter().map(|(label, url)| json!({ "label": label, "url": url })).collect::<Value>();
        vars.insert("links".into(), links);
        vars.insert("run".into(), json!(self.run));
        self.mailer.render_template(&template, subject, vars)
    }

    /// Returns the label and the URL of every file. Absent optional files are skipped.
    async fn create_links(&self, links: MailLinks, lives: Duration) -> Result<Vec<(String, String)>> {
        let mut addressed = Vec::new();
        for (label, file) in links.0 {
            let Some(file) = file.into_value()? else { continue };
            let file = self.verifier.verify_file(&file)?;
            let Some(url) = self.links.create_link(&file, lives).await? else {
                let message = format!("`{}` of link `{label}` cannot be linked", file.name);
                return Err(Error::new(codes::MAIL_LINK_IMPOSSIBLE, message));
            };
            addressed.push((label, url));
        }
        Ok(addressed)
    }
}

/// Combines the permanent errors of several recipients into one error.
fn refused_error(mut failed: Vec<Error>, recipients: usize) -> Error {
    let of_all = format!("{} of {recipients} recipients did not receive the mail", failed.len());
    let details =
        failed.iter().map(|error| json!({ "code": error.code().name(), "message": error.message() })).collect();
    let first = failed.swap_remove(0);
    if recipients == 1 { first } else { first.context(of_all).with_details(details) }
}

fn parse_addresses(field: Templated<MailAddresses>) -> Result<Vec<MailAddress>> {
    field.into_value()?.iter().map(MailAddress::parse_recipient).collect()
}

/// Removes duplicate mailboxes and keeps the order: a mailbox in `to` and `cc` gets one copy.
fn unique_recipients<'a>(addresses: impl Iterator<Item = &'a MailAddress>) -> Vec<MailAddress> {
    let mut seen = BTreeSet::new();
    addresses.filter(|address| seen.insert(address.mailbox_key())).cloned().collect()
}
