//! The client: objects of any size, any key, broken connections, and error codes.

use std::sync::atomic::Ordering;

use afterload::config::{BucketConfig, ObjectStoreConfig, ObjectsConfig, RequestChecksumMode, Secret};
use afterload_core::file::File;
use afterload_object_store::ObjectStore;
use bytes::Bytes;

use super::support::{BUCKET, Cutter, Store, all, connect, connect_named, named, noise};

fn code<T>(result: afterload_core::error::Result<T>) -> &'static str {
    match result {
        Ok(_) => "ok",
        Err(error) => error.code().name(),
    }
}

async fn upload(objects: &ObjectStore, key: &str, bytes: &[u8], chunk: usize) -> File {
    let mut upload = objects.start_upload(BUCKET, key, "text/csv").await.unwrap();
    for chunk in bytes.chunks(chunk) {
        upload.write(Bytes::copy_from_slice(chunk)).await.unwrap();
    }
    assert_eq!(upload.size(), bytes.len() as u64);
    upload.finish().await.unwrap().into_file(None, "name.csv".to_owned(), None)
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_of_every_size_round_trip() {
    let store = Store::start().await;
    let by_http = connect(&store.endpoint, &store.credentials).await;
    let part = 8 << 20;
    let sizes = [0, 1, part - 1, part, part + 1, 2 * part + 12_345];
    for (objects, size) in [&store.objects, &by_http].into_iter().flat_map(|objects| sizes.map(|size| (objects, size)))
    {
        let bytes = noise(size);
        let file = upload(objects, "file", &bytes, 1 << 20).await;
        assert_eq!((file.size, &*file.content_type), (size as u64, "text/csv"));
        let parts = if size > part { 1 + size / part } else { 0 };
        assert_eq!(file.etag.split_once('-').map_or(0, |(_, parts)| parts.parse().unwrap()), parts);
        let head = objects.head_object(BUCKET, "file").await.unwrap();
        assert_eq!((head.size, &head.etag, &*head.content_type), (file.size, &file.etag, "text/csv"));
        let body = objects.open_object(&file, 0).await.unwrap();
        assert_eq!(body.meta, head);
        assert!(all(body).await == bytes, "{size} bytes");
    }
    store.until_bodies(3).await;
}

/// Other clients compare the ETag of a part with its MD5. Within the process our own client skips the MD5.
#[tokio::test(flavor = "multi_thread")]
async fn same_parts_have_same_etag() {
    let store = Store::start().await;
    let by_http = connect(&store.endpoint, &store.credentials).await;
    let bytes = Bytes::from(noise(9 << 20));
    let mut etags = Vec::new();
    for (objects, ours) in
        [(&by_http, false), (&by_http, true), (&store.objects, false), (&store.objects, true), (&store.objects, true)]
    {
        let upload = objects.start_upload(BUCKET, "file", "text/csv").await.unwrap();
        let mut upload = if ours { upload.trusted() } else { upload };
        upload.write(bytes.clone()).await.unwrap();
        etags.push(upload.finish().await.unwrap().etag);
    }
    assert!(etags[..3].iter().all(|etag| *etag == etags[0]), "{etags:?}");
    assert!(etags[3] == etags[4] && etags[3] != etags[0], "{etags:?}");
}

#[tokio::test]
async fn reads_start_at_any_byte() {
    let store = Store::start().await;
    let bytes = noise(100_000);
    let file = upload(&store.objects, "file", &bytes, 7_777).await;
    for from in [0, 1, 50_000, 99_999, 100_000] {
        let body = store.objects.open_object(&file, from as u64).await.unwrap();
        assert_eq!(body.meta.size, 100_000);
        assert!(all(body).await == bytes[from..], "from {from}");
    }
    let multipart = upload(&store.objects, "large", &noise(9 << 20), 1 << 20).await;
    for from in [(8 << 20) - 1, 8 << 20, (8 << 20) + 1] {
        assert!(all(store.objects.open_object(&multipart, from as u64).await.unwrap()).await == noise(9 << 20)[from..]);
    }
}

#[tokio::test]
async fn errors_have_codes() {
    let store = Store::start().await;
    let objects = &store.objects;
    let file = upload(objects, "file", b"one", 10).await;
    assert_eq!(code(objects.head_object(BUCKET, "nothing").await), "object_not_found");
    assert_eq!(code(objects.put_object("nobucket", "k", "", Bytes::new()).await), "object_not_found");
    assert_eq!(code(objects.open_object(&File { key: "nothing".into(), ..file.clone() }, 0).await), "object_not_found");
    upload(objects, "file", b"two", 10).await;
    assert_eq!(code(objects.open_object(&file, 0).await), "object_changed");
    let any_state = File { etag: String::new(), ..file.clone() };
    assert_eq!(all(objects.open_object(&any_state, 1).await.unwrap()).await, b"wo");
    let too_far = objects.open_object(&any_state, 10).await.map(|_| ()).unwrap_err();
    assert_eq!((too_far.code().name(), too_far.is_transient()), ("object_store_error", false));
    objects.delete_object(BUCKET, "file").await.unwrap();
    objects.delete_object(BUCKET, "file").await.unwrap();
    assert_eq!(code(objects.open_object(&file, 0).await), "object_not_found");

    let mut stranger = named(&store.endpoint, &store.credentials);
    stranger.secret_key = Some(Secret::new("wrong"));
    let denied = connect_named(stranger).await.put_object(BUCKET, "file", "", Bytes::new()).await.unwrap_err();
    assert_eq!((denied.code().name(), denied.is_transient()), ("object_access_denied", false));
    assert!(!format!("{denied} {denied:?}").contains("wrong"));

    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = connect(&format!("http://{nobody}"), &store.credentials).await;
    let error = gone.head_object(BUCKET, "file").await.unwrap_err();
    assert_eq!((error.code().name(), error.is_transient()), ("object_store_unavailable", true));
}

#[tokio::test]
async fn buckets_map_to_their_stores() {
    let (here, there) = (Store::start().await, Store::start().await);
    let mut config = ObjectsConfig::default();
    config.stores.insert("there".to_owned(), named(&there.endpoint, &there.credentials));
    config
        .buckets
        .insert("elsewhere".to_owned(), BucketConfig { store: Some("there".to_owned()), ..BucketConfig::default() });
    let access = here.embedded.access(here.endpoint.clone());
    let both = ObjectStore::connect(&config, Some(access)).await.unwrap();
    for bucket in ["elsewhere", "embedded"] {
        both.ensure_bucket(bucket).await.unwrap();
        both.ensure_bucket(bucket).await.unwrap();
        both.put_object(bucket, "k", "text/plain", Bytes::from(bucket)).await.unwrap();
    }
    assert!(there.has("elsewhere").await && here.has("embedded").await);
    assert!(!here.has("elsewhere").await);

    let alone = ObjectStore::connect(&config, None).await.unwrap();
    assert_eq!(code(alone.head_object("embedded", "k").await), "bucket_not_configured");
    config
        .buckets
        .insert("lost".to_owned(), BucketConfig { store: Some("nowhere".to_owned()), ..BucketConfig::default() });
    assert_eq!(code(ObjectStore::connect(&config, None).await), "config_invalid");
    let half = ObjectStoreConfig { access_key: Some(Secret::new("half")), ..ObjectStoreConfig::default() };
    let config = ObjectsConfig { stores: [("half".to_owned(), half)].into(), ..ObjectsConfig::default() };
    assert_eq!(code(ObjectStore::connect(&config, None).await), "config_invalid");
}

impl Store {
    async fn has(&self, bucket: &str) -> bool {
        self.sdk().head_object().bucket(bucket).key("k").send().await.is_ok()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_download_resumes() {
    let store = Store::start().await;
    let bytes = noise(3 << 20);
    let file = upload(&store.objects, "file", &bytes, 1 << 20).await;
    let cutter = Cutter::start(&store.endpoint, 4, 700_000).await;
    let objects = connect(&cutter.endpoint, &store.credentials).await;
    let body = objects.open_object(&file, 10).await.unwrap();
    assert!(all(body).await == bytes[10..]);
    assert_eq!(cutter.cuts.load(Ordering::SeqCst), 0, "all four connections were cut");
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_download_of_changed_object_does_not_resume() {
    let store = Store::start().await;
    let file = upload(&store.objects, "file", &noise(3 << 20), 1 << 20).await;
    let cutter = Cutter::start(&store.endpoint, 1, 700_000).await;
    let objects = connect(&cutter.endpoint, &store.credentials).await;
    let mut body = objects.open_object(&file, 0).await.unwrap();
    upload(&store.objects, "file", &noise(4 << 20), 1 << 20).await;
    let ended = loop {
        match futures::StreamExt::next(&mut body.stream).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("the bytes of two objects were mixed"),
        }
    };
    assert_eq!((ended.code().name(), ended.is_transient()), ("object_changed", false));
}

#[tokio::test(flavor = "multi_thread")]
async fn checksums_are_optional() {
    let store = Store::start().await;
    let config = ObjectStoreConfig {
        checksums: RequestChecksumMode::WhenRequired,
        ..named(&store.endpoint, &store.credentials)
    };
    let objects = connect_named(config).await;
    let bytes = noise(9 << 20);
    let file = upload(&objects, "file", &bytes, 1 << 20).await;
    assert!(all(objects.open_object(&file, 0).await.unwrap()).await == bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_upload_leaves_nothing() {
    let store = Store::start().await;
    let mut upload = store.objects.start_upload(BUCKET, "file", "text/csv").await.unwrap();
    for _ in 0..5 {
        upload.write(noise(8 << 20).into()).await.unwrap();
    }
    drop(upload);
    let sdk = store.sdk();
    for _ in 0..1000 {
        let listed = sdk.list_multipart_uploads().bucket(BUCKET).send().await.unwrap();
        if listed.uploads().is_empty() {
            store.until_bodies(0).await;
            assert_eq!(code(store.objects.head_object(BUCKET, "file").await), "object_not_found");
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("the upload is still there");
}

#[tokio::test(flavor = "multi_thread")]
async fn files_of_an_attempt_are_deleted_by_prefix() {
    let store = Store::start().await;
    let keys = ["run 1/a+b", "run 1/%2F", "run 1/ü\n\r\u{1}", "run 1//", "run 1/../x"];
    for key in keys.iter().copied().chain(["run 10/kept", "run 1"]) {
        store.objects.put_object(BUCKET, key, "text/plain", Bytes::from_static(b"x")).await.unwrap();
    }
    store.sdk().create_multipart_upload().bucket(BUCKET).key("run 1/half").send().await.unwrap();
    assert_eq!(store.objects.delete_prefix(BUCKET, "run 1/").await.unwrap(), keys.len() as u64);
    assert_eq!(store.objects.delete_prefix(BUCKET, "run 1/").await.unwrap(), 0);
    assert!(store.sdk().list_multipart_uploads().bucket(BUCKET).send().await.unwrap().uploads().is_empty());
    store.until_bodies(2).await;
    assert_eq!(code(store.objects.delete_prefix(BUCKET, "").await), "prefix_empty");
}

/// A file of 200 MB passes through client and server in this one process.
#[tokio::test(flavor = "multi_thread")]
async fn memory_stays_constant_for_large_files() {
    let store = Store::start().await;
    let piece = Bytes::from(noise(1 << 20));
    store.objects.put_object(BUCKET, "small", "text/plain", piece.clone()).await.unwrap();
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    let before = peak();
    let mut upload = store.objects.start_upload(BUCKET, "file", "text/csv").await.unwrap();
    for _ in 0..200 {
        upload.write(piece.clone()).await.unwrap();
    }
    let file = upload.finish().await.unwrap().into_file(None, "file".to_owned(), None);
    let mut body = store.objects.open_object(&file, 0).await.unwrap();
    let mut size = 0;
    while let Some(chunk) = futures::StreamExt::next(&mut body.stream).await {
        size += chunk.unwrap().len();
    }
    assert_eq!(size, 200 << 20);
    let grown = peak() - before;
    assert!(grown < 64 << 10, "the peak rose by {grown} KiB");
}

/// Returns the peak memory of this process in KiB.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
