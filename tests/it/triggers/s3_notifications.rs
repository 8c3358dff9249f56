//! Notifications as S3 stores send them.

use serde_json::{Value, json};

use super::UP;
use crate::support::{Database, TestApp, both, http_client};

both!(
    notifications_of_every_sender_are_understood,
    notification_needs_a_key_or_the_token,
    invalid_notification_is_rejected
);

const KEY: &str = "in/a b+c%2B é.csv";

/// Builds one record as a store writes it.
fn record(source: &str, name: &str, key: &str, etag: &str) -> Value {
    json!({
        "eventVersion": "2.1",
        "eventSource": source,
        "awsRegion": "eu-west-3",
        "eventTime": "2026-05-01T10:00:00.000Z",
        "eventName": name,
        "s3": { "bucket": { "name": "uploads" }, "object": { "key": key, "size": 3, "eTag": etag, "versionId": "" } },
    })
}

async fn send_notification(app: &TestApp, body: &Value) -> Value {
    let request = app.client.post(format!("{}/v1/hooks/s3", app.url)).bearer_auth(&app.admin_key);
    let response = request.body(body.to_string()).send().await.unwrap();
    let status = response.status();
    let body: Value = response.json().await.unwrap();
    assert_eq!(status, 200, "{body}");
    body
}

async fn notifications_of_every_sender_are_understood(database: Database) {
    // The pipeline goes live after the upload, so that the embedded store's own events start no run.
    let app = TestApp::builder(database).start().await;
    app.app.engine.objects().ensure_bucket("uploads").await.unwrap();
    let etag = app.put("uploads", KEY, "one").await.etag;
    app.put("uploads", "in/plain.csv", "one").await;
    app.until_no_events().await;
    app.publish("up", UP).await;
    let aws = record("aws:s3", "ObjectCreated:Put", "in/a+b%2Bc%252B+%C3%A9.csv", &etag);
    let told = send_notification(&app, &json!({ "Records": [aws] })).await;
    assert_eq!(told["started"].as_array().unwrap().len(), 1, "{told}");
    // Notifications of other senders for the same object are duplicates.
    let minio = record("minio:s3", "s3:ObjectCreated:Put", "in%2Fa+b%2Bc%252B+%C3%A9.csv", &format!("\"{etag}\""));
    let localstack = record("aws:s3", "ObjectCreated:CompleteMultipartUpload", "in/a%20b%2Bc%252B%20%C3%A9.csv", &etag);
    let ceph = record("ceph:s3", "s3:ObjectCreated:Put", KEY, &etag);
    let unknowing = json!({ "eventName": "ObjectCreated:Put", "s3": {
        "bucket": { "name": "uploads" }, "object": { "key": KEY } } });
    let sns = |kind: &str, message: String| {
        json!({ "Type": kind, "TopicArn": "arn:aws:sns:eu-west-3:1:t", "Message": message,
                "SubscribeURL": "https://sns.eu-west-3.amazonaws.com/?Action=ConfirmSubscription&Token=x" })
    };
    for (name, body) in [
        ("minio", json!({ "EventName": "s3:ObjectCreated:Put", "Key": "uploads/in", "Records": [minio] })),
        ("localstack", json!({ "Records": [localstack] })),
        ("ceph", json!({ "Records": [ceph] })),
        ("a raw key from somebody unknown", json!({ "Records": [unknowing] })),
        ("sns", sns("Notification", json!({ "Records": [aws] }).to_string())),
        ("sqs", json!({ "Messages": [{ "MessageId": "1", "Body": json!({ "Records": [aws] }).to_string() }] })),
        (
            "sqs for a function",
            json!({ "Records": [{
            "messageId": "1", "eventSource": "aws:sqs",
            "body": sns("Notification", json!({ "Records": [aws] }).to_string()).to_string(),
        }] }),
        ),
        (
            "eventbridge",
            json!({ "detail-type": "Object Created", "source": "aws.s3", "time": "2026-05-01T10:00:00Z",
            "detail": { "bucket": { "name": "uploads" }, "object": { "key": KEY, "size": 3, "etag": etag } } }),
        ),
    ] {
        let told = send_notification(&app, &body).await;
        assert_eq!((told["known"].as_u64(), &told["started"]), (Some(1), &json!([])), "{name}: {told}");
    }
    // No trigger matches these.
    let removed = record("aws:s3", "ObjectRemoved:Delete", "in/plain.csv", "");
    let gone = record("aws:s3", "ObjectCreated:Put", "in/gone.csv", &etag);
    let other = record("aws:s3", "ObjectCreated:Put", "out/plain.csv", &etag);
    let told = send_notification(&app, &json!({ "Records": [removed, gone, other] })).await;
    assert_eq!((told["ignored"].as_u64(), told["known"].as_u64()), (Some(3), Some(0)));
    for nothing in [
        json!({ "Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "uploads" }),
        sns("Notification", json!({ "Event": "s3:TestEvent" }).to_string()),
        sns("UnsubscribeConfirmation", String::new()),
    ] {
        assert_eq!(send_notification(&app, &nothing).await["ignored"], 0);
    }
    let told = send_notification(&app, &sns("SubscriptionConfirmation", "confirm".into())).await;
    assert!(told["subscription"]["confirm"].as_str().unwrap().contains("ConfirmSubscription"), "{told}");
    // Two records; one of them is a duplicate.
    let plain = record("ceph:s3", "ObjectCreated:Put", "in/plain.csv", "");
    let told = send_notification(&app, &json!({ "Records": [ceph_of(&etag), plain] })).await;
    assert_eq!((told["known"].as_u64(), told["started"].as_array().unwrap().len()), (Some(1), 1));
    let keys: Vec<_> = app.until_runs(2).await.iter().map(|run| run.params["file"]["key"].clone()).collect();
    assert_eq!(keys, [KEY, "in/plain.csv"]);
    app.finish().await;
}

fn ceph_of(etag: &str) -> Value {
    record("ceph:s3", "s3:ObjectCreated:Put", KEY, etag)
}

async fn notification_needs_a_key_or_the_token(database: Database) {
    let app = TestApp::builder(database).pipeline("up", UP).start().await;
    let mut config = app.config.clone();
    config.listen = app.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut out = Vec::new();
    afterload::cli::key::print_webhook_url(&mut config, false, &mut out).await.unwrap();
    let address = String::from_utf8(out).unwrap().trim().to_owned();
    let plain = format!("{}/v1/hooks/s3", app.url);
    let key = |scope: &str| {
        let (stored, text) = afterload_server::api::create_api_key("hook", &[scope.to_owned()], &[], 0).unwrap();
        let db = app.app.engine.db().clone();
        async move {
            db.api_keys().insert(&stored).await.unwrap();
            text
        }
    };
    let (teller, writer) = (key("events:write").await, key("runs:write").await);
    let post = |url: &str| app.client.post(url.to_owned()).body("{\"Records\": []}");
    for (request, expected) in [
        (post(&address), 200),
        (post(&format!("{address}x")), 401),
        (post(&plain), 401),
        (post(&plain).bearer_auth(&teller), 200),
        // MinIO's `auth_token` has no scheme.
        (post(&plain).header("authorization", &teller), 200),
        (post(&plain).header("authorization", "nobody"), 401),
        (post(&plain).bearer_auth(&writer), 403),
    ] {
        assert_eq!(request.send().await.unwrap().status(), expected);
    }
    app.finish().await;
}

async fn invalid_notification_is_rejected(database: Database) {
    let app = TestApp::builder(database).pipeline("up", UP).start().await;
    let large = format!("{{\"Records\": [{}]}}", " ".repeat(2 << 20));
    let deep = "[".repeat(100_000);
    for (body, status) in [
        ("{}", 422),
        ("[]", 422),
        ("no JSON", 400),
        ("{\"Records\": 1}", 422),
        ("{\"Records\": [{\"eventName\": \"ObjectCreated:Put\", \"s3\": {}}]}", 422),
        ("{\"Messages\": [{\"Body\": \"{}\"}]}", 422),
        ("{\"detail-type\": \"Object Created\", \"source\": \"aws.ec2\", \"detail\": {}}", 422),
        ("{\"Type\": \"Notification\", \"Message\": \"x\"}", 400),
        (deep.as_str(), 400),
        (large.as_str(), 413),
        ("", 200),
        ("{\"Records\": [{}]}", 422),
    ] {
        // The server closes a connection after it refuses a large body, so use a new one.
        let request = http_client().post(format!("{}/v1/hooks/s3", app.url)).bearer_auth(&app.admin_key);
        let response = request.body(body.to_owned()).send().await.unwrap();
        assert_eq!(response.status(), status, "{body:.80}");
    }
    assert!(app.runs().await.is_empty());
    app.finish().await;
}
