//! Attachments and inline pictures of a mail. They are read into memory, so their total size has a limit.

use futures::StreamExt;

use super::{AttachedFiles, NamedFiles};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::object_names::{resolve_content_type, sanitize_file_name};
use afterload_core::units::ByteSize;
use afterload_mailer::{MailAttachment, Mailer};
use afterload_pipeline::Templated;
use afterload_step_api::{StepContext, VerifiedFile};

/// Mail programs do not display more attachments well.
const MAX_ATTACHMENTS: usize = 100;

/// Reads the attached files and the inline ones. Absent optional files are skipped.
pub(super) async fn read_attachments(
    attached: Templated<AttachedFiles>,
    inline: NamedFiles,
    ctx: &StepContext,
    mailer: &Mailer,
) -> Result<Vec<MailAttachment>> {
    let attached = attached.into_value()?.0.into_iter().map(|file| (None, file));
    let inline = inline.0.into_iter().map(|(name, file)| (Some(name), file));
    let mut files = Vec::new();
    for (content_id, file) in attached.chain(inline) {
        if let Some(file) = file.into_value()? {
            files.push((content_id, ctx.files.verifier().verify_file(&file)?));
        }
    }
    if files.len() > MAX_ATTACHMENTS {
        let message = format!("the mail has {} attachments; expected at most {MAX_ATTACHMENTS}", files.len());
        return Err(Error::new(codes::MAIL_ATTACHMENT_COUNT, message));
    }
    let limit = mailer.attachment_limit();
    // Check the declared sizes first, before any byte is read.
    if files.iter().map(|(_, file)| file.size).fold(0, u64::saturating_add) > limit.0 {
        return Err(attachments_too_large(limit));
    }
    let (mut attachments, mut left) = (Vec::with_capacity(files.len()), limit.0);
    for (content_id, file) in files {
        let bytes = read_file(&file, left, ctx).await?.ok_or_else(|| attachments_too_large(limit))?;
        left -= bytes.len() as u64;
        let name = sanitize_file_name(&file.name, "file");
        let content_type = resolve_content_type(Some(&file.content_type), &name);
        let attachment = MailAttachment::new(&name, &content_type, bytes);
        attachments.push(match content_id {
            Some(content_id) => attachment.with_content_id(&content_id),
            None => attachment,
        });
    }
    Ok(attachments)
}

/// Returns the bytes of a file; `None` if there are more than `most`.
async fn read_file(file: &VerifiedFile, most: u64, ctx: &StepContext) -> Result<Option<Vec<u8>>> {
    let mut body = ctx.files.open(file, 0).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.stream.next().await {
        ctx.check_stopped()?;
        let chunk = chunk?;
        if (bytes.len() + chunk.len()) as u64 > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

fn attachments_too_large(limit: ByteSize) -> Error {
    let message = format!("the attachments of the mail have more than {limit} together");
    Error::new(codes::MAIL_ATTACHMENTS_TOO_LARGE, message)
}
