//! The storage folder: shared by processes, consistent under concurrent writers, with an event per change.

use std::collections::BTreeSet;

use afterload_core::clock::Clock;
use afterload_s3_server::{EmbeddedStore, ObjectEventKind, bind_listener};
use aws_sdk_s3::primitives::ByteStream;
use bytes::Bytes;
use futures::StreamExt;
use tokio::task::JoinSet;

use super::support::{BUCKET, Store, all, connect, noise, serve};

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_writers_of_one_key_leave_one_object() {
    let store = Store::start().await;
    let mut writers = JoinSet::new();
    for writer in 0..20u8 {
        let objects = store.objects.clone();
        writers.spawn(async move {
            let bytes = Bytes::from(vec![writer; 100_000]);
            objects.put_object(BUCKET, "key", "text/plain", bytes).await.unwrap().etag
        });
    }
    let etags: BTreeSet<String> = writers.join_all().await.into_iter().collect();
    let stored = store.objects.head_object(BUCKET, "key").await.unwrap();
    assert!(etags.contains(&stored.etag));
    let bytes =
        all(store.objects.open_object(&stored.clone().into_file(None, String::new(), None), 0).await.unwrap()).await;
    assert!(bytes.len() == 100_000 && bytes.iter().all(|byte| *byte == bytes[0]), "bodies are never mixed");
    store.until_bodies(1).await;
    let events = store.embedded.events_after(0, 100).await.unwrap();
    assert_eq!(events.len(), 20);
    assert_eq!(events[19].etag, stored.etag, "the last event is of the object that is there");
}

#[tokio::test]
async fn every_change_has_an_event() {
    let store = Store::start().await;
    store.objects.put_object(BUCKET, "a b/ü", "text/plain", Bytes::from_static(b"one")).await.unwrap();
    store.objects.delete_object(BUCKET, "a b/ü").await.unwrap();
    store.objects.delete_object(BUCKET, "a b/ü").await.unwrap();
    let events = store.embedded.events_after(0, 10).await.unwrap();
    let facts: Vec<_> = events.iter().map(|event| (event.kind, &*event.bucket, &*event.key, event.size)).collect();
    let expected = [(ObjectEventKind::Created, BUCKET, "a b/ü", 3), (ObjectEventKind::Removed, BUCKET, "a b/ü", 3)];
    assert_eq!(facts, expected);
    assert_eq!(events[0].etag, "f97c5d29941bfb1b2fdab0874906ab82");
    assert_eq!(store.embedded.events_after(events[0].seq, 10).await.unwrap(), events[1..]);
    store.embedded.delete_events(events[1].seq).await.unwrap();
    assert!(store.embedded.events_after(0, 10).await.unwrap().is_empty());
    store.objects.put_object(BUCKET, "k", "text/plain", Bytes::new()).await.unwrap();
    let later = store.embedded.events_after(0, 10).await.unwrap();
    assert!(later[0].seq > events[1].seq, "numbers are never used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_processes_share_a_folder() {
    let store = Store::start().await;
    let other =
        EmbeddedStore::open(&store.dir.path().join("objects"), store.credentials.clone(), Clock::system()).unwrap();
    let endpoint = serve(&other, &store.stop).await;
    let there = connect(&endpoint, &store.credentials).await;
    let mut writers = JoinSet::new();
    for number in 0..40 {
        let objects = if number % 2 == 0 { store.objects.clone() } else { there.clone() };
        writers.spawn(async move {
            let key = format!("{:02}", number / 2);
            objects.put_object(BUCKET, &key, "text/plain", Bytes::from(vec![number; 1000])).await.unwrap();
        });
    }
    writers.join_all().await;
    for number in 0..20 {
        let (key, mut etags) = (format!("{number:02}"), BTreeSet::new());
        for objects in [&store.objects, &there] {
            let stored = objects.head_object(BUCKET, &key).await.unwrap();
            etags.insert(stored.etag.clone());
            let bytes = all(objects.open_object(&stored.into_file(None, String::new(), None), 0).await.unwrap()).await;
            assert!(bytes.len() == 1000 && bytes.iter().all(|byte| byte / 2 == number));
        }
        assert_eq!(etags.len(), 1, "both see the same object");
    }
    store.until_bodies(20).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_opens_succeed() {
    let store = Store::start().await;
    let dir = tempfile::tempdir().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                EmbeddedStore::open(&dir.path().join("new"), store.credentials.clone(), Clock::system()).unwrap()
            });
        }
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_can_finish_a_deleted_object() {
    let store = Store::start().await;
    let bytes = noise(30 << 20);
    let mut upload = store.objects.start_upload(BUCKET, "file", "text/csv").await.unwrap();
    upload.write(bytes.clone().into()).await.unwrap();
    let file = upload.finish().await.unwrap().into_file(None, String::new(), None);
    let mut body = store.objects.open_object(&file, 0).await.unwrap();
    let mut read = body.stream.next().await.unwrap().unwrap().to_vec();
    store.objects.delete_object(BUCKET, "file").await.unwrap();
    while let Some(chunk) = body.stream.next().await {
        read.extend_from_slice(&chunk.unwrap());
    }
    assert!(read == bytes, "also the parts that were not open yet");
    drop(body);
    store.until_bodies(0).await;
}

/// Another process does not know the readers of this one. Its delete takes effect, and the reader gets an error.
#[tokio::test(flavor = "multi_thread")]
async fn delete_by_another_process_fails_the_reader() {
    let store = Store::start().await;
    let other =
        EmbeddedStore::open(&store.dir.path().join("objects"), store.credentials.clone(), Clock::system()).unwrap();
    let there = connect(&serve(&other, &store.stop).await, &store.credentials).await;
    let mut upload = store.objects.start_upload(BUCKET, "file", "text/csv").await.unwrap();
    upload.write(noise(30 << 20).into()).await.unwrap();
    let file = upload.finish().await.unwrap().into_file(None, String::new(), None);
    let mut body = store.objects.open_object(&file, 0).await.unwrap();
    body.stream.next().await.unwrap().unwrap();
    there.delete_object(BUCKET, "file").await.unwrap();
    let ended = loop {
        match body.stream.next().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("bytes are missing, and nobody said so"),
        }
    };
    assert_eq!((ended.code().name(), ended.is_transient()), ("object_not_found", false));
}

#[tokio::test]
async fn objects_survive_a_restart() {
    let store = Store::start().await;
    let stored = store.objects.put_object(BUCKET, "k", "text/plain", Bytes::from_static(b"kept")).await.unwrap();
    store.stop.cancel();
    let again =
        EmbeddedStore::open(&store.dir.path().join("objects"), store.credentials.clone(), Clock::system()).unwrap();
    let endpoint = serve(&again, &tokio_util::sync::CancellationToken::new()).await;
    let objects = connect(&endpoint, &store.credentials).await;
    assert_eq!(all(objects.open_object(&stored.into_file(None, String::new(), None), 0).await.unwrap()).await, b"kept");
}

#[tokio::test]
async fn stopping_server_finishes_open_requests() {
    let store = Store::start().await;
    let listener = bind_listener(([127, 0, 0, 1], 0).into()).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tokio_util::sync::CancellationToken::new();
    let serving = tokio::spawn(store.embedded.serve(listener, stop.clone()));
    let objects = connect(&format!("http://{address}"), &store.credentials).await;
    let bytes = noise(5 << 20);
    let stored = objects.put_object(BUCKET, "k", "text/plain", bytes.clone().into()).await.unwrap();
    let mut body = objects.open_object(&stored.into_file(None, String::new(), None), 0).await.unwrap();
    let mut read = body.stream.next().await.unwrap().unwrap().to_vec();
    stop.cancel();
    while let Some(chunk) = body.stream.next().await {
        read.extend_from_slice(&chunk.unwrap());
    }
    assert!(read == bytes);
    serving.await.unwrap();
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens any more");
}

#[tokio::test]
async fn taken_port_falls_back_to_a_free_one() {
    let taken = bind_listener(([127, 0, 0, 1], 0).into()).await.unwrap();
    let other = bind_listener(taken.local_addr().unwrap()).await.unwrap();
    assert_eq!(other.local_addr().unwrap().ip(), taken.local_addr().unwrap().ip());
    assert_ne!(other.local_addr().unwrap().port(), taken.local_addr().unwrap().port());
}

/// A client may repeat a request whose response was lost. The second response must not be an error.
#[tokio::test]
async fn completing_an_upload_twice_gives_the_same_response() {
    let store = Store::start().await;
    let sdk = store.sdk();
    let upload = sdk.create_multipart_upload().bucket(BUCKET).key("k").send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let part = sdk.upload_part().bucket(BUCKET).key("k").upload_id(id).part_number(1);
    let part = part.body(ByteStream::from_static(b"bytes")).send().await.unwrap();
    let part = aws_sdk_s3::types::CompletedPart::builder().part_number(1).set_e_tag(part.e_tag).build();
    let parts = aws_sdk_s3::types::CompletedMultipartUpload::builder().parts(part).build();
    let complete = || sdk.complete_multipart_upload().bucket(BUCKET).key("k").upload_id(id);
    let first = complete().multipart_upload(parts.clone()).send().await.unwrap();
    let second = complete().multipart_upload(parts).send().await.unwrap();
    assert_eq!(first.e_tag(), second.e_tag());
    assert_eq!(store.embedded.events_after(0, 10).await.unwrap().len(), 1);
}
