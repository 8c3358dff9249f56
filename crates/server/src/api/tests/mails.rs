//! Unsubscribing, suppressed addresses, and reports of bounces.

use axum::body::Body;
use axum::http::Request;
use serde_json::{Value, json};
use ulid::Ulid;

use super::stage::{Answer, Stage};
use crate::api::MAIL_WEBHOOK;
use afterload_core::keyring::{Keyring, TokenPurpose};
use afterload_state::{SuppressionFilter, SuppressionRecord, UnsubscribeLinkRecord};

const BOUNCES: &str = "/v1/mail/bounces";
const SUPPRESSIONS: &str = "/v1/mail/suppressions";
const SENDGRID: &str = r#"[{"event":"bounce","email":"A@example.com","status":"5.1.1","reason":"no such user"},
    {"event":"deferred","email":"b@example.com"},{"event":"spamreport","email":"a@example.com"},
    {"event":"open","email":"c@example.com"}]"#;
const MESSAGE: &str = "Content-Type: multipart/report; boundary=b\r\n\r\n--b\r\nContent-Type: message/delivery-status\r\n\r\n\
    Reporting-MTA: dns; mail.example.org\r\n\r\nFinal-Recipient: rfc822; gone@example.com\r\nAction: failed\r\n\
    Status: 5.1.1\r\n\r\n--b--\r\n";

async fn stored(stage: &Stage) -> Vec<SuppressionRecord> {
    let filter = SuppressionFilter { limit: 1_000, ..SuppressionFilter::default() };
    stage.db.mail_suppressions().list(&filter).await.unwrap()
}

/// The status and the code.
fn refusal(answer: &Answer) -> (u16, String) {
    (answer.status.as_u16(), answer.code())
}

async fn link(stage: &Stage) -> String {
    let id = Ulid::from_bytes([7; 16]);
    let (list, address, run_id) = ("news".into(), "a@example.com".into(), "01RUN".into());
    let link = UnsubscribeLinkRecord { id: id.to_string(), list, address, run_id };
    stage.db.mail_suppressions().upsert_links(&[link]).await.unwrap();
    stage.app.keyring().create_unsubscribe_token(id)
}

async fn open(stage: &Stage, method: &str, token: &str, body: &str) -> Answer {
    let request = Request::builder().method(method).uri(format!("/u/{token}"));
    let request = request.header("content-type", "application/x-www-form-urlencoded");
    stage.send(request.body(Body::from(body.to_owned())).unwrap()).await
}

#[tokio::test]
async fn only_a_post_unsubscribes_and_twice_is_once() {
    let stage = Stage::new().await;
    let token = link(&stage).await;
    for method in ["GET", "HEAD", "GET"] {
        let page = open(&stage, method, &token, "").await;
        assert_eq!(page.status, 200);
        let policy = page.headers["content-security-policy"].to_str().unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
        assert_eq!(page.headers["cache-control"], "no-store");
        let text = String::from_utf8(page.bytes.to_vec()).unwrap();
        assert_eq!(text.contains("<button type=\"submit\">Unsubscribe</button>"), method == "GET", "{text}");
        assert!(!text.contains("a@example.com"), "whoever sees the link learns no address");
    }
    assert!(stored(&stage).await.is_empty());
    for _ in 0..2 {
        let done = open(&stage, "POST", &token, "List-Unsubscribe=One-Click").await;
        assert_eq!(done.status, 200);
        assert!(String::from_utf8_lossy(&done.bytes).contains("<h1>You are unsubscribed</h1>"));
    }
    let records = stored(&stage).await;
    let SuppressionRecord { list, address, run_id, .. } = &records[0];
    assert_eq!(records.len(), 1);
    assert_eq!((list.as_str(), address.as_str(), run_id.as_deref()), ("news", "a@example.com", Some("01RUN")));
    let page = open(&stage, "GET", &token, "").await;
    assert!(String::from_utf8_lossy(&page.bytes).contains("<h1>You are unsubscribed</h1>"));
}

#[tokio::test]
async fn forged_unsubscribe_links_change_nothing() {
    let stage = Stage::new().await;
    let token = link(&stage).await;
    let other = Keyring::new("another secret", []);
    let id = Ulid::from_bytes([7; 16]);
    let forged = [
        "x".to_owned(),
        "A".repeat(43),
        token[..42].to_owned(),
        format!("{token}A"),
        other.create_unsubscribe_token(id),
        // The right key, but for a download.
        stage.app.keyring().create_link_token(id),
        // Signed, but never sent.
        stage.app.keyring().create_unsubscribe_token(Ulid::from_bytes([8; 16])),
    ];
    for token in &forged {
        for method in ["GET", "POST"] {
            assert_eq!(refusal(&open(&stage, method, token, "").await), (404, "link_not_found".into()), "{token}");
        }
    }
    let large = open(&stage, "POST", &token, &"x".repeat(100_000)).await;
    assert_eq!(refusal(&large), (413, "body_too_large".into()));
    assert!(stored(&stage).await.is_empty());
}

#[tokio::test]
async fn bounces_and_complaints_suppress_and_deferrals_do_not() {
    let stage = Stage::new().await;
    let key = stage.key(&["bounces:write"]).await;
    let post = async |media: &str, body: &str| stage.post(&key, BOUNCES, media, body.to_owned()).await;
    let sendgrid = post("application/json", SENDGRID).await.json();
    assert_eq!(sendgrid, json!({ "suppressed": 1, "transient": 1, "ignored": 1 }));
    assert_eq!(post("application/json", SENDGRID).await.json()["suppressed"], 0, "told again, it is known");
    let message = post("message/rfc822", MESSAGE).await.json();
    assert_eq!(message, json!({ "suppressed": 1, "transient": 0, "ignored": 0 }));
    // The same with the header of the message as that of the request; SNS sends JSON as text.
    let (header, body) = MESSAGE.split_once("\r\n\r\n").unwrap();
    let media = header.split_once(": ").unwrap().1;
    let another = body.replace("gone@", "another@");
    assert_eq!(post(media, &another).await.json()["suppressed"], 1);
    let ses = json!({ "notificationType": "Bounce", "bounce": { "bounceType": "Permanent", "bouncedRecipients": [
        { "emailAddress": "ses@example.com", "diagnosticCode": "smtp; 550 no" }] } });
    let sns = json!({ "Type": "Notification", "TopicArn": "arn:aws:sns:a:1:b", "Message": ses.to_string() });
    assert_eq!(post("text/plain; charset=UTF-8", &sns.to_string()).await.json()["suppressed"], 1);
    // Programs of mail servers may name no type, or a wrong one.
    let third = MESSAGE.replace("gone@", "third@");
    assert_eq!(post("application/x-www-form-urlencoded", &third).await.json()["suppressed"], 1);
    // SES sends this when it begins to publish, and SNS may deliver it raw.
    let validated = "Successfully validated SNS topic for Amazon SES event publishing.";
    let sns = json!({ "Type": "Notification", "TopicArn": "arn:aws:sns:a:1:b", "Message": validated });
    for body in [validated, &sns.to_string()] {
        let answer = post("text/plain; charset=UTF-8", body).await;
        assert_eq!((answer.status.as_u16(), answer.json()["ignored"].clone()), (200, json!(1)), "{body}");
    }
    let confirmation = json!({ "Type": "SubscriptionConfirmation", "TopicArn": "arn:aws:sns:a:1:b",
                               "SubscribeURL": "https://sns.example/confirm" });
    let asked = post("text/plain", &confirmation.to_string()).await.json();
    assert_eq!(asked["confirmation"]["confirm"], "https://sns.example/confirm");

    let shown: Vec<_> = stored(&stage)
        .await
        .into_iter()
        .map(|record| (record.address, record.list, record.reason.as_str(), record.detail.unwrap_or_default()))
        .collect();
    let row = |address: &str, reason: &'static str, detail: &str| {
        (address.to_owned(), "*".to_owned(), reason, detail.to_owned())
    };
    assert_eq!(shown.len(), 5, "{shown:?}");
    for expected in [
        row("a@example.com", "complained", ""),
        row("gone@example.com", "bounced", "5.1.1"),
        row("another@example.com", "bounced", "5.1.1"),
        row("ses@example.com", "bounced", "smtp; 550 no"),
    ] {
        assert!(shown.contains(&expected), "{expected:?} in {shown:?}");
    }
    let metrics = stage.app.engine().metrics().encode_openmetrics(&[]);
    assert!(metrics.contains("afterload_mail_bounces_total{kind=\"transient\"} 2\n"), "{metrics}");
}

#[tokio::test]
async fn bounces_need_a_key_or_the_token_and_a_known_form() {
    let stage = Stage::new().await;
    let token = stage.app.keyring().create_token(TokenPurpose::MailBounces, MAIL_WEBHOOK);
    let ask = async |path: &str| {
        let request = Request::post(path).header("content-type", "application/json");
        stage.send(request.body(Body::from(SENDGRID)).unwrap()).await
    };
    assert_eq!(refusal(&ask(BOUNCES).await), (401, "key_missing".into()));
    let wrong = stage.app.keyring().create_token(TokenPurpose::S3Notification, "s3");
    for token in ["", "x", &wrong] {
        assert_eq!(refusal(&ask(&format!("{BOUNCES}?token={token}")).await), (401, "token_invalid".into()));
    }
    for scope in ["events:write", "runs:write", "suppressions:write"] {
        let refused = stage.post(&stage.key(&[scope]).await, BOUNCES, "application/json", SENDGRID).await;
        assert_eq!(refusal(&refused), (403, "scope_missing".into()), "{scope}");
    }
    assert!(stored(&stage).await.is_empty(), "nobody else can suppress an address");
    assert_eq!(ask(&format!("{BOUNCES}?token={token}")).await.status, 200);

    let key = stage.key(&["bounces:write"]).await;
    let large = "x".repeat(100_000);
    for (media, body, status, code) in [
        ("application/json", "", 422, "bounce_invalid"),
        ("application/json", "[1", 422, "bounce_invalid"),
        ("application/json", r#"{"provider":"unknown"}"#, 422, "bounce_unknown"),
        ("application/json", r#"[{"event":"bounce","email":"a\u0000@example.com"}]"#, 422, "text_invalid"),
        ("message/rfc822", "Subject: x\r\n\r\nno report", 422, "bounce_invalid"),
        ("multipart/report", "--b\r\n", 422, "bounce_invalid"),
        ("application/xml", "<a/>", 422, "bounce_invalid"),
        ("application/json", large.as_str(), 413, "body_too_large"),
        ("message/rfc822", large.as_str(), 413, "body_too_large"),
    ] {
        let refused = stage.post(&key, BOUNCES, media, body.to_owned()).await;
        assert_eq!(refused.code(), code, "{media}");
        assert_eq!(refused.status.as_u16(), status, "{media} {code}");
    }
    let nul = MESSAGE.replace("gone@", "gone\0@");
    assert_eq!(stage.post(&key, BOUNCES, "message/rfc822", nul).await.json()["ignored"], 1);
    assert_eq!(stored(&stage).await.len(), 1);
}

#[tokio::test]
async fn suppressions_are_listed_added_and_removed() {
    let stage = Stage::new().await;
    let (reader, writer) = (stage.key(&["suppressions:read"]).await, stage.key(&["suppressions:write"]).await);
    let add = async |body: Value| stage.post(&writer, SUPPRESSIONS, "application/json", body.to_string()).await;
    for (body, list) in [
        (json!({ "address": "Ada <ADA@example.com>", "note": "asked by phone" }), "*"),
        (json!({ "address": "ada@example.com", "list": "news", "reason": "unsubscribed" }), "news"),
        (json!({ "address": "b@example.com", "list": "news" }), "news"),
    ] {
        let added = add(body.clone()).await;
        assert_eq!((added.status.as_u16(), &added.json()["list"]), (201, &json!(list)), "{body}");
        let again = add(body).await;
        assert_eq!((again.status.as_u16(), again.json()), (200, added.json()), "twice is once");
    }
    let list = async |query: &str| {
        let page = stage.get(&reader, &format!("{SUPPRESSIONS}{query}")).await.json();
        let names = page["suppressions"].as_array().unwrap().iter();
        let mut names: Vec<_> = names
            .map(|known| format!("{} {}", known["address"].as_str().unwrap(), known["list"].as_str().unwrap()))
            .collect();
        // Those of one millisecond have no order.
        names.sort();
        (names, page["next_cursor"].as_str().map(str::to_owned), page["suppressions"][0]["id"].clone())
    };
    assert_eq!(list("").await.0, ["ada@example.com *", "ada@example.com news", "b@example.com news"]);
    assert_eq!(list("?address=ADA@example.com").await.0, ["ada@example.com *", "ada@example.com news"]);
    let (found, _, id) = list("?list=news&address=b@example.com").await;
    assert_eq!(found, ["b@example.com news"]);
    assert_eq!(list("?list=*").await.0, ["ada@example.com *"]);
    let (first, cursor, _) = list("?limit=2").await;
    let (second, end, _) = list(&format!("?limit=2&cursor={}", cursor.unwrap())).await;
    assert_eq!(([first, second].concat().len(), end), (3, None));
    for query in ["?list=NEWS", "?cursor=x", "?limit=0", "?adress=x"] {
        let refused = stage.get(&reader, &format!("{SUPPRESSIONS}{query}")).await;
        assert_eq!(refusal(&refused), (400, "query_invalid".into()), "{query}");
    }
    for body in [
        json!({ "address": "nobody" }),
        json!({ "address": "a@example.com", "list": "News" }),
        json!({ "address": "a@example.com", "note": "x".repeat(501) }),
    ] {
        assert_eq!(refusal(&add(body.clone()).await), (422, "suppression_invalid".into()), "{body}");
    }
    assert_eq!(refusal(&add(json!({ "address": "a\0@example.com" })).await), (422, "text_invalid".into()));
    assert_eq!(refusal(&add(json!({})).await), (400, "json_invalid".into()));

    let remove = async |key: &str, id: &str| {
        let request = Request::delete(format!("{SUPPRESSIONS}/{id}")).header("authorization", format!("Bearer {key}"));
        stage.send(request.body(Body::empty()).unwrap()).await
    };
    let id = id.as_str().unwrap();
    assert_eq!(refusal(&remove(&reader, id).await), (403, "scope_missing".into()));
    assert_eq!(refusal(&stage.get(&writer, SUPPRESSIONS).await), (403, "scope_missing".into()));
    let refused = stage.post(&reader, SUPPRESSIONS, "application/json", r#"{"address":"a@example.com"}"#).await;
    assert_eq!(refusal(&refused), (403, "scope_missing".into()));
    assert_eq!(remove(&writer, id).await.json()["address"], "b@example.com");
    for id in [id, "x"] {
        assert_eq!(refusal(&remove(&writer, id).await), (404, "suppression_not_found".into()));
    }
    assert_eq!(stored(&stage).await.len(), 2);
    // With `mail.smtputf8` such addresses receive mails, and reports name them.
    assert_eq!(add(json!({ "address": "Jürgen@BÜCHER.example" })).await.status, 201);
    let (found, ..) = list("?address=j%C3%BCrgen@b%C3%BCcher.example").await;
    assert_eq!(found, ["jürgen@xn--bcher-kva.example *"]);
}
