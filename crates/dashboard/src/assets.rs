//! The files of the pages. Their names hold a digest of their content, so that browsers keep them for good.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

/// How much of the digest a name holds.
const DIGEST_CHARS: usize = 16;

/// A file that the pages load.
pub(crate) struct Asset {
    name: String,
    media_type: &'static str,
    content: &'static str,
}

/// The files of the pages.
pub(crate) struct Assets {
    pub style: Asset,
    pub script: Asset,
    pub icon: Asset,
}

impl Asset {
    fn new(stem: &str, extension: &str, media_type: &'static str, content: &'static str) -> Self {
        let digest = hex::encode(Sha256::digest(content));
        let digest = digest.get(..DIGEST_CHARS).unwrap_or_default();
        Self { name: format!("{stem}.{digest}.{extension}"), media_type, content }
    }

    /// Where the file is.
    pub(crate) fn url(&self) -> String {
        format!("/ui/assets/{}", self.name)
    }
}

/// The files of the pages.
pub(crate) fn assets() -> &'static Assets {
    static ASSETS: LazyLock<Assets> = LazyLock::new(|| Assets {
        style: Asset::new("dashboard", "css", "text/css; charset=utf-8", include_str!("../assets/dashboard.css")),
        script: Asset::new("dashboard", "js", "text/javascript; charset=utf-8", include_str!("../assets/dashboard.js")),
        icon: Asset::new("icon", "svg", "image/svg+xml", include_str!("../assets/icon.svg")),
    });
    &ASSETS
}

/// `GET /ui/assets/{name}`
pub(crate) async fn show_asset(Path(name): Path<String>) -> Response {
    let Assets { style, script, icon } = assets();
    let Some(asset) = [style, script, icon].into_iter().find(|asset| asset.name == name) else {
        return (StatusCode::NOT_FOUND, "there is no such file; load the page again\n").into_response();
    };
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static(asset.media_type)),
        (CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    (headers, asset.content).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_is_served_under_the_digest_of_its_content_only() {
        let name = assets().style.url().rsplit_once('/').unwrap().1.to_owned();
        let found = show_asset(Path(name.clone())).await;
        assert_eq!(found.status(), 200);
        assert!(found.headers()[CACHE_CONTROL].to_str().unwrap().contains("immutable"));
        for other in ["dashboard.css", "../Cargo.toml", &name.replace(".css", ".js")] {
            assert_eq!(show_asset(Path(other.to_owned())).await.status(), 404, "{other}");
        }
    }

    #[test]
    fn styles_and_script_need_nothing_from_elsewhere() {
        let Assets { style, script, icon } = assets();
        for asset in [style, script] {
            for word in ["http://", "https://", "@import", "eval(", "innerHTML"] {
                assert!(!asset.content.contains(word), "{}: {word}", asset.name);
            }
        }
        assert!(!icon.content.contains("<script"));
    }
}
