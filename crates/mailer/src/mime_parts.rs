//! The parts of a mail: its text, its HTML with the pictures that it shows, and its attachments.

use std::fmt;

use lettre::message::header::{ContentId, ContentTransferEncoding, ContentType};
use lettre::message::{Body, MultiPart, MultiPartBuilder, SinglePart};

use super::content::MailContent;
use super::header_encoding::FileDisposition;
use super::to_single_line;

/// The media type of a file of unknown type.
const DEFAULT_ATTACHMENT_TYPE: &str = "application/octet-stream";
/// The maximum length of a media type. It cannot fold.
const MAX_MEDIA_TYPE_LEN: usize = 255;

/// A file that travels in the mail. It is encoded once for all recipients.
#[derive(Clone)]
pub struct MailAttachment {
    name: String,
    content_type: ContentType,
    body: Body,
    content_id: Option<String>,
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
            content_id: None,
        }
    }

    /// Makes it a picture that the HTML shows as `cid:NAME`. [`crate::is_content_id`] says which names are valid.
    #[must_use]
    pub fn with_content_id(self, name: &str) -> Self {
        Self { content_id: Some(name.to_owned()), ..self }
    }

    /// The name of an inline picture; `None` for an attachment.
    pub fn content_id(&self) -> Option<&str> {
        self.content_id.as_deref()
    }

    pub(super) fn clear_content_id(&mut self) {
        self.content_id = None;
    }

    fn to_mime_part(&self) -> SinglePart {
        let kind = if self.content_id.is_some() { "inline" } else { "attachment" };
        let builder = SinglePart::builder()
            .header(FileDisposition { kind, file_name: self.name.clone() })
            .header(self.content_type.clone());
        let builder = match &self.content_id {
            Some(name) => builder.header(ContentId::from(format!("<{name}>"))),
            None => builder,
        };
        builder.body(self.body.clone())
    }
}

/// Shows everything but the bytes.
impl fmt::Debug for MailAttachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} ({:?})", self.name, self.content_type)?;
        self.content_id.iter().try_for_each(|name| write!(f, " as cid:{name}"))
    }
}

/// A part of a mail, or all of it.
pub(super) enum MimePart {
    Single(SinglePart),
    Multi(MultiPart),
}

/// Builds all parts of a mail. The text comes before the HTML, because programs show the last part that they can show.
pub(super) fn build_mime_parts(content: &MailContent, files: &[MailAttachment]) -> MimePart {
    let text = SinglePart::plain(clean_body(&content.text));
    let (pictures, attachments): (Vec<_>, Vec<_>) =
        files.iter().partition(|file| file.content_id.is_some() && content.html.is_some());
    let said = match content.html.as_deref().map(clean_body) {
        None => MimePart::Single(text),
        Some(html) => {
            let (both, html) = (MultiPart::alternative().singlepart(text), SinglePart::html(html));
            MimePart::Multi(match pictures.is_empty() {
                true => both.singlepart(html),
                false => both.multipart(add_files(start_related().singlepart(html), &pictures)),
            })
        }
    };
    if attachments.is_empty() {
        return said;
    }
    let mixed = MultiPart::mixed();
    let said = match said {
        MimePart::Single(part) => mixed.singlepart(part),
        MimePart::Multi(part) => mixed.multipart(part),
    };
    MimePart::Multi(add_files(said, &attachments))
}

fn add_files(part: MultiPart, files: &[&MailAttachment]) -> MultiPart {
    files.iter().fold(part, |part, file| part.singlepart(file.to_mime_part()))
}

/// RFC 2387 asks for the type of the first part, which lettre does not write.
fn start_related() -> MultiPartBuilder {
    let boundary = ulid::Ulid::generate();
    let kind = format!("multipart/related; type=\"text/html\"; boundary=\"{boundary}\"");
    match ContentType::parse(&kind) {
        Ok(kind) => MultiPart::builder().header(kind),
        Err(_) => MultiPart::related(),
    }
}

/// Removes what a body cannot carry. A carriage return alone is a line break: servers change or refuse it.
fn clean_body(text: &str) -> String {
    text.replace('\0', "").replace("\r\n", "\n").replace('\r', "\n")
}
