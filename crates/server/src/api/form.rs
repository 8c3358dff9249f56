//! `multipart/form-data`, read part by part in bounded memory.

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

use super::disposition::file_name;
use super::extract::{body_too_large, json_invalid, late};
use super::pipelines::{LivePipeline, Takes};
use super::uploads::Uploads;
use afterload_core::error::{Error, Result};
use afterload_core::units::ByteSize;
use afterload_pipeline::params::{Invalid, from_form, refusal};

/// How long a client may send nothing.
const SILENCE: Duration = Duration::from_secs(60);
/// What may lie between two parts: their heads, and what comes before the first one.
const HEADS: u64 = 256 << 10;
/// The part that holds parameters as JSON.
const PARAMS: &str = "params";
/// What is still read of a form that is refused, so that the client gets to see the answer, and for how long.
const LEFTOVER: u64 = 16 << 20;
const PATIENCE: Duration = Duration::from_secs(3);

/// The body as the parser gets it: one chunk at a time, and no more than `allowance` until somebody refills that. The
/// parser itself reads ahead as long as bytes are there, and buffers a head until its end, however far that is.
struct Measured {
    body: BodyDataStream,
    allowance: Arc<AtomicU64>,
    rested: bool,
}

impl Stream for Measured {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !self.rested {
            self.rested = true;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let chunk = std::task::ready!(self.body.poll_next_unpin(context));
        self.rested = false;
        let Some(chunk) = chunk else { return Poll::Ready(None) };
        let chunk = chunk.map_err(|error| {
            Error::permanent("body_incomplete", format!("the form could not be read to its end: {error}"))
        });
        let allowed = self.allowance.load(Ordering::Relaxed);
        let taken = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
        self.allowance.store(allowed.saturating_sub(taken), Ordering::Relaxed);
        match allowed {
            0 => Poll::Ready(Some(Err(Error::permanent("multipart_invalid", "the head of a part does not end")))),
            _ => Poll::Ready(Some(chunk)),
        }
    }
}

/// A form that is being read.
pub(super) struct Form {
    parts: Multipart<'static>,
    allowance: Arc<AtomicU64>,
    text_left: u64,
    text_limit: ByteSize,
}

impl Form {
    /// A form in `body` between these boundaries, with at most `text_limit` in parts that are no files.
    pub(super) fn new(body: Body, boundary: &str, text_limit: ByteSize) -> Self {
        let allowance = Arc::new(AtomicU64::new(HEADS));
        let measured = Measured { body: body.into_data_stream(), allowance: allowance.clone(), rested: true };
        Self { parts: Multipart::new(measured, boundary), allowance, text_left: text_limit.0, text_limit }
    }

    /// Reads the form to its end. Files go to the store as they come; all else is a parameter.
    ///
    /// # Errors
    /// `multipart_invalid`, `params_invalid`, `json_invalid`, `body_too_large`, `body_incomplete`, `request_timeout`,
    /// those of the uploads.
    pub(super) async fn read(&mut self, pipeline: &LivePipeline, uploads: &mut Uploads) -> Result<Given> {
        let mut given = Given::default();
        while let Some(field) = self.next().await? {
            let Some(name) = field.name().map(str::to_owned) else {
                return Err(Error::permanent("multipart_invalid", "a part of the form has no name"));
            };
            if is_file(&field, pipeline) {
                let takes = must_take_files(pipeline, &name)?;
                given.must_take(&name, takes)?;
                self.allowance.store(u64::MAX, Ordering::Relaxed);
                if let Some(field) = chosen(field).await? {
                    let file = uploads.receive(pipeline, &name, field).await?;
                    given.add_file(name, takes, file);
                }
                continue;
            }
            let text = self.text(field, &name).await?;
            if name == PARAMS && !pipeline.params.contains_key(PARAMS) {
                let params: Map<String, Value> =
                    serde_json::from_str(&text).map_err(|error| json_invalid("the part `params`", &error))?;
                for (name, value) in params {
                    given.insert(name, value)?;
                }
            } else if let Some(value) = said(pipeline, &name, text) {
                given.insert(name, value)?;
            }
        }
        Ok(given)
    }

    async fn next(&mut self) -> Result<Option<Field<'static>>> {
        self.allowance.store(HEADS, Ordering::Relaxed);
        let next = tokio::time::timeout(SILENCE, self.parts.next_field()).await;
        next.map_err(|_| late())?.map_err(broken)
    }

    async fn text(&mut self, mut field: Field<'static>, name: &str) -> Result<String> {
        // Chunks that come while there is no room are refused below.
        self.allowance.store(u64::MAX, Ordering::Relaxed);
        let mut text = Vec::new();
        while let Some(chunk) = chunk(&mut field).await? {
            let left = self.text_left.checked_sub(chunk.len() as u64);
            self.text_left = left.ok_or_else(|| body_too_large(self.text_limit))?;
            text.extend_from_slice(&chunk);
        }
        String::from_utf8(text)
            .map_err(|_| Error::permanent("multipart_invalid", format!("the part `{name}` is not UTF-8")))
    }

    /// Reads on for a while after a refusal: a client that is still sending would see a broken connection instead of
    /// the answer.
    pub(super) async fn leave(mut self) {
        let reading = async {
            let mut left = LEFTOVER;
            self.allowance.store(LEFTOVER, Ordering::Relaxed);
            while let Ok(Some(mut field)) = self.parts.next_field().await {
                while let Ok(Some(chunk)) = field.chunk().await {
                    left = left.saturating_sub(chunk.len() as u64);
                    if left == 0 {
                        return;
                    }
                }
            }
        };
        let _ = tokio::time::timeout(PATIENCE, reading).await;
    }
}

/// What a form gave.
#[derive(Debug, Default)]
pub(super) struct Given {
    /// Parameters as they were written.
    pub params: Map<String, Value>,
    /// Parameters that hold what was uploaded.
    pub files: Map<String, Value>,
}

impl Given {
    fn must_take(&self, name: &str, takes: Takes) -> Result<()> {
        let full = takes == Takes::One && self.files.contains_key(name);
        match full || self.params.contains_key(name) {
            true => Err(unfit(name, "param_repeated", "it is given twice")),
            false => Ok(()),
        }
    }

    fn add_file(&mut self, name: String, takes: Takes, file: Value) {
        match (takes, self.files.get_mut(&name)) {
            (Takes::One, _) => drop(self.files.insert(name, file)),
            (Takes::Many, Some(Value::Array(files))) => files.push(file),
            (Takes::Many, _) => drop(self.files.insert(name, Value::Array(vec![file]))),
        }
    }

    fn insert(&mut self, name: String, value: Value) -> Result<()> {
        self.must_take(&name, Takes::One)?;
        self.params.insert(name, value);
        Ok(())
    }
}

/// The value of a part that is no file.
fn said(pipeline: &LivePipeline, name: &str, text: String) -> Option<Value> {
    match pipeline.declared.get(name) {
        Some(param) => from_form(param, text),
        None => Some(text.into()),
    }
}

/// A part with a file name is a file; so is one for a file parameter that names its type: some clients write names that
/// are not ASCII in a way that the parser does not know.
fn is_file(field: &Field<'_>, pipeline: &LivePipeline) -> bool {
    let for_file = field.name().is_some_and(|name| pipeline.takes(name).is_some());
    file_name(field).is_some() || (for_file && field.content_type().is_some())
}

fn must_take_files(pipeline: &LivePipeline, name: &str) -> Result<Takes> {
    if let Some(takes) = pipeline.takes(name) {
        return Ok(takes);
    }
    let choices: Vec<_> = pipeline.file_params().map(|(name, _)| format!("`{name}`")).collect();
    let hint = match choices.is_empty() {
        true => format!("`{}` takes no files", pipeline.name),
        false => format!("files can be given for {}", choices.join(", ")),
    };
    Err(unfit(name, "param_takes_no_file", format!("it is not a file param of `{}`", pipeline.name)).hint(hint))
}

fn unfit(name: &str, code: &'static str, message: impl Into<String>) -> Error {
    refusal(&[(name.to_owned(), Invalid::new(code, message))])
}

/// `None` for what a browser sends when no file was chosen: no name and no bytes.
async fn chosen(mut field: Field<'static>) -> Result<Option<Field<'static>>> {
    if file_name(&field).as_deref() != Some("") {
        return Ok(Some(field));
    }
    while let Some(bytes) = chunk(&mut field).await? {
        if !bytes.is_empty() {
            return Err(Error::permanent("multipart_invalid", "a file has no name")
                .hint("give the part a `filename`, as `curl -F file=@contacts.csv` does"));
        }
    }
    Ok(None)
}

/// The next bytes of a part.
pub(super) async fn chunk(field: &mut Field<'_>) -> Result<Option<Bytes>> {
    let next = tokio::time::timeout(SILENCE, field.chunk()).await;
    next.map_err(|_| late())?.map_err(broken)
}

/// What the parser says, in our words; our own errors come back as they were.
fn broken(error: multer::Error) -> Error {
    match error {
        multer::Error::StreamReadFailed(inner) => match inner.downcast::<Error>() {
            Ok(error) => *error,
            Err(inner) => {
                Error::permanent("body_incomplete", format!("the form could not be read to its end: {inner}"))
            }
        },
        multer::Error::IncompleteFieldData { .. } | multer::Error::IncompleteStream => {
            Error::permanent("multipart_invalid", "the form ends before its last boundary")
        }
        error => Error::permanent("multipart_invalid", format!("the form cannot be read: {error}")),
    }
}
