//! The page of a link to unsubscribe, in a real browser: it fits the smallest phones and works by keyboard.

use afterload_state::UnsubscribeLinkRecord;
use serde_json::{Value, json};
use ulid::Ulid;

use super::browser;
use crate::support::{Database, TestApp};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unsubscribe_page_fits_phones_and_works_by_keyboard() {
    let app = TestApp::builder(Database::Sqlite).start().await;
    let (id, list) = (Ulid::from_bytes([7; 16]), "a".repeat(63));
    let link = UnsubscribeLinkRecord {
        id: id.to_string(),
        list: list.clone(),
        address: "a@example.com".into(),
        run_id: "01RUN".into(),
    };
    let suppressions = app.app.engine.db().mail_suppressions();
    suppressions.upsert_links(&[link]).await.expect("a link");
    let url = format!("{}/u/{}", app.url, app.app.engine.config().keyring.create_unsubscribe_token(id));
    let seen = browser("unsubscribe.mjs", &[&url]).output().await.expect("the browser's end");
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let seen: Value = serde_json::from_slice(&seen.stdout).expect("what the pages showed");
    let page = |heading: &str| json!({ "heading": heading, "lang": "en", "too_wide": 0 });
    let mut asked = page("Unsubscribe");
    asked["focused"] = json!(true);
    assert_eq!(seen, json!([asked, page("You are unsubscribed")]));
    assert!(suppressions.find(&list, "a@example.com").await.expect("an answer").is_some());
    app.finish().await;
}
