//! The metadata of an object, and what tells its writes apart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use aws_sdk_s3::config::interceptors::BeforeDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::operation::head_object::HeadObjectOutput;

use super::{ObjectHeaders, ObjectMeta, unquote_etag};
use afterload_core::clock::UnixMillis;

/// The response header in which the embedded store names the id of an object. Every write has its own.
pub const OBJECT_ID_HEADER: &str = "x-afterload-object-id";

/// An object as the store shows it now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectHead {
    /// The metadata.
    pub meta: ObjectMeta,
    /// The id of the write, if the object is in an embedded store.
    pub object_id: Option<String>,
    /// When the object was written, in whole seconds.
    pub modified_at: Option<UnixMillis>,
    /// How many runs came before a run that the object starts; 0 for an object that no run wrote.
    pub hops: u32,
}

impl ObjectHead {
    pub(super) fn from_output(bucket: &str, key: &str, output: HeadObjectOutput, object_id: Option<String>) -> Self {
        Self {
            object_id,
            hops: hops_from_metadata(output.metadata()),
            modified_at: output.last_modified().and_then(|time| time.to_millis().ok()),
            meta: ObjectMeta {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                etag: unquote_etag(output.e_tag()),
                size: output.content_length().and_then(|length| u64::try_from(length).ok()).unwrap_or_default(),
                content_type: output.content_type().unwrap_or_default().to_owned(),
                // A bucket that keeps no versions may report the version `null`.
                version: output.version_id.filter(|version| version != "null"),
            },
        }
    }
}

/// Reads the hops that a step wrote with its object. A value that is not a number was not written by one.
fn hops_from_metadata(metadata: Option<&HashMap<String, String>>) -> u32 {
    let value = metadata.and_then(|metadata| metadata.get(ObjectHeaders::HOPS_METADATA));
    value.and_then(|value| value.trim().parse().ok()).unwrap_or_default()
}

/// Reads the header with the id, which the SDK does not parse.
#[derive(Clone, Debug, Default)]
pub(super) struct ObjectIdReader(Arc<Mutex<Option<String>>>);

impl ObjectIdReader {
    pub(super) fn take_id(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

impl Intercept for ObjectIdReader {
    fn name(&self) -> &'static str {
        "ObjectIdReader"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let id = context.response().headers().get(OBJECT_ID_HEADER).map(str::to_owned);
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = id;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hops_are_read_from_metadata() {
        let head = |value: Option<&str>| {
            let metadata = value.map(|value| HashMap::from([("afterload-hops".to_owned(), value.to_owned())]));
            let output = HeadObjectOutput::builder().set_metadata(metadata).build();
            ObjectHead::from_output("b", "k", output, None).hops
        };
        for (value, hops) in
            [(None, 0), (Some("3"), 3), (Some(" 16 "), 16), (Some("many"), 0), (Some("-1"), 0), (Some(""), 0)]
        {
            assert_eq!(head(value), hops, "{value:?}");
        }
    }
}
