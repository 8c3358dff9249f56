//! From content and addresses to the bytes of a message.

use std::fmt;
use std::time::{Duration, UNIX_EPOCH};

use lettre::address::Envelope;
use lettre::message::header::{Cc, ContentTransferEncoding, ContentType, HeaderName, HeaderValue, To};
use lettre::message::{Body, Mailboxes, MultiPart, SinglePart};
use sha2::{Digest, Sha256};

use super::{MailAddress, to_single_line};
use crate::codes;
use afterload_core::clock::UnixMillis;
use afterload_core::error::{Error, Result};

/// The type of a file of which nothing is known.
const DEFAULT_ATTACHMENT_TYPE: &str = "application/octet-stream";

/// What is said: a subject, and a body as text and perhaps as HTML too.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MailContent {
    /// The subject; control characters become spaces.
    pub subject: String,
    /// The body for readers without HTML.
    pub text: String,
    /// The body as HTML.
    pub html: Option<String>,
}

/// A file that travels in a mail. It is encoded once, whoever receives the mail.
#[derive(Clone)]
pub struct MailAttachment {
    name: String,
    content_type: ContentType,
    body: Body,
}

impl MailAttachment {
    /// A file with a name for people and its media type. What is no media type, or would be taken for a part of the mail
    /// itself, goes as a file of no particular kind.
    pub fn new(name: &str, content_type: &str, bytes: Vec<u8>) -> Self {
        let content_type = to_single_line(content_type).to_ascii_lowercase();
        let of_mails = ["multipart/", "message/"].iter().any(|kind| content_type.starts_with(kind));
        let known = if of_mails { DEFAULT_ATTACHMENT_TYPE } else { &content_type };
        let known = ContentType::parse(known).or_else(|_| ContentType::parse(DEFAULT_ATTACHMENT_TYPE));
        // Base64, because what looks like text must arrive as it is too, with its own ends of lines.
        let encoded = Body::new_with_encoding(bytes, ContentTransferEncoding::Base64);
        Self {
            name: to_single_line(name),
            content_type: known.unwrap_or(ContentType::TEXT_PLAIN),
            body: encoded.unwrap_or_else(Body::new),
        }
    }

    fn to_mime_part(&self) -> SinglePart {
        lettre::message::Attachment::new(self.name.clone()).body(self.body.clone(), self.content_type.clone())
    }
}

/// Without the bytes.
impl fmt::Debug for MailAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?})", self.name, self.content_type)
    }
}

/// A mail before it is handed over for each of its recipients.
#[derive(Clone, Debug)]
pub struct OutgoingMail {
    /// The sender.
    pub from: MailAddress,
    /// Where answers go, if not to the sender.
    pub reply_to: Option<MailAddress>,
    /// Those named in `To`.
    pub to: Vec<MailAddress>,
    /// Those named in `Cc`.
    pub cc: Vec<MailAddress>,
    /// What is said.
    pub content: MailContent,
    /// Files that travel with it.
    pub attachments: Vec<MailAttachment>,
    /// The run that sends it.
    pub run: String,
}

/// A Message-ID that is the same for every attempt to send the same mail to the same recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MessageId {
    local_part: String,
    domain: String,
}

impl MessageId {
    /// Derives the id from what stays the same: the step's key and the recipient.
    pub fn for_recipient(key: &str, recipient: &MailAddress, from: &MailAddress) -> Self {
        let digest =
            Sha256::new().chain_update(key).chain_update("\n").chain_update(recipient.mailbox_key()).finalize();
        Self { local_part: hex::encode(&digest[..16]), domain: from.domain().to_owned() }
    }

    /// The part before the `@`: 32 hexadecimal digits, fit for a file name.
    pub fn local_part(&self) -> &str {
        &self.local_part
    }
}

/// As the header shows it, in angle brackets.
impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<{}@{}>", self.local_part, self.domain)
    }
}

impl OutgoingMail {
    /// The message for one recipient. Everybody in `To` and `Cc` is named in it, the recipients of blind copies are not.
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
            .from(self.from.0.clone())
            .subject(to_single_line(&self.content.subject))
            .raw_header(text_header("Auto-Submitted", "auto-generated"))
            .raw_header(text_header("X-Afterload-Run", &self.run));
        if let Some(address) = &self.reply_to {
            builder = builder.reply_to(address.0.clone());
        }
        // Each header at once: whoever adds to one reads anew what it holds.
        if !self.to.is_empty() {
            builder = builder.header(To::from(to_mailboxes(&self.to)));
        }
        if !self.cc.is_empty() {
            builder = builder.header(Cc::from(to_mailboxes(&self.cc)));
        }
        let text = self.content.text.replace('\0', "");
        let html = self.content.html.as_ref().map(|html| html.replace('\0', ""));
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
        message.map_err(refused)
    }
}

fn to_mailboxes(addresses: &[MailAddress]) -> Mailboxes {
    addresses.iter().map(|address| address.0.clone()).collect()
}

fn text_header(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), to_single_line(value))
}
