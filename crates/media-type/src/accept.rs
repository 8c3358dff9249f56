//! Lists of accepted media types, such as `[text/csv, "image/*"]`.

use super::sniff::MEDIA_TYPE_OLE;

/// Types with several names; the first one is the common one.
const ALIASES: &[&[&str]] = &[
    &[
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "application/jsonlines",
        "application/x-jsonlines",
    ],
    &["application/zip", "application/x-zip-compressed"],
    &["application/xml", "text/xml"],
    &["audio/mpeg", "audio/mp3"],
    &["image/jpeg", "image/jpg"],
];
/// The types of Microsoft's older documents, with the ends of their names.
const OLE_TYPES: &[(&str, &str)] = &[
    ("application/vnd.ms-excel", ".xls"),
    ("application/msword", ".doc"),
    ("application/vnd.ms-powerpoint", ".ppt"),
    ("application/vnd.ms-outlook", ".msg"),
];

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
        None => common_name(found) == common_name(accepted),
    }
}

fn common_name(media: &str) -> &str {
    ALIASES.iter().find(|names| names.contains(&media)).map_or(media, |names| names[0])
}

/// Returns the exact type of one of Microsoft's older documents whose bytes do not tell it: its declared type or the end
/// of its name does. Other types stay as they are.
pub fn refine_media_type(found: &'static str, declared: &str, name: &str) -> &'static str {
    if found != MEDIA_TYPE_OLE {
        return found;
    }
    let declared = declared.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    let told = OLE_TYPES.iter().find(|(media, _)| *media == declared);
    told.or_else(|| OLE_TYPES.iter().find(|(_, end)| name.ends_with(end))).map_or(found, |(media, _)| media)
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
            (&["application/jsonl"], "application/x-ndjson", true),
            (&["application/zip"], "application/x-zip-compressed", true),
            (&["application/xml"], "text/xml", true),
            (&["text/*"], "text/xml", true),
            (&["application/json"], "application/x-ndjson", false),
        ] {
            assert_eq!(accepts_media_type(&list(types), found, "name"), fits, "{types:?} {found}");
        }
    }

    #[test]
    fn declared_type_distinguishes_older_documents() {
        for (found, declared, name, media) in [
            (MEDIA_TYPE_OLE, "application/vnd.ms-excel", "a", "application/vnd.ms-excel"),
            (MEDIA_TYPE_OLE, "application/octet-stream", "a.DOC", "application/msword"),
            (MEDIA_TYPE_OLE, "image/png", "a.png", MEDIA_TYPE_OLE),
            ("image/png", "application/vnd.ms-excel", "a.xls", "image/png"),
        ] {
            assert_eq!(refine_media_type(found, declared, name), media, "{declared} {name}");
        }
    }
}
