//! The names of the sheets of a workbook.

/// The maximum length of a name, in UTF-16 units.
const MAX_NAME_CHARS: usize = 31;

/// The names that a workbook has so far.
#[derive(Default)]
pub struct SheetNames(Vec<String>);

impl SheetNames {
    /// Adds a sheet. The wanted name is changed as far as spreadsheets require, and gets a number if another sheet has it.
    pub fn add(&mut self, wanted: &str) -> &str {
        let base = to_valid_name(wanted);
        let mut name = base.clone();
        let mut number = 1;
        // Spreadsheets do not tell names apart by their case.
        while self.0.iter().any(|known| known.to_lowercase() == name.to_lowercase()) {
            number += 1;
            let suffix = format!(" ({number})");
            name = cut_chars(&base, MAX_NAME_CHARS - suffix.len()).trim_end().to_owned() + &suffix;
        }
        self.0.push(name);
        self.0.last().map_or("", String::as_str)
    }

    /// All names, in the order of the sheets.
    pub fn as_slice(&self) -> &[String] {
        &self.0
    }
}

/// Whether a spreadsheet accepts the name as it is.
pub fn is_valid_sheet_name(name: &str) -> bool {
    to_valid_name(name) == name
}

fn to_valid_name(wanted: &str) -> String {
    let allowed = |c: char| if c.is_control() || "[]:*?/\\".contains(c) { '-' } else { c };
    let name: String = wanted.chars().map(allowed).collect();
    let edges = |c: char| c == '\'' || c.is_whitespace();
    let name = cut_chars(name.trim_matches(edges), MAX_NAME_CHARS).trim_end_matches(edges);
    match name {
        "" => "Sheet".to_owned(),
        // Excel keeps this name for itself.
        name if name.eq_ignore_ascii_case("history") => format!("{name}-"),
        name => name.to_owned(),
    }
}

/// Cuts a text after at most `most` UTF-16 units.
pub fn cut_chars(text: &str, most: usize) -> &str {
    let mut units = 0;
    let end = text.char_indices().find(|(_, c)| {
        units += c.len_utf16();
        units > most
    });
    &text[..end.map_or(text.len(), |(at, _)| at)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sheet_names_are_valid_and_different() {
        let mut names = SheetNames::default();
        for (wanted, expected) in [
            ("Sales", "Sales"),
            ("sales", "sales (2)"),
            ("a/b: [c]?", "a-b- -c--"),
            ("'quoted'", "quoted"),
            ("", "Sheet"),
            (" \u{1} ", "-"),
            ("History", "History-"),
            ("a name of more than thirty-one characters", "a name of more than thirty-one"),
            ("a name of more than thirty-one letters", "a name of more than thirty- (2)"),
        ] {
            assert_eq!(names.add(wanted), expected, "{wanted}");
        }
        assert_eq!(names.add(&"😀".repeat(16)), "😀".repeat(15));
        for name in names.as_slice() {
            assert!(name.encode_utf16().count() <= MAX_NAME_CHARS && is_valid_sheet_name(name), "{name}");
        }
        assert!(!is_valid_sheet_name("a/b") && is_valid_sheet_name("Umsatz 2024"));
    }
}
