//! Bodies in flight: what uploads hold is bounded, however many there are and however their bytes are framed.

use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;

use super::support::{BUCKET, Store, all, connect, noise};

const MIB: usize = 1 << 20;

/// The SDK sends a file in `aws-chunked` framing, with a checksum behind it.
#[tokio::test(flavor = "multi_thread")]
async fn chunked_bodies_arrive_as_they_were_sent() {
    let store = Store::start().await;
    let path = store.dir.path().join("file");
    for size in [0, 1, 70_000, 9 * MIB + 1] {
        let bytes = noise(size);
        std::fs::write(&path, &bytes).unwrap();
        let body = ByteStream::from_path(&path).await.unwrap();
        let put = store.sdk().put_object().bucket(BUCKET).key("file").body(body).send().await.unwrap();
        assert!(put.checksum_crc32().is_some() || put.checksum_crc64_nvme().is_some(), "{put:?}");
        let file = store.objects.head_object(BUCKET, "file").await.unwrap().into_file(None, String::new(), None);
        assert!(all(store.objects.open_object(&file, 0).await.unwrap()).await == bytes, "{size} bytes");
    }
}

/// While many uploads are under way, their bytes go to the store early, in parts that others may not use.
#[tokio::test(flavor = "multi_thread")]
async fn parallel_uploads_share_a_budget_of_memory() {
    let store = Store::start().await;
    let bytes = Bytes::from(noise(7 * MIB));
    let (count, budget) = (24, 64 * MIB);
    let mut uploads = Vec::new();
    for number in 0..count {
        let mut upload = store.objects.start_upload(BUCKET, &format!("file-{number}"), "text/csv").await.unwrap();
        for piece in bytes.chunks(256 << 10) {
            upload.write(bytes.slice_ref(piece)).await.unwrap();
        }
        uploads.push(upload);
    }
    let stored: u64 = store.bodies().iter().map(|path| path.metadata().unwrap().len()).sum();
    let held = count * bytes.len() - usize::try_from(stored).unwrap();
    assert!(held <= budget + count * MIB, "{} MiB are held", held / MIB);
    for (number, upload) in uploads.into_iter().enumerate() {
        let file = upload.finish().await.unwrap().into_file(None, String::new(), None);
        assert_eq!(file.size, bytes.len() as u64, "{number}");
        assert!(all(store.objects.open_object(&file, 0).await.unwrap()).await == bytes, "{number}");
    }
    let by_http = connect(&store.endpoint, &store.credentials).await;
    let mut upload = by_http.start_upload(BUCKET, "file", "text/csv").await.unwrap();
    upload.write(bytes.clone()).await.unwrap();
    assert_eq!(upload.finish().await.unwrap().size, bytes.len() as u64);
}

/// Only the service itself may complete an upload of small parts.
#[tokio::test]
async fn small_parts_of_others_are_rejected() {
    use aws_sdk_s3::error::ProvideErrorMetadata;
    use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

    let store = Store::start().await;
    let sdk = store.sdk();
    let upload = sdk.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap();
    let mut parts = CompletedMultipartUpload::builder();
    for number in 1..=2 {
        let part = sdk.upload_part().bucket(BUCKET).key("k").upload_id(upload.upload_id().unwrap()).part_number(number);
        let part = part.body(ByteStream::from_static(b"small")).send().await.unwrap();
        parts = parts.parts(CompletedPart::builder().part_number(number).set_e_tag(part.e_tag).build());
    }
    let complete = sdk.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(upload.upload_id().unwrap());
    let refused = complete.multipart_upload(parts.build()).send().await.unwrap_err();
    assert_eq!(refused.code(), Some("EntityTooSmall"));
}
