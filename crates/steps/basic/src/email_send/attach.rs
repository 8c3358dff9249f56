//! Files that travel in the mail itself. They are read whole, so how large they may be together is known before.

use futures::StreamExt;

use super::{Attach, EmailSendDeps};
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::object_names::{clean, content_type};
use afterload_core::units::ByteSize;
use afterload_mailer::Attachment;
use afterload_object_store::Objects;
use afterload_pipeline::Dynamic;
use afterload_step_api::Context;

/// No mail program shows more of them well.
const MOST: usize = 100;

/// Reads the files that are there.
pub(super) async fn read(files: Dynamic<Attach>, ctx: &Context, deps: &EmailSendDeps) -> Result<Vec<Attachment>> {
    let files = files.value()?.0.into_iter().map(Dynamic::value).collect::<Result<Vec<_>>>()?;
    let files = files.into_iter().flatten().collect::<Vec<File>>();
    if files.len() > MOST {
        let message = format!("the mail has {} attachments; expected at most {MOST}", files.len());
        return Err(Error::permanent("mail_attachment_count", message).hint("pack them, or link to them with `links`"));
    }
    let limit = deps.mailer.attachment_limit();
    // What they are said to have: nothing is read in vain.
    if files.iter().map(|file| file.size).fold(0, u64::saturating_add) > limit.0 {
        return Err(too_large(limit));
    }
    let (mut attachments, mut left) = (Vec::with_capacity(files.len()), limit.0);
    for file in files {
        let bytes = whole(&file, left, ctx, &deps.objects).await?.ok_or_else(|| too_large(limit))?;
        left -= bytes.len() as u64;
        let name = clean(&file.name, "file");
        attachments.push(Attachment::new(&name, &content_type(Some(&file.content_type), &name), bytes));
    }
    Ok(attachments)
}

/// The bytes of a file; `None`: there are more than `most`.
async fn whole(file: &File, most: u64, ctx: &Context, objects: &Objects) -> Result<Option<Vec<u8>>> {
    let mut body = objects.open(file, 0).await?;
    let mut bytes = Vec::new();
    while let Some(chunk) = body.stream.next().await {
        ctx.stopped()?;
        let chunk = chunk?;
        if (bytes.len() + chunk.len()) as u64 > most {
            return Ok(None);
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(Some(bytes))
}

fn too_large(limit: ByteSize) -> Error {
    let message = format!("the attachments of the mail have more than {limit} together");
    Error::permanent("mail_attachments_too_large", message)
        .hint("link to the files with `links`, or raise `limits.mail.attachments`")
}
