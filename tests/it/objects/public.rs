//! Keyless reads: whoever opens such an address in a browser runs nothing of what others have uploaded.

use bytes::Bytes;

use super::support::Store;

#[tokio::test]
async fn keyless_answers_run_nothing() {
    let store = Store::start().await;
    store.objects.ensure_bucket("public").await.unwrap();
    let http = crate::support::http_client();
    let types = [
        ("image/png", None),
        ("video/mp4", None),
        ("audio/mpeg", None),
        ("font/woff2", None),
        ("image/svg+xml", Some("attachment")),
        ("text/html", Some("attachment")),
        ("text/html; charset=utf-8", Some("attachment")),
        ("image/png,text/html", Some("attachment")),
        ("application/pdf", Some("attachment")),
        ("nonsense", Some("attachment")),
    ];
    for (content_type, disposition) in types {
        store.objects.put_object("public", "k", content_type, Bytes::from_static(b"<script>")).await.unwrap();
        for method in [reqwest::Method::GET, reqwest::Method::HEAD] {
            let answer = http.request(method, format!("{}/public/k", store.endpoint)).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap());
            assert_eq!(header("content-type"), Some(content_type));
            assert_eq!(header("content-security-policy"), Some("sandbox; default-src 'none'"), "{content_type}");
            assert_eq!(header("x-content-type-options"), Some("nosniff"), "{content_type}");
            assert_eq!(header("content-disposition"), disposition, "{content_type}");
        }
    }
    let stored = store.sdk().put_object().bucket("public").key("page").content_type("text/html");
    stored.content_disposition("inline; filename=page.html").send().await.unwrap();
    let page = http.get(format!("{}/public/page", store.endpoint)).send().await.unwrap();
    assert_eq!(page.headers()["content-disposition"], "attachment");
    let signed = store.sdk().get_object().bucket("public").key("page").send().await.unwrap();
    assert_eq!(signed.content_disposition(), Some("inline; filename=page.html"), "holders of a key get it as it is");
    for refused in ["public/none", "public", "private/k", "public/k?a=%"] {
        let answer = http.get(format!("{}/{refused}", store.endpoint)).send().await.unwrap();
        assert!(answer.status().is_client_error(), "{refused}");
        assert_eq!(answer.headers()["content-security-policy"], "sandbox; default-src 'none'", "{refused}");
    }
}
