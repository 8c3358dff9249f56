//! The `Content-Disposition` of downloads.

pub(super) use afterload_core::object_names::{resolve_content_type, sanitize_file_name};

/// The `Content-Disposition` of a download: browsers save it and never display it.
pub(super) fn attachment_header(name: &str) -> String {
    let plain: String = name.chars().map(|c| if is_plain(c) || c == ' ' { c } else { '_' }).collect();
    let mut encoded = String::with_capacity(name.len());
    for byte in name.bytes() {
        match char::from(byte) {
            c if is_plain(c) => encoded.push(c),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}")
}

fn is_plain(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_are_sent_in_ascii_and_utf8() {
        let header = attachment_header("größe \"x\".csv");
        assert_eq!(header, "attachment; filename=\"gr__e _x_.csv\"; filename*=UTF-8''gr%C3%B6%C3%9Fe%20%22x%22.csv");
    }
}
