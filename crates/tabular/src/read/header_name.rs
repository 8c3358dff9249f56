//! The normal form of header names, and which names are close to another.

use unicode_normalization::UnicodeNormalization;

/// The normal form of a header: Unicode NFKC in lower case, without invisible characters, and with single blanks in place
/// of blanks and line ends of any kind.
pub fn normalize_header(name: &str) -> String {
    if name.is_ascii() && !name.bytes().any(|byte| byte.is_ascii_control() || byte.is_ascii_uppercase()) {
        return name.split(' ').filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ");
    }
    let visible = name.nfkc().filter(|letter| !is_invisible(*letter)).collect::<String>();
    // Lower case of a few letters is not composed.
    let lower = visible.to_lowercase().nfkc().collect::<String>();
    lower.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Zero width characters, marks of the writing direction, soft hyphens and control characters other than line ends.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{feff}')
        || letter.is_control() && !letter.is_whitespace()
}

/// Finds up to three headers that look like `name`, the closest first.
pub fn find_near_headers<'a>(name: &str, headers: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let plain =
        |name: &str| normalize_header(name).chars().filter(|letter| letter.is_alphanumeric()).collect::<String>();
    let wanted = plain(name);
    let length = wanted.chars().count();
    let rate = |header: &'a str| {
        let found = plain(header);
        let contains =
            length >= 3 && found.chars().count() >= 3 && (found.contains(&wanted) || wanted.contains(&found));
        let distance = if contains { 1 } else { strsim::damerau_levenshtein(&wanted, &found) };
        (distance <= (length / 3).max(1)).then_some((distance, header))
    };
    let mut near = headers.into_iter().filter_map(rate).collect::<Vec<_>>();
    near.sort_by_key(|(distance, _)| *distance);
    near.into_iter().take(3).map(|(_, header)| header).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_a_normal_form() {
        for (name, normal) in [
            ("Email\u{a0}", "email"),
            ("\u{200b}Name", "name"),
            ("Pre\u{301}nom", "prénom"),
            ("PRÉNOM", "prénom"),
            ("Full\nname", "full name"),
            ("Full \r\n\u{feff} name", "full name"),
            ("ｅｍａｉｌ", "email"),
            (" E-mail  address ", "e-mail address"),
            ("a_b", "a_b"),
            ("İstanbul", "i̇stanbul"),
        ] {
            assert_eq!(normalize_header(name), normal, "{name:?}");
        }
    }

    #[test]
    fn near_headers_are_found() {
        let headers = ["Nmae", "E-Mail Adress", "Phone", "Id"];
        assert_eq!(find_near_headers("name", headers), ["Nmae"]);
        assert_eq!(find_near_headers("email", headers), ["E-Mail Adress"]);
        assert_eq!(find_near_headers("telephone", headers), ["Phone"]);
        assert!(find_near_headers("country", headers).is_empty());
    }
}
