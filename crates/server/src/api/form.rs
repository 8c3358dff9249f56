//! Reads `multipart/form-data` part by part in bounded memory.

use std::sync::Arc;

use axum::body::Body;
use multer::{Field, Multipart};
use serde_json::{Map, Value};

use super::extract::{body_too_large, json_invalid, request_timeout};
use super::form_body::{FormBody, LimitedBody};
use super::form_field::{FORM_IDLE_TIMEOUT, multipart_error, next_chunk};
use super::form_file_name::file_name;
use super::uploads::RunUploads;
use crate::codes;
use afterload_core::decimal::parse_exact_json;
use afterload_core::error::{Error, ErrorCode, Result};
use afterload_core::text::{refuse_nul, refuse_nul_in_json};
use afterload_core::units::ByteSize;
use afterload_engine::registry::{FileArity, PipelineSummary};
use afterload_pipeline::params::{InvalidParam, param_invalid, unknown_param, value_from_form};

/// The maximum size of a part's headers, and of the text before the first part.
const MAX_PART_HEAD_BYTES: u64 = 16 << 10;
/// The part that holds parameters as JSON.
const PARAMS_PART: &str = "params";

/// How much a form may hold.
pub(super) struct FormLimits {
    /// The bytes of the whole form.
    pub total: u64,
    /// The error for a form with more.
    pub too_large: Error,
    /// The bytes of all parts without a file.
    pub text: ByteSize,
    /// The number of parts.
    pub parts: usize,
    /// The number of files.
    pub files: usize,
}

/// A form that is being read.
pub(super) struct MultipartForm {
    parts: Multipart<'static>,
    body: Arc<FormBody>,
    limits: FormLimits,
    text_left: u64,
    parts_seen: usize,
}

impl MultipartForm {
    /// Reads a form from `body`.
    pub(super) fn new(body: Body, boundary: &str, limits: FormLimits) -> Self {
        let body = FormBody::new(body, MAX_PART_HEAD_BYTES);
        let limited = LimitedBody::new(body.clone(), limits.total, limits.too_large.clone());
        let text_left = limits.text.0;
        Self { parts: Multipart::new(limited, boundary), body, limits, text_left, parts_seen: 0 }
    }

    /// Reads the form to its end. Files are streamed to the store; every other part is a parameter. A part that the
    /// pipeline does not declare is refused before its content is read.
    ///
    /// # Errors
    /// `multipart_invalid`, `params_invalid`, `json_invalid`, `text_invalid`, `body_too_large`, `upload_too_large`,
    /// `too_many_parts`, `too_many_files`, `body_incomplete`, `request_timeout`, and the errors of
    /// [`RunUploads::store_part`].
    pub(super) async fn read(&mut self, pipeline: &PipelineSummary, uploads: &mut RunUploads) -> Result<FormData> {
        let mut given = FormData::default();
        while let Some(field) = self.next_field().await? {
            let Some(name) = field.name().map(str::to_owned) else {
                return Err(Error::new(codes::MULTIPART_INVALID, "a part of the form has no name"));
            };
            if is_file_part(&field, pipeline) {
                let takes = require_file_param(pipeline, &name)?;
                given.check_not_repeated(&name, takes)?;
                self.body.allow(u64::MAX);
                if let Some(field) = skip_empty_file(field).await? {
                    self.check_file_count(pipeline, &name, &given, uploads)?;
                    let file = uploads.store_part(pipeline, &name, field).await?;
                    given.add_file(name, takes, file);
                }
                continue;
            }
            let is_declared = pipeline.declared.contains_key(&name);
            if !is_declared && name != PARAMS_PART {
                return Err(param_invalid(&name, unknown_param(&pipeline.declared, &name)));
            }
            let text = self.read_text(field, &name).await?;
            if is_declared {
                if let Some(value) = form_value(pipeline, &name, text) {
                    given.insert(name, value)?;
                }
                continue;
            }
            refuse_nul_in_json("the part `params`", text.as_bytes())?;
            let params: Map<String, Value> =
                parse_exact_json(&text).map_err(|error| json_invalid("the part `params`", &error))?;
            for (name, value) in params {
                given.insert(name, value)?;
            }
        }
        Ok(given)
    }

    fn check_file_count(
        &self,
        pipeline: &PipelineSummary,
        name: &str,
        given: &FormData,
        uploads: &RunUploads,
    ) -> Result<()> {
        if uploads.files.len() >= self.limits.files {
            return Err(too_many_files(self.limits.files));
        }
        let (found, most) = (given.count_files(name) + 1, pipeline.max_files(name));
        if found > most {
            return Err(param_invalid(name, InvalidParam::too_many_items(found, most)));
        }
        Ok(())
    }

    async fn next_field(&mut self) -> Result<Option<Field<'static>>> {
        self.body.allow(MAX_PART_HEAD_BYTES);
        let next = tokio::time::timeout(FORM_IDLE_TIMEOUT, self.parts.next_field()).await;
        let next = next.map_err(|_| request_timeout())?.map_err(multipart_error)?;
        self.parts_seen += usize::from(next.is_some());
        match self.parts_seen > self.limits.parts {
            true => {
                Err(Error::new(codes::TOO_MANY_PARTS, format!("the form has more than {} parts", self.limits.parts)))
            }
            false => Ok(next),
        }
    }

    async fn read_text(&mut self, mut field: Field<'static>, name: &str) -> Result<String> {
        // The limit below rejects text that is too long, with a better error.
        self.body.allow(u64::MAX);
        let mut text = Vec::new();
        while let Some(chunk) = next_chunk(&mut field).await? {
            let left = self.text_left.checked_sub(chunk.len() as u64);
            self.text_left = left.ok_or_else(|| body_too_large(self.limits.text))?;
            text.extend_from_slice(&chunk);
        }
        let text = String::from_utf8(text)
            .map_err(|_| Error::new(codes::MULTIPART_INVALID, format!("the part `{name}` is not UTF-8")))?;
        refuse_nul(&format!("the part `{name}`"), &text)?;
        Ok(text)
    }

    /// Ends the form after an error.
    pub(super) async fn drain_body(self) {
        self.body.drain().await;
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

    fn count_files(&self, name: &str) -> usize {
        match self.files.get(name) {
            Some(Value::Array(files)) => files.len(),
            file => usize::from(file.is_some()),
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
    param_invalid(name, InvalidParam::new(code, message))
}

/// The error for a request with more files than the configuration allows.
pub(super) fn too_many_files(most: usize) -> Error {
    Error::new(codes::TOO_MANY_FILES, format!("the request has more than {most} files"))
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
