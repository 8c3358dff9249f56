//! The names of the files of a report.

use std::collections::BTreeSet;

use super::options::{ReportCompression, ReportFormat};
use afterload_core::object_names::sanitize_file_name;

/// The maximum length of the part that names a group, in bytes. The name of the report before it may have as many.
const MAX_NAME_PART_BYTES: usize = 80;

/// The name of a report, in its parts.
#[derive(Clone, Debug)]
pub struct ReportName {
    stem: String,
    ending: &'static str,
    packed_ending: &'static str,
}

impl ReportName {
    /// Adds the endings of the format and of the compression, unless the name has them.
    pub fn new(given: Option<&str>, format: ReportFormat, compress: ReportCompression) -> Self {
        let ending = match format {
            ReportFormat::Csv => ".csv",
            ReportFormat::Xlsx => ".xlsx",
            ReportFormat::Jsonl => ".jsonl",
            ReportFormat::Json => ".json",
        };
        let packed_ending = match compress {
            ReportCompression::None => "",
            ReportCompression::Gzip => ".gz",
            ReportCompression::Zip => ".zip",
        };
        let given = sanitize_file_name(given.unwrap_or("report"), "report");
        let bare = given.strip_suffix(packed_ending).unwrap_or(&given);
        let stem = bare.strip_suffix(ending).filter(|stem| !stem.is_empty()).unwrap_or(bare).to_owned();
        Self { stem, ending, packed_ending }
    }

    /// The name of the report inside an archive.
    pub fn entry_name(&self) -> String {
        format!("{}{}", self.stem, self.ending)
    }

    /// The name of the file.
    pub fn file_name(&self) -> String {
        format!("{}{}{}", self.stem, self.ending, self.packed_ending)
    }

    /// The name of a group's report. `used` holds the names that other groups have, in lower case.
    pub fn for_group(&self, key: Option<&str>, used: &mut BTreeSet<String>) -> Self {
        let key = match key {
            None => "none",
            Some("") => "empty",
            Some(key) => key,
        };
        let key = sanitize_file_name(&key.replace(['/', '\\'], "-"), "group");
        let stem = format!("{}-{}", cut_text(&self.stem), cut_text(&key));
        let named = |stem: String| Self { stem, ..self.clone() };
        let mut name = named(stem.clone());
        let mut number = 1;
        while !used.insert(name.stem.to_lowercase()) {
            number += 1;
            name = named(format!("{stem}-{number}"));
        }
        name
    }
}

/// Cuts a text to what a part of a name may have.
fn cut_text(text: &str) -> &str {
    let mut end = text.len().min(MAX_NAME_PART_BYTES);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_get_extensions_of_format_and_compression() {
        for (given, format, compress, inner, outer) in [
            (None, ReportFormat::Csv, ReportCompression::None, "report.csv", "report.csv"),
            (Some("sales"), ReportFormat::Xlsx, ReportCompression::None, "sales.xlsx", "sales.xlsx"),
            (Some("a.csv"), ReportFormat::Csv, ReportCompression::Gzip, "a.csv", "a.csv.gz"),
            (Some("a.csv.zip"), ReportFormat::Csv, ReportCompression::Zip, "a.csv", "a.csv.zip"),
            (Some("../../x\r\n.csv"), ReportFormat::Jsonl, ReportCompression::None, "x.csv.jsonl", "x.csv.jsonl"),
            (Some("a"), ReportFormat::Json, ReportCompression::None, "a.json", "a.json"),
        ] {
            let name = ReportName::new(given, format, compress);
            assert_eq!((name.entry_name().as_str(), name.file_name().as_str()), (inner, outer), "{given:?}");
        }
    }

    #[test]
    fn groups_have_different_names() {
        let name = ReportName::new(Some("sales.csv"), ReportFormat::Csv, ReportCompression::Gzip);
        let mut used = BTreeSet::new();
        let names = [Some("EU"), Some("eu"), Some("../a/b"), Some(""), None, Some("none")]
            .map(|key| name.for_group(key, &mut used).file_name());
        let expected = [
            "sales-EU.csv.gz",
            "sales-eu-2.csv.gz",
            "sales-..-a-b.csv.gz",
            "sales-empty.csv.gz",
            "sales-none.csv.gz",
            "sales-none-2.csv.gz",
        ];
        assert_eq!(names, expected);
        let long = "é".repeat(1000);
        let long = name.for_group(Some(&long), &mut used).file_name();
        assert!(long.len() < 200 && long.ends_with(".csv.gz"), "{long}");
    }
}
