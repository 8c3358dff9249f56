//! The files of a run, as its page shows them.

use crate::numbers::byte_size;
use afterload_core::text::shorten_text;
use afterload_engine::ArtifactView;

/// The media types that every browser shows as a picture, and that hold no scripts.
const PICTURE_TYPES: [&str; 4] = ["image/jpeg", "image/png", "image/webp", "image/gif"];
/// Larger pictures are not shown before somebody asks for them.
const MAX_PREVIEW_BYTES: u64 = 5 << 20;
const MAX_NAME_CHARS: usize = 120;

pub(super) struct FileRow {
    pub name: String,
    /// `None` once it has expired.
    pub href: Option<String>,
    pub size: String,
    pub media_type: String,
    /// The step that made it.
    pub made_by: Option<String>,
    pub is_picture: bool,
}

/// The row of a file.
pub(super) fn file_row(file: &ArtifactView) -> FileRow {
    let size = file.size.as_u64().unwrap_or_default();
    let media_type = file.content_type.as_str().unwrap_or_default();
    let is_there = file.expired_at.is_none();
    FileRow {
        name: shorten_text(file.name.as_str().unwrap_or("without a name"), MAX_NAME_CHARS).into_owned(),
        href: is_there.then(|| format!("/ui/files/{}", file.id)),
        size: byte_size(size),
        media_type: media_type.to_owned(),
        made_by: file.step.clone(),
        is_picture: is_there && PICTURE_TYPES.contains(&media_type) && size <= MAX_PREVIEW_BYTES,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn only_pictures_without_scripts_are_previewed() {
        let row = |media: &str, size: u64, expired: bool| {
            file_row(&ArtifactView {
                id: "01J".into(),
                step: None,
                name: json!("<img src=x>".repeat(1_000)),
                size: json!(size),
                content_type: json!(media),
                url: String::new(),
                expired_at: expired.then(String::new),
            })
        };
        assert!(row("image/png", 1_000, false).is_picture);
        for (media, size, expired) in [
            ("image/svg+xml", 1, false),
            ("text/html", 1, false),
            ("image/png", 1 << 30, false),
            ("image/png", 1, true),
        ] {
            assert!(!row(media, size, expired).is_picture, "{media}");
        }
        assert!(row("image/png", 1, true).href.is_none());
        assert!(row("image/png", 1, false).name.chars().count() <= MAX_NAME_CHARS + 1);
    }
}
