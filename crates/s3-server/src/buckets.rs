//! Bucket operations, and deletion of objects.

use std::sync::Arc;

use s3s::dto::{
    Bucket, CreateBucketInput, CreateBucketOutput, DeleteBucketInput, DeleteBucketOutput, DeleteObjectInput,
    DeleteObjectOutput, DeleteObjectsInput, DeleteObjectsOutput, DeletedObject, Error, GetBucketLocationInput,
    GetBucketLocationOutput, HeadBucketInput, HeadBucketOutput, ListBucketsInput, ListBucketsOutput,
};
use s3s::{S3ErrorCode, S3Request, S3Response, S3Result};

use super::S3Backend;
use super::error::s3_error;
use super::error_text::STORE_REGION;
use super::get::to_timestamp;
use super::index::{buckets, objects};
use super::list::store_owner;

const MAX_LISTED_BUCKETS: i32 = 10_000;

pub(super) async fn create_bucket(
    store: &Arc<S3Backend>,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let bucket = request.input.bucket;
    let location = Some(format!("/{bucket}"));
    store.write_index(move |tx| buckets::insert_bucket(tx, &bucket)).await?;
    Ok(S3Response::new(CreateBucketOutput { location }))
}

pub(super) async fn head_bucket(
    store: &Arc<S3Backend>,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    store.read_index(move |sql| buckets::ensure_bucket_exists(sql, &request.input.bucket)).await?;
    Ok(S3Response::new(HeadBucketOutput { bucket_region: Some(STORE_REGION.to_owned()), ..Default::default() }))
}

pub(super) async fn get_bucket_location(
    store: &Arc<S3Backend>,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    store.read_index(move |sql| buckets::ensure_bucket_exists(sql, &request.input.bucket)).await?;
    // S3 represents us-east-1 by an empty constraint.
    Ok(S3Response::new(GetBucketLocationOutput::default()))
}

pub(super) async fn list_buckets(
    store: &Arc<S3Backend>,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let ListBucketsInput { continuation_token, max_buckets, prefix, .. } = request.input;
    let max = max_buckets.unwrap_or(MAX_LISTED_BUCKETS);
    if !(1..=MAX_LISTED_BUCKETS).contains(&max) {
        return Err(s3_error(S3ErrorCode::InvalidArgument, "max-buckets is from 1 to 10,000."));
    }
    let wanted = prefix.clone().unwrap_or_default();
    // The token is the first bucket name of the next page.
    let from = continuation_token.unwrap_or_default();
    let mut found =
        store.read_index(move |sql| buckets::list_buckets(sql, &wanted, &from, max.unsigned_abs() + 1)).await?;
    let next = found.get(max.unsigned_abs() as usize).map(|bucket| bucket.name.clone());
    found.truncate(max.unsigned_abs() as usize);
    let found = found.into_iter().map(|bucket| Bucket {
        name: Some(bucket.name),
        creation_date: Some(to_timestamp(bucket.created_at)),
        ..Default::default()
    });
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(found.collect()),
        owner: Some(store_owner()),
        continuation_token: next,
        prefix,
    }))
}

pub(super) async fn delete_bucket(
    store: &Arc<S3Backend>,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    store.write_index(move |tx| buckets::delete_empty_bucket(tx, &request.input.bucket)).await?;
    Ok(S3Response::new(DeleteBucketOutput {}))
}

pub(super) async fn delete_object(
    store: &Arc<S3Backend>,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let DeleteObjectInput { bucket, key, if_match, if_match_last_modified_time, if_match_size, .. } = request.input;
    if if_match.is_some() || if_match_last_modified_time.is_some() || if_match_size.is_some() {
        return Err(s3_error(S3ErrorCode::NotImplemented, "Conditional deletes are not implemented by this store."));
    }
    let done = store.write_index(move |tx| {
        buckets::ensure_bucket_exists(&tx.sql, &bucket)?;
        objects::delete_object(tx, &bucket, &key)
    });
    done.await?;
    Ok(S3Response::new(DeleteObjectOutput::default()))
}

pub(super) async fn delete_objects(
    store: &Arc<S3Backend>,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let DeleteObjectsInput { bucket, delete, .. } = request.input;
    if delete.objects.is_empty() || delete.objects.len() > 1000 {
        return Err(S3ErrorCode::MalformedXML.into());
    }
    let (mut keys, mut errors) = (Vec::new(), Vec::new());
    for object in delete.objects {
        let refused = if object.e_tag.is_some() || object.last_modified_time.is_some() || object.size.is_some() {
            Some((S3ErrorCode::NotImplemented, "Conditional deletes are not implemented by this store."))
        } else if object.version_id.as_deref().is_some_and(|version| version != "null") {
            Some((S3ErrorCode::NoSuchVersion, "This store keeps no versions."))
        } else {
            None
        };
        match refused {
            Some((code, message)) => errors.push(Error {
                code: Some(code.as_str().to_owned()),
                key: Some(object.key),
                message: Some(message.to_owned()),
                version_id: object.version_id,
            }),
            None => keys.push(object.key),
        }
    }
    let deleted = store.write_index(move |tx| {
        buckets::ensure_bucket_exists(&tx.sql, &bucket)?;
        keys.iter().try_for_each(|key| objects::delete_object(tx, &bucket, key))?;
        Ok(keys)
    });
    let deleted = deleted.await?.into_iter().map(|key| DeletedObject { key: Some(key), ..Default::default() });
    let deleted = (!delete.quiet.unwrap_or_default()).then(|| deleted.collect());
    Ok(S3Response::new(DeleteObjectsOutput { deleted, errors: Some(errors), ..Default::default() }))
}
