//! The supported operations; s3s answers `NotImplemented` to all others.

use std::sync::Arc;

use async_trait::async_trait;
use s3s::dto;
use s3s::{S3, S3Request, S3Response, S3Result};

use super::{S3Backend, buckets, copy, get, list, multipart, put};

/// Implements the S3 trait of s3s.
pub(super) struct S3Api(pub(super) Arc<S3Backend>);

macro_rules! impl_s3_operations {
    ($($method:ident: $input:ident -> $output:ident = $function:path;)*) => {
        #[async_trait]
        impl S3 for S3Api {
            $(
                async fn $method(&self, request: S3Request<dto::$input>) -> S3Result<S3Response<dto::$output>> {
                    $function(&self.0, request).await
                }
            )*
        }
    };
}

impl_s3_operations! {
    create_bucket: CreateBucketInput -> CreateBucketOutput = buckets::create_bucket;
    head_bucket: HeadBucketInput -> HeadBucketOutput = buckets::head_bucket;
    get_bucket_location: GetBucketLocationInput -> GetBucketLocationOutput = buckets::get_bucket_location;
    list_buckets: ListBucketsInput -> ListBucketsOutput = buckets::list_buckets;
    delete_bucket: DeleteBucketInput -> DeleteBucketOutput = buckets::delete_bucket;
    put_object: PutObjectInput -> PutObjectOutput = put::put_object;
    copy_object: CopyObjectInput -> CopyObjectOutput = copy::copy_object;
    get_object_tagging: GetObjectTaggingInput -> GetObjectTaggingOutput = get::get_object_tags;
    get_object: GetObjectInput -> GetObjectOutput = get::get_object;
    head_object: HeadObjectInput -> HeadObjectOutput = get::head_object;
    delete_object: DeleteObjectInput -> DeleteObjectOutput = buckets::delete_object;
    delete_objects: DeleteObjectsInput -> DeleteObjectsOutput = buckets::delete_objects;
    list_objects: ListObjectsInput -> ListObjectsOutput = list::list_objects_v1;
    list_objects_v2: ListObjectsV2Input -> ListObjectsV2Output = list::list_objects_v2;
    create_multipart_upload: CreateMultipartUploadInput -> CreateMultipartUploadOutput = multipart::create_multipart_upload;
    upload_part: UploadPartInput -> UploadPartOutput = multipart::upload_part;
    upload_part_copy: UploadPartCopyInput -> UploadPartCopyOutput = copy::copy_part;
    complete_multipart_upload: CompleteMultipartUploadInput -> CompleteMultipartUploadOutput = multipart::complete_multipart_upload;
    abort_multipart_upload: AbortMultipartUploadInput -> AbortMultipartUploadOutput = multipart::abort_multipart_upload;
    list_parts: ListPartsInput -> ListPartsOutput = multipart::list_parts;
    list_multipart_uploads: ListMultipartUploadsInput -> ListMultipartUploadsOutput = multipart::list_multipart_uploads;
}
