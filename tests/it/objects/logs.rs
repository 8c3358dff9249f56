//! What the endpoint logs of refused requests: hostile callers must neither fill the log nor forge it.

use aws_sdk_s3::primitives::ByteStream;
use serde_json::Value;

use crate::support::{Database, Place, http_client};

/// The number of log lines that name the request, and their levels.
fn lines_about(log: &str, what: &str) -> Vec<String> {
    let lines = log.lines().filter(|line| line.contains(what));
    lines.map(|line| serde_json::from_str::<Value>(line).expect(line)["level"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_requests_are_no_errors() {
    for (filter, per_request) in [("info", 0), ("debug", 1)] {
        let mut place = Place::new(Database::Sqlite).await;
        let log_settings = [("AFTERLOAD_LOG", filter), ("AFTERLOAD_LOG_FORMAT", "json")];
        place.env.extend(log_settings.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let process = place.start().await;
        let endpoint = place.s3_endpoint();
        let http = http_client();
        let refused = [
            "bucket/refused-1",
            "bucket/refused-2?X-Amz-Signature=0",
            "bucket/refused-3?a=1&a=2",
            "bucket/refused-4?AWSAccessKeyId=a",
            "UPPER/refused-5",
            "bucket/refused-6%ff",
            "bucket/refused-7?acl",
        ];
        for path in refused {
            let answer = http.put(format!("{endpoint}/{path}")).body("x").send().await.unwrap();
            assert!(answer.status().is_client_error(), "{path}: {}", answer.status());
        }
        let forged =
            http.get(format!("{endpoint}/bucket/refused-8%0AERROR")).header("authorization", "AWS4-HMAC-SHA256 x");
        assert!(forged.send().await.unwrap().status().is_client_error());
        let s3 = place.s3();
        s3.create_bucket().bucket("bucket").send().await.unwrap();
        s3.get_object().bucket("bucket").key("refused-9").send().await.unwrap_err();
        let tagged = s3.put_object().bucket("bucket").key("refused-10").tagging("a=b");
        tagged.body(ByteStream::from_static(b"x")).send().await.unwrap_err();
        assert!(process.terminate().await.success());
        let log = place.log();
        assert!(!log.contains("\"level\":\"ERROR\""), "{log}");
        for number in 1..=10 {
            let levels = lines_about(&log, &format!("refused-{number}\""));
            let forged = lines_about(&log, &format!("refused-{number}%"));
            assert_eq!(levels.len() + forged.len(), per_request, "{filter}: refused-{number}\n{log}");
        }
    }
}
