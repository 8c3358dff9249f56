//! Sends a mail to each recipient, from a template that reads the recipient's columns.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Value, json};

use super::fields::EmailSpec;
use super::per_recipient::{self, DeliveryError};
use super::templates::{RecipientContext, TemplatePart};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result, Retryability};
use afterload_mailer::{
    MailAddress, MailContent, MailSendError, MailTurn, MailTurns, Mailer, MessageId, OutgoingMail, is_deferral_error,
    is_recipient_error,
};
use afterload_pipeline::Templated;
use afterload_step_api::{RunInfo, StepContext, StepWaits};
use afterload_target_db::Recipient;

use super::recipients::recipient_key_text;

/// Delivers mails.
pub struct EmailChannel {
    mailer: Mailer,
    run: RunInfo,
    key: String,
    turns: MailTurns,
    waits: StepWaits,
    /// The first turn of the mails that wait for theirs.
    next_turn: Mutex<Option<UnixMillis>>,
    /// True if the server has deferred a mail of this attempt.
    has_deferred: AtomicBool,
    from: MailAddress,
    reply_to: Option<MailAddress>,
    personal: RecipientContext,
    subject: Option<TemplatePart>,
    body: Option<TemplatePart>,
    html: Option<TemplatePart>,
    spec: EmailSpec,
}

impl EmailChannel {
    /// Resolves the parts that are the same for all recipients.
    pub async fn new(ctx: &StepContext, mailer: &Mailer, mut spec: EmailSpec) -> Result<Self> {
        let text = |field: Option<Templated<String>>| field.map(Templated::into_value).transpose();
        let from = match text(spec.from.take())? {
            Some(from) => mailer.parse_sender(&from)?,
            None => mailer.default_sender().clone(),
        };
        let reply_to = text(spec.reply_to.take())?.map(|address| mailer.parse_recipient(&address)).transpose()?;
        let [subject, body, html] = [spec.subject.take(), spec.body.take(), spec.html.take()]
            .map(|text| text.map(|text| TemplatePart::new(json!(text))));
        let personal = RecipientContext::new(&ctx.expr_context, subject.iter().chain(&body).chain(&html));
        let reserved = if mailer.has_rate_limits() { ctx.reserved_turns().await? } else { Value::Null };
        Ok(Self {
            mailer: mailer.clone(),
            run: ctx.run.clone(),
            key: ctx.step.key.clone(),
            turns: MailTurns::new(mailer, reserved),
            waits: ctx.waits.clone(),
            next_turn: Mutex::default(),
            has_deferred: AtomicBool::new(false),
            from,
            reply_to,
            personal,
            subject,
            body,
            html,
            spec,
        })
    }

    /// Suspends the step if mails wait for their turn. Suspends it also if the server deferred a mail, unless the step has
    /// its own `retry`. Returns the error that the step must return.
    pub async fn suspend(&self, ctx: &StepContext, error: Error) -> Result<Error> {
        let (is_deferral, delays) = (is_deferral_error(&error), self.mailer.retry_delays());
        let next_turn = self.next_turn().filter(|_| is_deferral || error.code() == codes::MAIL_RATE_LIMITED);
        if let Some(turn) = next_turn {
            // What was deferred is tried again with the mails that wait, but not too soon.
            let delay = delays.first().filter(|_| self.has_deferred.load(Ordering::Relaxed)).copied();
            return ctx.suspend_for_turn(turn, delay, self.turns.reservations().await).await;
        }
        if ctx.step.own_retry || !is_deferral {
            return Ok(error);
        }
        let suspended = ctx.suspend_for_retry(delays).await?;
        Ok(suspended.unwrap_or_else(|| error.with_retryability(Retryability::Permanent)))
    }

    /// Waits for the turn of a mail. Fails if its turn comes in another attempt.
    async fn wait_for_turn(&self, to: &MailAddress) -> Result<(), DeliveryError> {
        let time = match self.turns.take_turn(to, usize::MAX).await.map_err(DeliveryError::Channel)? {
            MailTurn::Unlimited => return Ok(()),
            MailTurn::Later(time) => time,
            MailTurn::At(turn) => {
                if self.waits.wait_until(turn.time()).await.map_err(DeliveryError::Channel)? {
                    return Ok(());
                }
                turn.time()
            }
        };
        let mut next = self.next_turn.lock().unwrap_or_else(PoisonError::into_inner);
        *next = Some(next.map_or(time, |next| next.min(time)));
        Err(DeliveryError::Recipient(Error::new(
            codes::MAIL_RATE_LIMITED,
            format!("the mail to {to} waits for its turn"),
        )))
    }

    fn next_turn(&self) -> Option<UnixMillis> {
        *self.next_turn.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn build_content(&self, person: &Recipient, reason: &str) -> Result<MailContent, DeliveryError> {
        let scope = self.personal.for_recipient(person, reason)?;
        let text = |part: &Option<TemplatePart>| part.as_ref().map(|part| part.resolve_text(&scope)).transpose();
        let (subject, body) = (text(&self.subject)?, text(&self.body)?);
        let Some(template) = &self.spec.template else {
            let html = self.html.as_ref().map(|part| part.resolve_html(&scope)).transpose()?;
            let content = MailContent::from_texts(subject.unwrap_or_default(), body, html, &[]);
            return content.map_err(DeliveryError::Channel);
        };
        let mut vars = self.spec.vars.clone();
        for (name, value) in [("person", json!(person.columns)), ("reason", reason.into()), ("run", json!(self.run))] {
            vars.insert(name.to_owned(), value);
        }
        self.mailer.render_template(template, subject, vars).map_err(DeliveryError::Channel)
    }

    fn recipient_address(&self, person: &Recipient) -> Result<MailAddress> {
        let column = &self.spec.address;
        match person.columns.get(column) {
            Some(Value::String(text)) => self.mailer.parse_recipient(text),
            Some(Value::Null) => Err(Error::new(
                codes::MAIL_INVALID_RECIPIENT,
                format!("`{}` has no address", recipient_key_text(person)),
            )),
            _ => Err(Error::new(codes::COLUMN_NOT_FOUND, format!("the query gives no text in a column `{column}`"))
                .with_hint("name the column with the address in `deliver.email.address`")),
        }
    }
}

impl per_recipient::DeliveryChannel for EmailChannel {
    async fn find_suppressed(&self, people: &BTreeMap<String, Recipient>) -> Result<BTreeSet<String>> {
        // Those without a valid address fail one by one.
        let addressed: Vec<(&String, MailAddress)> =
            people.iter().filter_map(|(key, person)| Some((key, self.recipient_address(person).ok()?))).collect();
        let addresses: Vec<MailAddress> = addressed.iter().map(|(_, address)| address.clone()).collect();
        let suppressed = self.mailer.find_suppressed(None, &addresses).await?;
        let mut keys = BTreeSet::new();
        for (key, _) in addressed.iter().filter(|(_, address)| suppressed.contains(&address.mailbox_key())) {
            self.mailer.count_suppressed();
            keys.insert((*key).clone());
        }
        Ok(keys)
    }

    async fn deliver_to(&self, person: &Recipient, reason: &'static str) -> Result<(), DeliveryError> {
        let to = self.recipient_address(person).map_err(|error| match error.code() {
            codes::COLUMN_NOT_FOUND => DeliveryError::Channel(error),
            _ => DeliveryError::Recipient(error),
        })?;
        self.wait_for_turn(&to).await?;
        let id = MessageId::for_recipient(&format!("{}/{}", self.key, recipient_key_text(person)), &to, &self.from);
        let mail = OutgoingMail {
            from: self.from.clone(),
            reply_to: self.reply_to.clone(),
            to: vec![to.clone()],
            cc: Vec::new(),
            content: self.build_content(person, reason)?,
            headers: Vec::new(),
            attachments: Vec::new(),
            run: self.run.id.clone(),
        };
        let sent = self.mailer.send(&mail, &to, &id).await;
        sent.map_err(|(MailSendError::NotSent(error) | MailSendError::Unknown(error))| {
            self.has_deferred.fetch_or(is_deferral_error(&error), Ordering::Relaxed);
            match is_recipient_error(&error) {
                true => DeliveryError::Recipient(error),
                false => DeliveryError::Channel(error),
            }
        })
    }

    fn must_wait(&self) -> bool {
        self.next_turn().is_some()
    }
}
