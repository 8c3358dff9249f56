//! The result for each recipient of a mail, and the refusals that later attempts must know.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::EmailSendOutputs;
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};
use afterload_mailer::{MailAddress, MessageId};
use afterload_step_api::{EffectRecorder, EffectState};

/// The effect log stores the refusals of a step under this key.
const REFUSALS_EFFECT_KEY: &str = "mail_refusals";

/// The result for each recipient.
#[derive(Default)]
pub(super) struct MailTally {
    accepted: Vec<(MailAddress, MessageId)>,
    deferred: Vec<(MailAddress, Error)>,
    failed: Vec<(MailAddress, Error)>,
    suppressed: Vec<MailAddress>,
    /// The first turn of the copies that wait for theirs.
    next_turn: Option<UnixMillis>,
}

impl MailTally {
    pub(super) fn add_accepted(&mut self, recipient: &MailAddress, id: MessageId) {
        self.accepted.push((recipient.clone(), id));
    }

    pub(super) fn add_deferred(&mut self, recipient: &MailAddress, error: Error) {
        self.deferred.push((recipient.clone(), error));
    }

    pub(super) fn add_failed(&mut self, recipient: &MailAddress, error: Error) {
        self.failed.push((recipient.clone(), error));
    }

    pub(super) fn add_suppressed(&mut self, recipient: &MailAddress) {
        self.suppressed.push(recipient.clone());
    }

    pub(super) fn suppressed_count(&self) -> u64 {
        self.suppressed.len() as u64
    }

    /// Adds a recipient whose turn comes at this time.
    pub(super) fn add_waiting(&mut self, turn: UnixMillis) {
        self.next_turn = Some(self.next_turn.map_or(turn, |next| next.min(turn)));
    }

    /// The first turn of the copies that wait for theirs.
    pub(super) fn next_turn(&self) -> Option<UnixMillis> {
        self.next_turn
    }

    /// True if some copies are for another attempt.
    pub(super) fn is_unfinished(&self) -> bool {
        self.next_turn.is_some() || !self.deferred.is_empty()
    }

    pub(super) fn accepted_count(&self) -> u64 {
        self.accepted.len() as u64
    }

    /// The first deferral, for the progress.
    pub(super) fn first_deferral(&self) -> Option<&Error> {
        self.deferred.first().map(|(_, error)| error)
    }

    /// The outputs if every recipient has the mail or is suppressed. Otherwise the error names each recipient; a deferral comes first,
    /// because only it can be retried.
    pub(super) fn into_outputs(self) -> Result<EmailSendOutputs> {
        let details = self.to_details();
        let missing = self.deferred.len() + self.failed.len();
        let (sent, suppressed) = (self.accepted_count(), self.suppressed_count());
        let count = self.accepted.len() + missing;
        match self.deferred.into_iter().chain(self.failed).next() {
            None => {
                let message_ids = self.accepted.iter().map(|(_, id)| id.to_string()).collect();
                Ok(EmailSendOutputs { message_ids, sent, suppressed })
            }
            Some((_, first)) if count == 1 => Err(first.with_details(details)),
            Some((_, first)) => {
                let summary = format!("{missing} of {count} recipients did not receive the mail");
                Err(first.context(summary).with_details(details))
            }
        }
    }

    fn to_details(&self) -> Value {
        let to_json = |(recipient, error): &(MailAddress, Error)| {
            let (code, message) = (error.code().name(), error.message());
            json!({ "recipient": recipient.to_string(), "code": code, "message": message })
        };
        let failed = |uncertain: bool| {
            let chosen = self.failed.iter().filter(move |(_, error)| is_uncertain(error) == uncertain);
            chosen.map(to_json).collect::<Vec<_>>()
        };
        let accepted = self.accepted.iter().map(|(recipient, _)| recipient.to_string()).collect::<Vec<_>>();
        let deferred = self.deferred.iter().map(to_json).collect::<Vec<_>>();
        let suppressed = self.suppressed.iter().map(ToString::to_string).collect::<Vec<_>>();
        json!({
            "accepted": accepted,
            "deferred": deferred,
            "refused": failed(false),
            "uncertain": failed(true),
            "suppressed": suppressed,
        })
    }
}

fn is_uncertain(error: &Error) -> bool {
    error.code() == codes::MAIL_UNCERTAIN
}

/// A refusal as the effect log stores it.
#[derive(Deserialize, Serialize)]
struct Refusal {
    code: String,
    message: String,
}

/// The recipients that the mail server refused, by mailbox. They are not asked again beside a deferred one.
pub(super) struct Refusals<'a> {
    effects: &'a dyn EffectRecorder,
    known: BTreeMap<String, Refusal>,
}

impl<'a> Refusals<'a> {
    /// Reads the refusals of earlier attempts. The first attempt after a retry by a person asks everyone again.
    pub(super) async fn load(effects: &'a dyn EffectRecorder, first_attempt: bool) -> Result<Self> {
        let known = match first_attempt {
            true => BTreeMap::new(),
            false => match effects.effect_state(REFUSALS_EFFECT_KEY).await? {
                EffectState::Done(detail) => serde_json::from_value(detail).map_err(|error| {
                    Error::new(codes::EFFECT_UNREADABLE, format!("the refusals cannot be read: {error}"))
                })?,
                EffectState::New | EffectState::Uncertain => BTreeMap::new(),
            },
        };
        Ok(Self { effects, known })
    }

    /// The error of an earlier attempt, if the server refused this recipient.
    pub(super) fn find_refusal(&self, recipient: &MailAddress) -> Option<Error> {
        let Refusal { code, message } = self.known.get(&recipient.mailbox_key())?;
        let others = [codes::MAIL_REFUSED, codes::MAIL_SMTPUTF8_UNSUPPORTED];
        let known = others.into_iter().find(|known| known.name() == code);
        Some(Error::new(known.unwrap_or(codes::MAIL_RECIPIENT_REFUSED), message.as_str()))
    }

    /// Stores a refusal. A mail that may have been sent is none.
    pub(super) async fn record_refusal(&mut self, recipient: &MailAddress, error: &Error) -> Result<()> {
        if is_uncertain(error) {
            return Ok(());
        }
        let refusal = Refusal { code: error.code().name().into(), message: error.message().into() };
        self.known.insert(recipient.mailbox_key(), refusal);
        self.effects.begin_effect(REFUSALS_EFFECT_KEY).await?;
        self.effects.mark_done(REFUSALS_EFFECT_KEY, json!(self.known)).await
    }

    /// Replaces the stored refusals by those of this attempt.
    pub(super) async fn store(&self) -> Result<()> {
        match self.effects.effect_state(REFUSALS_EFFECT_KEY).await? {
            EffectState::New => Ok(()),
            EffectState::Uncertain | EffectState::Done(_) => {
                self.effects.mark_done(REFUSALS_EFFECT_KEY, json!(self.known)).await
            }
        }
    }
}
