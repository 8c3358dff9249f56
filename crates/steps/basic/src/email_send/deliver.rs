//! Sends one copy per recipient. The effect log records the start and the end of each copy.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::tally::{MailTally, Refusals};
use super::unsubscribe::{PersonalMails, UnsubscribeRule};
use super::{EmailSend, MailAddresses, NamedFiles, OnUncertain};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_core::units;
use afterload_mailer::{
    CustomHeader, MailAddress, MailAttachment, MailContent, MailSendError, MailTurn, MailTurns, Mailer, MessageId,
    OutgoingMail, is_deferral_error, is_recipient_error,
};
use afterload_pipeline::Templated;
use afterload_step_api::{
    EffectRecorder, EffectState, FileLinks, FileVerifier, ProgressCounts, ProgressReporter, ProgressUpdate, RunInfo,
    StepWaits,
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
    pub first_attempt: bool,
    pub progress: &'a ProgressReporter,
    pub turns: &'a MailTurns,
    pub waits: &'a StepWaits,
}

/// What became of a copy in this attempt.
enum CopyOutcome {
    Sent,
    /// Its turn comes at this time, in another attempt.
    Waits(UnixMillis),
}

impl MailJob<'_> {
    pub(super) async fn send_mail(&self, step: EmailSend, attachments: Vec<MailAttachment>) -> Result<MailTally> {
        let [to, cc, bcc] = [step.to, step.cc, step.bcc].map(|field| self.parse_addresses(field));
        let (to, cc) = (to?, cc?);
        let recipients = unique_recipients(to.iter().chain(&cc).chain(&bcc?));
        let lives = step
            .expires
            .map(Templated::into_value)
            .transpose()?
            .map_or(Ok(DEFAULT_LINK_LIFETIME), check_link_lifetime)?;
        let links = self.create_links(step.links, lives).await?;
        let rule = UnsubscribeRule::from_field(step.unsubscribe, &self.run.pipeline)?;
        let render = |unsubscribe_url: Option<&str>| -> Result<MailContent> {
            let Some(template) = &step.template else {
                return build_content(step.subject.clone(), step.body.clone(), step.html.clone(), &links);
            };
            let mut vars = step.vars.clone();
            vars.insert("unsubscribe_url".into(), json!(unsubscribe_url));
            self.render_template(template, step.subject.clone(), vars, links.clone())
        };
        let mut mail = OutgoingMail {
            from: match step.from {
                Some(from) => self.mailer.parse_sender(&from.into_value()?)?,
                None => self.mailer.default_sender().clone(),
            },
            reply_to: step.reply_to.map(|text| self.mailer.parse_recipient(&text.into_value()?)).transpose()?,
            to,
            cc,
            // With links, each mail is rendered again. This one finds a broken template before any mail leaves.
            content: render(rule.as_ref().map(|_| ""))?,
            headers: parse_headers(step.headers)?,
            attachments,
            run: self.run.id.clone(),
        };
        // Values of the run may name any picture. They must not keep the mail from its recipients.
        mail.attach_unshown_pictures();
        if recipients.is_empty() || recipients.len() > MAX_RECIPIENTS {
            let message = format!("the mail has {} recipients; expected 1 to {MAX_RECIPIENTS}", recipients.len());
            return Err(Error::new(codes::MAIL_RECIPIENT_COUNT, message));
        }
        let list = rule.as_ref().map(|rule| rule.list.as_str());
        let suppressed = self.mailer.find_suppressed(list, &recipients).await?;
        let Some(rule) = &rule else {
            return self.send_copies(&mail, &recipients, step.on_uncertain, &suppressed, None).await;
        };
        let has_template = step.template.is_some();
        let render_own = |url: &str| -> Result<MailContent> {
            let content = render(Some(url))?;
            Ok(if has_template { content } else { rule.add_footer(content, url) })
        };
        let open: Vec<MailAddress> =
            recipients.iter().filter(|recipient| !suppressed.contains(&recipient.mailbox_key())).cloned().collect();
        let urls = self.mailer.create_unsubscribe_urls(&rule.list, &self.run.id, &open).await?;
        let personal = PersonalMails { urls, render: &render_own };
        self.send_copies(&mail, &recipients, step.on_uncertain, &suppressed, Some(&personal)).await
    }

    /// Sends the copies that are still missing. A recipient must not keep the mail from the others.
    async fn send_copies(
        &self,
        mail: &OutgoingMail,
        recipients: &[MailAddress],
        on_uncertain: OnUncertain,
        suppressed: &BTreeSet<String>,
        personal: Option<&PersonalMails<'_>>,
    ) -> Result<MailTally> {
        let mut refusals = Refusals::load(self.effects, self.first_attempt).await?;
        let (mut tally, mut unavailable) = (MailTally::default(), None);
        for (index, recipient) in recipients.iter().enumerate() {
            if self.waits.stop.is_cancelled() {
                return Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop"));
            }
            let id = MessageId::for_recipient(self.key, recipient, &mail.from);
            if let Some(error) = refusals.find_refusal(recipient) {
                tally.add_failed(recipient, error);
                continue;
            }
            if suppressed.contains(&recipient.mailbox_key()) {
                self.skip_copy(recipient, id, &mut tally).await?;
                self.report_progress(&tally, recipients.len());
                continue;
            }
            let own = personal.map(|personal| personal.write_for(recipient, mail)).transpose()?;
            let sent = match &unavailable {
                None => {
                    let open = recipients[index..].iter().filter(|next| !suppressed.contains(&next.mailbox_key()));
                    let wanted = count_of_domain(recipient, open);
                    self.send_copy(own.as_ref().unwrap_or(mail), recipient, &id, on_uncertain, wanted).await
                }
                Some(error) => self.defer_copy(recipient, error).await,
            };
            match sent {
                Ok(CopyOutcome::Sent) => tally.add_accepted(recipient, id),
                Ok(CopyOutcome::Waits(until)) => tally.add_waiting(until),
                Err(error) if is_deferral_error(&error) => {
                    if error.code() == codes::MAIL_SERVER_UNAVAILABLE {
                        unavailable.get_or_insert_with(|| error.clone());
                    }
                    tally.add_deferred(recipient, error);
                }
                Err(error) if is_recipient_error(&error) => {
                    refusals.record_refusal(recipient, &error).await?;
                    tally.add_failed(recipient, error);
                }
                Err(error) => return Err(error),
            }
            self.report_progress(&tally, recipients.len());
        }
        // The next attempt is not the first one any more. After a retry by a person it must not find older refusals.
        if self.first_attempt && tally.is_unfinished() {
            refusals.store().await?;
        }
        Ok(tally)
    }

    fn report_progress(&self, tally: &MailTally, recipients: usize) {
        let suppressed = tally.suppressed_count();
        let counts = [("suppressed".to_owned(), suppressed)].into_iter().filter(|(_, count)| *count > 0);
        self.progress.report_committed(ProgressUpdate {
            done: tally.accepted_count() + suppressed,
            total: Some(recipients as u64),
            unit: "mails".into(),
            message: tally.first_deferral().map(|error| error.message().to_owned()),
            counts: counts.collect::<ProgressCounts>(),
        });
    }

    /// Sends nothing, because the recipient is suppressed. An earlier attempt may have sent this copy before that.
    async fn skip_copy(&self, recipient: &MailAddress, id: MessageId, tally: &mut MailTally) -> Result<()> {
        match self.effects.effect_state(&effect_key(recipient)).await? {
            EffectState::Done(_) => tally.add_accepted(recipient, id),
            EffectState::New | EffectState::Uncertain => {
                tally.add_suppressed(recipient);
                if self.first_attempt {
                    self.mailer.count_suppressed();
                }
            }
        }
        Ok(())
    }

    /// Asks the server nothing, because it cannot be reached. An earlier attempt may have sent this copy.
    async fn defer_copy(&self, recipient: &MailAddress, unavailable: &Error) -> Result<CopyOutcome> {
        match self.effects.effect_state(&effect_key(recipient)).await? {
            EffectState::Done(_) => Ok(CopyOutcome::Sent),
            EffectState::New | EffectState::Uncertain => Err(unavailable.clone()),
        }
    }

    /// Sends one copy, unless the effect log shows that an earlier attempt sent it. `wanted` is how many copies for its
    /// domain are left.
    async fn send_copy(
        &self,
        mail: &OutgoingMail,
        recipient: &MailAddress,
        id: &MessageId,
        on_uncertain: OnUncertain,
        wanted: usize,
    ) -> Result<CopyOutcome> {
        let key = effect_key(recipient);
        // Wait before the effect begins, because a stop while waiting must not leave it uncertain. A copy that is
        // already sent takes no turn.
        if self.mailer.is_rate_limited(recipient) {
            if let EffectState::Done(_) = self.effects.effect_state(&key).await? {
                return Ok(CopyOutcome::Sent);
            }
            if let Some(until) = self.wait_for_turn(recipient, wanted).await? {
                return Ok(CopyOutcome::Waits(until));
            }
        }
        match (self.effects.begin_effect(&key).await?, on_uncertain) {
            (EffectState::Done(_), _) => return Ok(CopyOutcome::Sent),
            (EffectState::Uncertain, OnUncertain::Hold) => {
                let message = format!("nobody knows whether the mail `{id}` to `{recipient}` has left");
                return Err(Error::new(codes::MAIL_UNCERTAIN, message));
            }
            (EffectState::New, _) | (EffectState::Uncertain, OnUncertain::Resend) => {}
        }
        match self.mailer.send(mail, recipient, id).await {
            Ok(()) => {
                self.effects.mark_done(&key, json!({ "message_id": id.to_string() })).await?;
                Ok(CopyOutcome::Sent)
            }
            Err(MailSendError::NotSent(error)) => {
                self.effects.mark_not_done(&key).await?;
                Err(error)
            }
            Err(MailSendError::Unknown(error)) => Err(error),
        }
    }

    /// Waits for the turn of a mail. `Some`: its turn comes at this time, in another attempt.
    async fn wait_for_turn(&self, recipient: &MailAddress, wanted: usize) -> Result<Option<UnixMillis>> {
        match self.turns.take_turn(recipient, wanted).await? {
            MailTurn::Unlimited => Ok(None),
            MailTurn::Later(time) => Ok(Some(time)),
            MailTurn::At(turn) => {
                let waited = self.waits.wait_until(turn.time()).await?;
                Ok((!waited).then_some(turn.time()))
            }
        }
    }

    fn render_template(
        &self,
        template: &str,
        subject: Option<Templated<String>>,
        mut vars: Map<String, Value>,
        links: Vec<(String, String)>,
    ) -> Result<MailContent> {
        let links = links.into_iter().map(|(label, url)| json!({ "label": label, "url": url })).collect::<Value>();
        vars.insert("links".into(), links);
        vars.insert("run".into(), json!(self.run));
        self.mailer.render_template(template, subject.map(Templated::into_value).transpose()?, vars)
    }

    fn parse_addresses(&self, field: Templated<MailAddresses>) -> Result<Vec<MailAddress>> {
        field.into_value()?.iter().map(|text| self.mailer.parse_recipient(text)).collect()
    }

    /// Returns the label and the URL of every file. Absent optional files are skipped.
    async fn create_links(&self, links: NamedFiles, lives: Duration) -> Result<Vec<(String, String)>> {
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

/// The content of a mail without a template.
fn build_content(
    subject: Option<Templated<String>>,
    body: Option<Templated<String>>,
    html: Option<Templated<String>>,
    links: &[(String, String)],
) -> Result<MailContent> {
    let text = |field: Option<Templated<String>>| field.map(Templated::into_value).transpose();
    let (subject, body, html) = (text(subject)?, text(body)?, text(html)?);
    if body.is_none() && html.is_none() {
        return Err(Error::new(codes::WITH_INVALID, "the mail has no text"));
    }
    MailContent::from_texts(subject.unwrap_or_default(), body, html, links)
}

/// How many of these recipients share a domain with the first one.
fn count_of_domain<'a>(first: &MailAddress, recipients: impl Iterator<Item = &'a MailAddress>) -> usize {
    recipients.filter(|recipient| recipient.domain().eq_ignore_ascii_case(first.domain())).count()
}

/// The key of one copy in the effect log.
fn effect_key(recipient: &MailAddress) -> String {
    format!("mail:{}", recipient.mailbox_key())
}

fn parse_headers(headers: BTreeMap<String, Templated<String>>) -> Result<Vec<CustomHeader>> {
    headers.into_iter().map(|(name, value)| CustomHeader::parse(&name, &value.into_value()?)).collect()
}

/// Removes duplicate mailboxes and keeps the order: a mailbox in `to` and `cc` gets one copy.
fn unique_recipients<'a>(addresses: impl Iterator<Item = &'a MailAddress>) -> Vec<MailAddress> {
    let mut seen = BTreeSet::new();
    addresses.filter(|address| seen.insert(address.mailbox_key())).cloned().collect()
}
