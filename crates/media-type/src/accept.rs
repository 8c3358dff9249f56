//! Lists of accepted media types, such as `[text/csv, "image/*"]`.

/// True if a file of the type `found` is accepted. An empty list accepts every type.
pub fn accepts_media_type(accept: &[String], found: &str, name: &str) -> bool {
    let found = found.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    accept.is_empty()
        || accept.iter().any(media_type_matcher(&found))
        || is_csv_file(&found, name) && accept.iter().any(media_type_matcher("text/csv"))
}

/// Matches this type against an entry of the list.
fn media_type_matcher(found: &str) -> impl Fn(&String) -> bool {
    move |accepted| match accepted.strip_suffix("/*") {
        Some(family) => found.split_once('/').is_some_and(|(first, _)| first == family) || family == "*",
        None => found == *accepted,
    }
}

/// Clients send several media types for CSV: browsers on Windows send Excel's, and curl sends
/// `application/octet-stream`. The file extension decides in those cases.
fn is_csv_file(found: &str, name: &str) -> bool {
    let spelled = ["application/csv", "application/x-csv", "text/x-csv", "text/comma-separated-values"];
    let vague = ["application/vnd.ms-excel", "application/octet-stream", "binary/octet-stream", "text/plain"];
    let named = name.to_ascii_lowercase().ends_with(".csv");
    spelled.contains(&found) || (named && vague.contains(&found))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_types_match_by_family_or_exactly() {
        let list = |types: &[&str]| types.iter().map(|media| (*media).to_owned()).collect::<Vec<_>>();
        for (types, found, fits) in [
            (&["image/*"][..], "image/png", true),
            (&["image/*"], "Image/PNG; q=1", true),
            (&["image/*"], "imagex/png", false),
            (&["*/*"], "video/mp4", true),
            (&[], "video/mp4", true),
            (&["image/png", "image/jpeg"], "image/webp", false),
        ] {
            assert_eq!(accepts_media_type(&list(types), found, "name"), fits, "{types:?} {found}");
        }
    }
}
