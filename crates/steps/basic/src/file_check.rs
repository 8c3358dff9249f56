//! `file.check`: checks a file by its bytes, independent of its name and its declared type.

use futures::TryStreamExt;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::units::ByteSize;
use afterload_media_type as media;
use afterload_pipeline::{Templated, Validator};
use afterload_step_api::{ProgressUpdate, Step, StepContext};

/// The bytes that type detection reads. The header of a JPEG may follow large segments.
const SNIFF_BYTES: usize = 1 << 20;

/// Checks a file by its bytes: its type, its size, its digest. A pipeline that begins with it fails with a clear code
/// before any work is done.
///
/// Text has no signs of its own: whether it is a CSV, its declared type or the end of its name tells, but only text is
/// taken for one. The same holds for older Office documents such as `.xls`. Progress counts bytes. Promise: it changes nothing, so it may be repeated.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileCheck {
    /// The file.
    pub source: Templated<File>,
    /// The media types that are accepted, such as `[image/*, application/pdf]`; default: all.
    #[serde(default)]
    pub accept: Vec<String>,
    /// The most bytes, such as `20mb`.
    #[serde(default)]
    pub max_size: Option<ByteSize>,
    /// The SHA-256 that the file must have, as 64 hexadecimal digits.
    #[serde(default)]
    pub sha256: Option<Templated<String>>,
}

/// What later steps may use.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct FileCheckOutputs {
    /// The media type.
    pub content_type: String,
    /// Bytes.
    pub size: u64,
    /// The SHA-256, as 64 small hexadecimal digits.
    pub sha256: String,
    /// Pixels from left to right as they are stored, of a JPEG, PNG, GIF or WebP.
    pub width: Option<u32>,
    /// Pixels from top to bottom as they are stored, of a JPEG, PNG, GIF or WebP.
    pub height: Option<u32>,
}

impl Step for FileCheck {
    const KIND: &'static str = "file.check";
    const EXAMPLE: &'static str =
        "source: \"${{ params.photo }}\"\naccept: [image/*, application/pdf]\nmax_size: 20mb\n";
    type Outputs = FileCheckOutputs;
    type Deps = ();

    fn check(&self, check: &mut Validator<'_>) {
        for media in &self.accept {
            let fits = media.split_once('/').is_some_and(|(family, kind)| !family.is_empty() && !kind.is_empty());
            if !fits {
                check.report_invalid(
                    &["accept"],
                    format!("`{media}` is not a media type"),
                    "such as `text/csv` or `image/*`",
                );
            }
        }
        if let Some(digest) =
            self.sha256.as_ref().and_then(Templated::as_literal).filter(|digest| !is_sha256_hex(digest))
        {
            let message = format!("`{digest}` is not a SHA-256");
            check.report_invalid(&["sha256"], message, "64 hexadecimal digits, as `sha256sum` prints them");
        }
    }

    async fn run(self, ctx: StepContext, (): ()) -> Result<FileCheckOutputs> {
        let source = ctx.files.verifier().verify_file(&self.source.into_value()?)?;
        let expected = self.sha256.map(Templated::into_value).transpose()?;
        let accept: Vec<_> = self.accept.iter().map(|media| media.to_ascii_lowercase()).collect();
        let mut body = ctx.files.open(&source, 0).await?;
        check_file_size(body.meta.size, self.max_size)?;
        let total = Some(body.meta.size);
        let (mut head, mut digest, mut size) = (Vec::new(), Sha256::new(), 0);
        let mut content_type = None;
        while let Some(bytes) = body.stream.try_next().await? {
            ctx.check_stopped()?;
            digest.update(&bytes);
            size += bytes.len() as u64;
            check_file_size(size, self.max_size)?;
            if content_type.is_none() {
                head.extend_from_slice(&bytes[..bytes.len().min(SNIFF_BYTES - head.len())]);
                if head.len() == SNIFF_BYTES {
                    content_type = Some(accepted_media_type(&head, &accept, &source)?);
                }
            }
            ctx.progress.report_committed(ProgressUpdate {
                done: size,
                total,
                unit: "bytes".into(),
                ..ProgressUpdate::default()
            });
        }
        let content_type = content_type.map_or_else(|| accepted_media_type(&head, &accept, &source), Ok)?;
        let sha256 = hex::encode(digest.finalize());
        if let Some(expected) = expected.filter(|expected| !expected.eq_ignore_ascii_case(&sha256)) {
            let message = format!("the file's SHA-256 is `{sha256}`; expected `{expected}`");
            return Err(Error::new(codes::FILE_DIGEST_MISMATCH, message));
        }
        let (width, height) = media::read_image_size(&head).map(|size| (size.width, size.height)).unzip();
        Ok(FileCheckOutputs { content_type, size, sha256, width, height })
    }
}

fn is_sha256_hex(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|digit| digit.is_ascii_hexdigit())
}

fn check_file_size(size: u64, most: Option<ByteSize>) -> Result<()> {
    match most.filter(|most| size > most.0) {
        Some(most) => {
            Err(Error::new(codes::FILE_TOO_LARGE, format!("the file has {size} bytes or more; {most} are allowed")))
        }
        None => Ok(()),
    }
}

/// Returns the media type if it is accepted.
fn accepted_media_type(head: &[u8], accept: &[String], source: &File) -> Result<String> {
    let found = media::refine_media_type(media::detect_media_type(head), &source.content_type, &source.name);
    // Only text is taken for a CSV because of its name.
    let name = if found == media::MEDIA_TYPE_TEXT { source.name.as_str() } else { "" };
    if media::accepts_media_type(accept, found, name) {
        return Ok(found.to_owned());
    }
    // The bytes of a text file show only that it is text. Its exact type is known only from the declared type.
    let declared = source.content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let kind_of_text = declared.starts_with("text/") || declared.ends_with("/csv");
    if found == media::MEDIA_TYPE_TEXT && kind_of_text && media::accepts_media_type(accept, &declared, &source.name) {
        return Ok(declared);
    }
    let message = format!("the file is `{found}` by its bytes; expected {}", accept.join(", "));
    Err(Error::new(codes::FILE_TYPE_REFUSED, message))
}
