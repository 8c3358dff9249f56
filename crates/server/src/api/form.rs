//! Reads `multipart/form-data` part by part in bounded memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures::{Stream, StreamExt};
use multer::{Field, Multipart};
use serde_json::{Map, Value};

use super::extract::{body_error, body_too_large, json_invalid, request_timeout};
use super::form_field::{FORM_IDLE_TIMEOUT, multipart_error, next_chunk};
use super::form_file_name::file_name;
use super::uploads::RunUploads;
use crate::codes;
use afterload_core::error::{Error, ErrorCode, Result};
use afterload_core::units::ByteSize;
use afterload_engine::registry::{FileArity, PipelineSummary};
use afterload_pipeline::params::{InvalidParam, params_invalid, value_from_form};

/// The maximum size of a part's headers, and of the text before the first part.
const MAX_PART_HEAD_BYTES: u64 = 256 << 10;
/// The part that holds parameters as JSON.
const PARAMS_PART: &str = "params";
/// How much of a rejected form is still read, and for how long, so that the client receives the response.
const MAX_DRAIN_BYTES: u64 = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(3);

/// The body for the parser: one chunk at a time, and at most `allowance` bytes until it is refilled. The parser itself
/// reads ahead without a limit and buffers headers until their end, however long they are.
struct LimitedBody {
    body: BodyDataStream,
    allowance: Arc<AtomicU64>,
    yielded: bool,
}

impl Stream for LimitedBody {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.yielded {
            self.yielded = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let chunk = std::task::ready!(self.body.poll_next_unpin(context));
        self.yielded = false;
        let Some(chunk) = chunk else { return Poll::Ready(None) };
        let chunk = chunk.map_err(|error| body_error("the form", &error));
        let allowed = self.allowance.load(Ordering::Relaxed);
        let taken = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.allowance.store(allowed.saturating_sub(taken), Ordering::Relaxed);
        match allowed {
            0 => Poll::Ready(Some(Err(Error::new(codes::MULTIPART_INVALID, "the head of a part does not end")))),
            _ => Poll::Ready(Some(chunk)),
        }
    }
}

/// A form that is being read.
pub(super) struct MultipartForm {
    parts: Multipart<'static>,
    allowance: Arc<AtomicU64>,
    text_left: u64,
    text_limit: ByteSize,
}

impl MultipartForm {
    /// Reads a form from `body`. Parts without a file may have `text_limit` bytes in total.
    pub(super) fn new(body: Body, boundary: &str, text_limit: ByteSize) -> Self {
        let allowance = Arc::new(AtomicU64::new(MAX_PART_HEAD_BYTES));
        let measured = LimitedBody { body: body.into_data_stream(), allowance: allowance.clone(), yielded: true };
        Self { parts: Multipart::new(measured, boundary), allowance, text_left: text_limit.0, text_limit }
    }

    /// Reads the form to its end. Files are streamed to the store; every other part is a parameter.
    ///
    /// # Errors
    /// `multipart_invalid`, `params_invalid`, `json_invalid`, `body_too_large`, `body_incomplete`, `request_timeout`,
    /// and the errors of [`RunUploads::store_part`].
    pub(super) async fn read(&mut self, pipeline: &PipelineSummary, uploads: &mut RunUploads) -> Result<FormData> {
        let mut given = FormData::default();
        while let Some(field) = self.next_field().await? {
            let Some(name) = field.name().map(str::to_owned) else {
                return Err(Error::new(codes::MULTIPART_INVALID, "a part of the form has no name"));
            };
            if is_file_part(&field, pipeline) {
                let takes = require_file_param(pipeline, &name)?;
                given.check_not_repeated(&name, takes)?;
                self.allowance.store(u64::MAX, Ordering::Relaxed);
                if let Some(field) = skip_empty_file(field).await? {
                    let file = uploads.store_part(pipeline, &name, field).await?;
                    given.add_file(name, takes, file);
                }
                continue;
            }
            let text = self.read_text(field, &name).await?;
            if name == PARAMS_PART && !pipeline.params.contains_key(PARAMS_PART) {
                let params: Map<String, Value> =
                    serde_json::from_str(&text).map_err(|error| json_invalid("the part `params`", &error))?;
                for (name, value) in params {
                    given.insert(name, value)?;
                }
            } else if let Some(value) = form_value(pipeline, &name, text) {
                given.insert(name, value)?;
            }
        }
        Ok(given)
    }

    async fn next_field(&mut self) -> Result<Option<Field<'static>>> {
        self.allowance.store(MAX_PART_HEAD_BYTES, Ordering::Relaxed);
        let next = tokio::time::timeout(FORM_IDLE_TIMEOUT, self.parts.next_field()).await;
        next.map_err(|_| request_timeout())?.map_err(multipart_error)
    }

    async fn read_text(&mut self, mut field: Field<'static>, name: &str) -> Result<String> {
        // The limit below rejects text that is too long, with a better error.
        self.allowance.store(u64::MAX, Ordering::Relaxed);
        let mut text = Vec::new();
        while let Some(chunk) = next_chunk(&mut field).await? {
            let left = self.text_left.checked_sub(chunk.len() as u64);
            self.text_left = left.ok_or_else(|| body_too_large(self.text_limit))?;
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text)
            .map_err(|_| Error::new(codes::MULTIPART_INVALID, format!("the part `{name}` is not UTF-8")))
    }

    /// Reads on for a while after an error: a client that is still sending would see a broken connection instead of the
    /// response.
    pub(super) async fn drain_body(mut self) {
        let reading = async {
            let mut left = MAX_DRAIN_BYTES;
            self.allowance.store(MAX_DRAIN_BYTES, Ordering::Relaxed);
            while let Ok(Some(mut field)) = self.parts.next_field().await {
                while let Ok(Some(chunk)) = field.chunk().await {
                    left = left.saturating_sub(chunk.len() as u64);
                    if left == 0 {
                        return;
                    }
                }
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIMEOUT, reading).await;
    }
}

/// The content of a form.
#[derive(Debug, Default)]
pub(super) struct FormData {
    /// Parameters as they were sent.
    pub params: Map<String, Value>,
    /// Parameters that hold uploaded files.
    pub files: Map<String, Value>,
}

impl FormData {
    fn check_not_repeated(&self, name: &str, takes: FileArity) -> Result<()> {
        let full = takes == FileArity::One && self.files.contains_key(name);
        match full || self.params.contains_key(name) {
            true => Err(param_error(name, codes::PARAM_REPEATED, "it is given twice")),
            false => Ok(()),
        }
    }

    fn add_file(&mut self, name: String, takes: FileArity, file: Value) {
        match (takes, self.files.get_mut(&name)) {
            (FileArity::One, _) => drop(self.files.insert(name, file)),
            (FileArity::Many, Some(Value::Array(files))) => files.push(file),
            (FileArity::Many, _) => drop(self.files.insert(name, Value::Array(vec![file]))),
        }
    }

    fn insert(&mut self, name: String, value: Value) -> Result<()> {
        self.check_not_repeated(&name, FileArity::One)?;
        self.params.insert(name, value);
        Ok(())
    }
}

/// The value of a part without a file.
fn form_value(pipeline: &PipelineSummary, name: &str, text: String) -> Option<Value> {
    match pipeline.declared.get(name) {
        Some(param) => value_from_form(param, text),
        None => Some(text.into()),
    }
}

/// A part with a file name is a file. So is a part for a file parameter that has a content type: some clients send
/// non-ASCII names in a form that the parser cannot read.
fn is_file_part(field: &Field<'_>, pipeline: &PipelineSummary) -> bool {
    let for_file = field.name().is_some_and(|name| pipeline.file_arity(name).is_some());
    file_name(field).is_some() || (for_file && field.content_type().is_some())
}

fn require_file_param(pipeline: &PipelineSummary, name: &str) -> Result<FileArity> {
    if let Some(takes) = pipeline.file_arity(name) {
        return Ok(takes);
    }
    let choices: Vec<_> = pipeline.file_params().map(|(name, _)| format!("`{name}`")).collect();
    let hint = match choices.is_empty() {
        true => format!("`{}` takes no files", pipeline.name),
        false => format!("files can be given for {}", choices.join(", ")),
    };
    Err(param_error(name, codes::PARAM_TAKES_NO_FILE, format!("it is not a file param of `{}`", pipeline.name))
        .with_hint(hint))
}

fn param_error(name: &str, code: ErrorCode, message: impl Into<String>) -> Error {
    params_invalid(&[(name.to_owned(), InvalidParam::new(code, message))])
}

/// `None` for the part that a browser sends if no file was chosen: no name and no bytes.
async fn skip_empty_file(mut field: Field<'static>) -> Result<Option<Field<'static>>> {
    if file_name(&field).as_deref() != Some("") {
        return Ok(Some(field));
    }
    while let Some(bytes) = next_chunk(&mut field).await? {
        if !bytes.is_empty() {
            return Err(Error::new(codes::MULTIPART_INVALID, "a file has no name")
                .with_hint("give the part a `filename`, as `curl -F file=@contacts.csv` does"));
        }
    }
    Ok(None)
}
