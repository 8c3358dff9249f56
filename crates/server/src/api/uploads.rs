//! Uploaded files of a run request. They are deleted if the run is not created.

use multer::Field;
use serde_json::{Value, json};
use ulid::Ulid;

use super::form_field::next_chunk;
use super::form_file_name::file_name;
use super::idempotency::RequestFingerprint;
use super::{ApiState, content_disposition};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::file::File;
use afterload_core::units::ByteSize;
use afterload_engine::artifact_url;
use afterload_engine::registry::PipelineSummary;

/// The uploaded files of one request.
pub(super) struct RunUploads {
    app: ApiState,
    run: String,
    keys: Vec<String>,
    /// The completely stored files.
    pub files: Vec<File>,
    /// The fingerprint of the request, if it has an idempotency key.
    pub fingerprint: Option<RequestFingerprint>,
}

impl RunUploads {
    /// Creates an empty set for the run with this id.
    pub(super) fn new(app: ApiState, run: String) -> Self {
        Self { app, run, keys: Vec::new(), files: Vec::new(), fingerprint: None }
    }

    /// Streams one part into the store and returns the JSON of the file, sealed for the run.
    ///
    /// # Errors
    /// `upload_too_large`, and the errors of the form and the store.
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
        let value = self.app.engine().seal_file(&self.run, &file).seal_copy(&json!(file));
        self.files.push(file);
        Ok(value)
    }

    fn size_limit(&self, pipeline: &PipelineSummary, param: &str) -> ByteSize {
        let most = self.app.config().max_upload;
        pipeline.max_file_size(param).map_or(most, |own| own.min(most))
    }

    /// Keeps the stored files: the run may have been created.
    pub(super) fn keep_files(&mut self) {
        for key in self.keys.drain(..) {
            tracing::warn!(
                object.key = key,
                run.id = self.run,
                "an upload is kept because its run may have been created"
            );
        }
    }

    /// Deletes the stored files: the run will not be created.
    pub(super) async fn delete_files(self) {
        let bucket = &self.app.config().artifacts;
        for key in &self.keys {
            if let Err(error) = self.app.objects().delete_object(bucket, key).await {
                tracing::warn!(
                    object.key = key,
                    error.code = error.code().name(),
                    "an unused upload could not be deleted: {}",
                    error.message()
                );
            }
        }
    }
}
