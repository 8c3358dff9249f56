//! Builds the bytes of a message from content and addresses.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use lettre::address::Envelope;
use lettre::message::header::{ContentTransferEncoding, ContentType};
use lettre::message::{Body, Mailbox, MultiPart, SinglePart};
use sha2::{Digest, Sha256};

use super::custom_header::CustomHeader;
use super::header_encoding::{AttachmentDisposition, address_header, text_header};
use super::{MailAddress, to_single_line};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};

/// The media type of a file of unknown type.
const DEFAULT_ATTACHMENT_TYPE: &str = "application/octet-stream";
/// The maximum length of a media type. It cannot fold.
const MAX_MEDIA_TYPE_LEN: usize = 255;

/// The content of a mail: a subject, a text body and an optional HTML body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailContent {
    /// The subject; control characters become spaces.
    pub subject: String,
    /// The body as text.
    pub text: String,
    /// The body as HTML.
    pub html: Option<String>,
}

/// An attachment. It is encoded once for all recipients.
#[derive(Clone)]
pub struct MailAttachment {
    name: String,
    content_type: ContentType,
    body: Body,
}

impl MailAttachment {
    /// Creates an attachment with a file name and a media type. An invalid media type, or one that would be read as
    /// part of the mail itself, becomes the default type.
    pub fn new(name: &str, content_type: &str, bytes: Vec<u8>) -> Self {
        let content_type = to_single_line(content_type).to_ascii_lowercase();
        let of_mails = ["multipart/", "message/"].iter().any(|kind| content_type.starts_with(kind));
        let unusable = of_mails || content_type.len() > MAX_MEDIA_TYPE_LEN;
        let media_type = if unusable { DEFAULT_ATTACHMENT_TYPE } else { &content_type };
        let parsed = ContentType::parse(media_type).or_else(|_| ContentType::parse(DEFAULT_ATTACHMENT_TYPE));
        // Base64 even for text: otherwise the transfer could change its line ends.
        let encoded = Body::new_with_encoding(bytes, ContentTransferEncoding::Base64);
        Self {
            name: to_single_line(name),
            content_type: parsed.unwrap_or(ContentType::TEXT_PLAIN),
            body: encoded.unwrap_or_else(Body::new),
        }
    }

    fn to_mime_part(&self) -> SinglePart {
        SinglePart::builder()
            .header(AttachmentDisposition(self.name.clone()))
            .header(self.content_type.clone())
            .body(self.body.clone())
    }
}

/// Shows everything but the bytes.
impl fmt::Debug for MailAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?})", self.name, self.content_type)
    }
}

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
    /// The attachments.
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
    /// Builds the message for one recipient. It names everyone in `To` and `Cc`, but no recipients of blind copies.
    pub(super) fn build_message(
        &self,
        recipient: &MailAddress,
        id: &MessageId,
        now: UnixMillis,
    ) -> Result<lettre::Message> {
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
                builder = builder.raw_header(address_header(name, addresses));
            }
        }
        for header in &self.headers {
            builder = builder.raw_header(header.to_header_value());
        }
        let text = clean_body(&self.content.text);
        let html = self.content.html.as_deref().map(clean_body);
        let message = match (html, self.attachments.is_empty()) {
            (None, true) => builder.singlepart(SinglePart::plain(text)),
            (Some(html), true) => builder.multipart(MultiPart::alternative_plain_html(text, html)),
            (html, false) => {
                let mixed = MultiPart::mixed();
                let said = match html {
                    None => mixed.singlepart(SinglePart::plain(text)),
                    Some(html) => mixed.multipart(MultiPart::alternative_plain_html(text, html)),
                };
                builder.multipart(self.attachments.iter().fold(said, |mail, file| mail.singlepart(file.to_mime_part())))
            }
        };
        let mut message = message.map_err(refused)?;
        message.headers_mut().insert_raw(address_header("From", std::slice::from_ref(&self.from)));
        Ok(message)
    }
}

/// Removes what a body cannot carry. A carriage return alone is a line break: servers change or refuse it.
fn clean_body(text: &str) -> String {
    text.replace('\0', "").replace("\r\n", "\n").replace('\r', "\n")
}
