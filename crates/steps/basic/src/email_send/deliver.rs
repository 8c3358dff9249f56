//! The work of `email.send`: one text, one copy per recipient, each an effect that is recorded before and after.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio_util::sync::CancellationToken;

use super::{Addresses, EmailSend, Links, OnUncertain, Outputs};
use afterload_core::error::{Error, Result};
use afterload_core::units;
use afterload_mailer::{Address, Attachment, Content, Mail, Mailer, MessageId, NotSent, of_a_recipient};
use afterload_pipeline::Dynamic;
use afterload_step_api::{Begun, Counts, Effects, FileLinks, Progress, Report, RunFacts};

/// Every copy names everybody in `To` and `Cc`, so their number is bounded. Larger audiences are no mail but a fan-out.
const MOST_RECIPIENTS: usize = 100;

/// How long links live where nothing is said.
const LIFETIME: Duration = Duration::from_secs(7 * 86_400);
const LONGEST: Duration = Duration::from_secs(3650 * 86_400);
/// What lifetimes are possible.
pub(super) const LIFETIMES: &str = "`expires` must be from `1m` to `3650d`";

/// How long links live if this is said.
pub(super) fn lifetime(said: units::Duration) -> Result<Duration> {
    let fits = (Duration::from_secs(60)..=LONGEST).contains(&said.0);
    if fits { Ok(said.0) } else { Err(Error::permanent("with_invalid", LIFETIMES)) }
}

/// What sending needs of the step's context.
pub(super) struct Post<'a> {
    pub mailer: &'a Mailer,
    pub run: &'a RunFacts,
    pub files: &'a dyn FileLinks,
    pub key: &'a str,
    pub effects: &'a dyn Effects,
    pub progress: &'a Progress,
    pub stop: &'a CancellationToken,
}

impl Post<'_> {
    pub(super) async fn send(&self, step: EmailSend, attachments: Vec<Attachment>) -> Result<Outputs> {
        let (to, cc) = (addresses(step.to)?, addresses(step.cc)?);
        let recipients = distinct(to.iter().chain(&cc).chain(&addresses(step.bcc)?));
        let lives = step.expires.map(Dynamic::value).transpose()?.map_or(Ok(LIFETIME), lifetime)?;
        let links = self.addressed(step.links, lives).await?;
        let mail = Mail {
            from: match step.from {
                Some(from) => Address::sender(&from.value()?)?,
                None => self.mailer.from().clone(),
            },
            reply_to: step.reply_to.map(|text| Address::recipient(&text.value()?)).transpose()?,
            to,
            cc,
            content: self.content(step.template, step.body, step.subject, step.vars, links)?,
            attachments,
            run: self.run.id.clone(),
        };
        if recipients.is_empty() || recipients.len() > MOST_RECIPIENTS {
            let message = format!("the mail has {} recipients; expected 1 to {MOST_RECIPIENTS}", recipients.len());
            return Err(Error::permanent("mail_recipient_count", message));
        }
        let (mut message_ids, mut failed) = (Vec::with_capacity(recipients.len()), Vec::new());
        for recipient in &recipients {
            if self.stop.is_cancelled() {
                return Err(Error::stopped("step_stopped", "the step was asked to stop"));
            }
            let id = MessageId::derive(self.key, recipient, &mail.from);
            match self.once(&mail, recipient, &id, step.on_uncertain).await {
                Ok(()) => message_ids.push(id.to_string()),
                // What is wrong with one recipient is no reason to keep the mail from the others.
                Err(error) if of_a_recipient(&error) => {
                    failed.push(error);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.progress.committed(Report {
                done: message_ids.len() as u64,
                total: Some(recipients.len() as u64),
                unit: "mails".into(),
                message: None,
                counts: Counts::new(),
            });
        }
        match failed.iter().position(Error::is_transient) {
            Some(first) => Err(failed.swap_remove(first)),
            None if failed.is_empty() => Ok(Outputs { sent: message_ids.len() as u64, message_ids }),
            None => Err(refused(failed, recipients.len())),
        }
    }

    /// Sends one copy, unless an earlier attempt is known to have done so.
    async fn once(&self, mail: &Mail, recipient: &Address, id: &MessageId, on_uncertain: OnUncertain) -> Result<()> {
        let key = format!("mail:{}", recipient.key());
        // Before the effect has begun: nobody who waits is uncertain. Who has the mail does not wait.
        if self.mailer.is_paced(recipient) && !matches!(self.effects.known(&key).await?, Begun::Done(_)) {
            self.mailer.turn(recipient, self.stop).await?;
        }
        match (self.effects.begin(&key).await?, on_uncertain) {
            (Begun::Done(_), _) => return Ok(()),
            (Begun::Uncertain, OnUncertain::Hold) => {
                let message = format!("nobody knows whether the mail `{id}` to `{recipient}` has left");
                return Err(Error::permanent("mail_uncertain", message)
                    .hint("look for it at the recipient; `on_uncertain: resend` would send it again"));
            }
            (Begun::Fresh, _) | (Begun::Uncertain, OnUncertain::Resend) => {}
        }
        match self.mailer.send(mail, recipient, id).await {
            Ok(()) => self.effects.done(&key, json!({ "message_id": id.to_string() })).await,
            Err(NotSent::Certain(error)) => {
                self.effects.undone(&key).await?;
                Err(error)
            }
            Err(NotSent::Uncertain(error)) => Err(error),
        }
    }

    fn content(
        &self,
        template: Option<String>,
        body: Option<Dynamic<String>>,
        subject: Option<Dynamic<String>>,
        mut vars: Map<String, Value>,
        links: Vec<(String, String)>,
    ) -> Result<Content> {
        let subject = subject.map(Dynamic::value).transpose()?;
        let (Some(template), None) = (template, &body) else {
            let body = body.ok_or_else(|| Error::permanent("with_invalid", "the mail has no text"))?;
            let lines = links.iter().map(|(label, url)| format!("\n\n{label}: {url}")).collect::<String>();
            let text = format!("{}{lines}\n", body.value()?.trim_end());
            return Ok(Content { subject: subject.unwrap_or_default(), text, html: None });
        };
        let links = links.into_iter().map(|(label, url)| json!({ "label": label, "url": url })).collect::<Value>();
        vars.insert("links".into(), links);
        vars.insert("run".into(), json!(self.run));
        self.mailer.render(&template, subject, vars)
    }

    /// The label and the address of every file that is there.
    async fn addressed(&self, links: Links, lives: Duration) -> Result<Vec<(String, String)>> {
        let mut addressed = Vec::new();
        for (label, file) in links.0 {
            let Some(file) = file.value()? else { continue };
            let url = match &file.artifact_id {
                Some(id) => self.files.link(id, lives).await?,
                None => None,
            };
            let Some(url) = url else {
                let message = format!("`{}` of link `{label}` cannot be linked", file.name);
                return Err(Error::permanent("mail_link_impossible", message)
                    .hint("only files that a run received or made can be linked, as long as they are kept"));
            };
            addressed.push((label, url));
        }
        Ok(addressed)
    }
}

/// One error for all recipients who did not and will not receive the mail.
fn refused(mut failed: Vec<Error>, recipients: usize) -> Error {
    let of_all = format!("{} of {recipients} recipients did not receive the mail", failed.len());
    let details = failed.iter().map(|error| json!({ "code": error.code(), "message": error.message() })).collect();
    let first = failed.swap_remove(0);
    if recipients == 1 { first } else { first.context(of_all).details(details) }
}

fn addresses(field: Dynamic<Addresses>) -> Result<Vec<Address>> {
    field.value()?.iter().map(Address::recipient).collect()
}

/// Each mailbox once, in order: somebody in `to` and `cc` receives one copy.
fn distinct<'a>(addresses: impl Iterator<Item = &'a Address>) -> Vec<Address> {
    let mut seen = BTreeSet::new();
    addresses.filter(|address| seen.insert(address.key())).cloned().collect()
}
