//! Builds the bytes of a message from content and addresses.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use lettre::address::Envelope;
use lettre::message::Mailbox;
use sha2::{Digest, Sha256};

use super::MailAddress;
use super::content::MailContent;
use super::custom_header::CustomHeader;
use super::header_encoding::{address_header, text_header};
use super::mime_parts::{MailAttachment, MimePart, build_mime_parts};
use super::pictures::find_content_ids;
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};

/// A mail with all its recipients.
#[derive(Clone, Debug)]
pub struct OutgoingMail {
    /// The sender.
    pub from: MailAddress,
    /// The reply address, if it is not the sender.
    pub reply_to: Option<MailAddress>,
    /// The recipients in `To`.
    pub to: Vec<MailAddress>,
    /// The recipients in `Cc`.
    pub cc: Vec<MailAddress>,
    /// The content.
    pub content: MailContent,
    /// More headers.
    pub headers: Vec<CustomHeader>,
    /// The attachments, and the pictures that the HTML shows.
    pub attachments: Vec<MailAttachment>,
    /// The run that sends it.
    pub run: String,
}

/// A Message-ID that is the same for every attempt to send one mail to one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageId {
    local_part: String,
    domain: String,
}

impl MessageId {
    /// Derives the id from the step's key and the recipient, which are the same in every attempt.
    pub fn for_recipient(key: &str, recipient: &MailAddress, from: &MailAddress) -> Self {
        let digest =
            Sha256::new().chain_update(key).chain_update("\n").chain_update(recipient.mailbox_key()).finalize();
        Self { local_part: hex::encode(&digest[..16]), domain: from.domain().to_owned() }
    }

    /// The part before the `@`: 32 hexadecimal digits, safe as a file name.
    pub fn local_part(&self) -> &str {
        &self.local_part
    }
}

/// Shows the id as the header does, in angle brackets.
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}@{}>", self.local_part, self.domain)
    }
}

impl OutgoingMail {
    /// Makes attachments of the pictures that the HTML does not show: mail programs may hide them where they are.
    pub fn attach_unshown_pictures(&mut self) {
        let shown = find_content_ids(self.content.html.as_deref().unwrap_or_default());
        for file in &mut self.attachments {
            if file.content_id().is_some_and(|name| !shown.contains(name)) {
                file.clear_content_id();
            }
        }
    }

    /// True if the copy of a recipient needs a server with SMTPUTF8. The other copies show such addresses in `To` and `Cc`
    /// as groups in ASCII.
    pub(super) fn needs_smtputf8(&self, recipient: &MailAddress) -> bool {
        [&self.from, recipient].into_iter().chain(&self.reply_to).any(MailAddress::needs_smtputf8)
    }

    /// Builds the message for one recipient. It names everyone in `To` and `Cc`, but no recipients of blind copies.
    pub(super) fn build_message(
        &self,
        recipient: &MailAddress,
        id: &MessageId,
        now: UnixMillis,
    ) -> Result<lettre::Message> {
        let smtputf8 = self.needs_smtputf8(recipient);
        let refused = |error: lettre::error::Error| Error::new(codes::MAIL_INVALID, error.to_string());
        let envelope = Envelope::new(Some(self.from.0.email.clone()), vec![recipient.0.email.clone()]);
        let mut builder = lettre::Message::builder()
            .envelope(envelope.map_err(refused)?)
            .date(UNIX_EPOCH + Duration::from_millis(now.unsigned_abs()))
            .message_id(Some(id.to_string()))
            // lettre insists on a sender and does not fold: the complete header replaces this one below.
            .from(Mailbox::new(None, self.from.0.email.clone()))
            .raw_header(text_header("Subject", &self.content.subject))
            .raw_header(text_header("Auto-Submitted", "auto-generated"))
            .raw_header(text_header("X-Afterload-Run", &self.run));
        let reply_to = self.reply_to.as_slice();
        for (name, addresses) in [("Reply-To", reply_to), ("To", &self.to[..]), ("Cc", &self.cc[..])] {
            if !addresses.is_empty() {
                builder = builder.raw_header(address_header(name, addresses, smtputf8));
            }
        }
        for header in &self.headers {
            builder = builder.raw_header(header.to_header_value());
        }
        let message = match build_mime_parts(&self.content, &self.attachments) {
            MimePart::Single(part) => builder.singlepart(part),
            MimePart::Multi(part) => builder.multipart(part),
        };
        let mut message = message.map_err(refused)?;
        message.headers_mut().insert_raw(address_header("From", std::slice::from_ref(&self.from), smtputf8));
        Ok(message)
    }
}
