//! The operations that the store knows; s3s answers `NotImplemented` to all others.

use std::sync::Arc;

use async_trait::async_trait;
use s3s::dto;
use s3s::{S3, S3Request, S3Response, S3Result};

use super::{Store, buckets, copy, get, list, multipart, put};

/// The store as s3s wants it.
pub(super) struct Api(pub(super) Arc<Store>);

macro_rules! operations {
    ($($method:ident: $input:ident -> $output:ident = $function:path;)*) => {
        #[async_trait]
        impl S3 for Api {
            $(
                async fn $method(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                    $function(&self.0, request).await
                }
            )*
        }
    };
}

operations! {
    create_bucket: CreateBucketInput -> CreateBucketOutput = buckets::create;
    head_bucket: HeadBucketInput -> HeadBucketOutput = buckets::head;
    get_bucket_location: GetBucketLocationInput -> GetBucketLocationOutput = buckets::location;
    list_buckets: ListBucketsInput -> ListBucketsOutput = buckets::list;
    delete_bucket: DeleteBucketInput -> DeleteBucketOutput = buckets::delete;
    put_object: PutObjectInput -> PutObjectOutput = put::object;
    copy_object: CopyObjectInput -> CopyObjectOutput = copy::object;
    get_object_tagging: GetObjectTaggingInput -> GetObjectTaggingOutput = get::tags;
    get_object: GetObjectInput -> GetObjectOutput = get::object;
    head_object: HeadObjectInput -> HeadObjectOutput = get::head;
    delete_object: DeleteObjectInput -> DeleteObjectOutput = buckets::delete_object;
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput = buckets::delete_objects;
    list_objects: ListObjectsInput -> ListObjectsOutput = list::version_1;
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output = list::version_2;
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput = multipart::create;
    upload_part: UploadPartInput -> UploadPartOutput = multipart::part;
    upload_part_copy: UploadPartCopyInput -> UploadPartCopyOutput = copy::part;
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput = multipart::complete;
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput = multipart::abort;
    list_parts: ListPartsInput -> ListPartsOutput = multipart::list_parts;
    list_multipart_uploads: ListMultipartUploadsInput -> ListMultipartUploadsOutput = multipart::list_uploads;
}
