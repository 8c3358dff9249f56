//! Files on their way into the store: theirs is the fate of the run that they came for.

use multer::Field;
use serde_json::Value;
use ulid::Ulid;

use super::form::next_chunk;
use super::form_file_name::file_name;
use super::idempotency::RequestFingerprint;
use super::{ApiState, content_disposition};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::units::ByteSize;
use afterload_engine::artifact_url;
use afterload_engine::registry::PipelineSummary;

/// The files that came with one request.
pub(super) struct RunUploads {
    app: ApiState,
    run: String,
    keys: Vec<String>,
    /// Those that are whole.
    pub files: Vec<File>,
    /// What was sent, for a request that may be sent again.
    pub fingerprint: Option<RequestFingerprint>,
}

impl RunUploads {
    /// No files yet, for the run that will have this id.
    pub(super) fn new(app: ApiState, run: String) -> Self {
        Self { app, run, keys: Vec::new(), files: Vec::new(), fingerprint: None }
    }

    /// Streams one part into the store and gives the file's shape.
    ///
    /// # Errors
    /// `upload_too_large`, those of the form, and those of the store.
    pub(super) async fn store_part(
        &mut self,
        pipeline: &PipelineSummary,
        param: &str,
        mut field: Field<'_>,
    ) -> Result<Value> {
        let name = content_disposition::sanitize_file_name(&file_name(&field).unwrap_or_default(), param);
        let media = content_disposition::resolve_content_type(field.content_type().map(AsRef::as_ref), &name);
        let limit = self.size_limit(pipeline, param);
        let id = Ulid::generate().to_string();
        let key = format!("uploads/{}/{id}", self.run);
        let bucket = self.app.config().artifacts.clone();
        let mut upload = self.app.objects().start_upload(&bucket, &key, &*media).await?;
        self.keys.push(key);
        let mut size = 0;
        while let Some(bytes) = next_chunk(&mut field).await? {
            size += bytes.len() as u64;
            if let Some(fingerprint) = &mut self.fingerprint {
                fingerprint.add_bytes(&bytes);
            }
            if size > limit.0 {
                return Err(Error::new(codes::UPLOAD_TOO_LARGE, format!("`{name}` is larger than {limit}"))
                    .with_hint(format!("`limits.upload` in the configuration and `max_size` of `{param}` limit it")));
            }
            upload.write(bytes).await?;
        }
        if let Some(fingerprint) = &mut self.fingerprint {
            [param, &name, &media, &size.to_string()]
                .into_iter()
                .for_each(|fact| fingerprint.add_value(fact.as_bytes()));
        }
        let url = artifact_url(self.app.base_url(), &id);
        let file = upload.finish().await?.into_file(Some(id), name, Some(url));
        let value =
            serde_json::to_value(&file).map_err(|error| Error::new(codes::INTERNAL_ERROR, error.to_string()))?;
        self.files.push(file);
        Ok(value)
    }

    fn size_limit(&self, pipeline: &PipelineSummary, param: &str) -> ByteSize {
        let most = self.app.config().max_upload;
        pipeline.max_file_size(param).map_or(most, |own| own.min(most))
    }

    /// Leaves what has been stored where it is: nobody knows whether its run was accepted.
    pub(super) fn keep_files(&mut self) {
        for key in self.keys.drain(..) {
            tracing::warn!(object.key = key, run.id = self.run, "an upload stays whose run may have been accepted");
        }
    }

    /// Deletes what has been stored: the run it came for will not be.
    pub(super) async fn delete_files(self) {
        let bucket = &self.app.config().artifacts;
        for key in &self.keys {
            if let Err(error) = self.app.objects().delete_object(bucket, key).await {
                tracing::warn!(
                    object.key = key,
                    error.code = error.code().name(),
                    "an upload that nobody needs stays in the store: {}",
                    error.message()
                );
            }
        }
    }
}
