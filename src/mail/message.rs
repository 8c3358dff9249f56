//! From content and addresses to the bytes of a message.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use lettre::address::Envelope;
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{MultiPart, SinglePart};
use sha2::{Digest, Sha256};

use super::{Address, one_line};
use crate::clock::Millis;
use crate::error::{Error, Result};

/// What is said: a subject, and a body as text and perhaps as HTML too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Content {
    /// The subject; control characters become spaces.
    pub subject: String,
    /// The body for readers without HTML.
    pub text: String,
    /// The body as HTML.
    pub html: Option<String>,
}

/// A mail before it is handed over for each of its recipients.
#[derive(Clone, Debug)]
pub struct Mail {
    /// The sender.
    pub from: Address,
    /// Where answers go, if not to the sender.
    pub reply_to: Option<Address>,
    /// Those named in `To`.
    pub to: Vec<Address>,
    /// Those named in `Cc`.
    pub cc: Vec<Address>,
    /// What is said.
    pub content: Content,
    /// The run that sends it.
    pub run: String,
}

/// A Message-ID that is the same for every attempt to send the same mail to the same recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageId {
    stem: String,
    host: String,
}

impl MessageId {
    /// Derives the id from what stays the same: the step's key and the recipient.
    pub fn derive(key: &str, recipient: &Address, from: &Address) -> Self {
        let digest = Sha256::new().chain_update(key).chain_update("\n").chain_update(recipient.key()).finalize();
        Self { stem: hex::encode(&digest[..16]), host: from.host().to_owned() }
    }

    /// The part before the `@`: 32 hexadecimal digits, fit for a file name.
    pub fn stem(&self) -> &str {
        &self.stem
    }
}

/// As the header shows it, in angle brackets.
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}@{}>", self.stem, self.host)
    }
}

impl Mail {
    /// The message for one recipient. Everybody in `To` and `Cc` is named in it, the recipients of blind copies are not.
    pub(super) fn build(&self, recipient: &Address, id: &MessageId, now: Millis) -> Result<lettre::Message> {
        let refused = |error: lettre::error::Error| Error::permanent("mail_invalid", error.to_string());
        let envelope = Envelope::new(Some(self.from.0.email.clone()), vec![recipient.0.email.clone()]);
        let mut builder = lettre::Message::builder()
            .envelope(envelope.map_err(refused)?)
            .date(UNIX_EPOCH + Duration::from_millis(now.unsigned_abs()))
            .message_id(Some(id.to_string()))
            .from(self.from.0.clone())
            .subject(one_line(&self.content.subject))
            .raw_header(header("Auto-Submitted", "auto-generated"))
            .raw_header(header("X-Afterload-Run", &self.run));
        if let Some(address) = &self.reply_to {
            builder = builder.reply_to(address.0.clone());
        }
        for address in &self.to {
            builder = builder.to(address.0.clone());
        }
        for address in &self.cc {
            builder = builder.cc(address.0.clone());
        }
        let text = self.content.text.replace('\0', "");
        let message = match &self.content.html {
            None => builder.singlepart(SinglePart::plain(text)),
            Some(html) => builder.multipart(MultiPart::alternative_plain_html(text, html.replace('\0', ""))),
        };
        message.map_err(refused)
    }
}

fn header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), one_line(value))
}
