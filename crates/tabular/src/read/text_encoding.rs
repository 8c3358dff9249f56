//! The encodings of text by name.

use encoding_rs::{Encoding, MACINTOSH, REPLACEMENT, UTF_8};

use super::code_pages::CodePage;

/// An encoding of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TextEncoding {
    /// An encoding of the WHATWG standard.
    Standard(&'static Encoding),
    /// A code page of DOS.
    CodePage(&'static CodePage),
}

impl TextEncoding {
    /// UTF-8.
    pub fn utf8() -> Self {
        Self::Standard(UTF_8)
    }

    /// Finds an encoding by a label of the WHATWG standard, or by the name of a code page of DOS or Mac OS.
    pub fn for_label(label: &str) -> Option<Self> {
        if let Some(page) = CodePage::for_label(label) {
            return Some(Self::CodePage(page));
        }
        if matches!(label.to_ascii_lowercase().as_str(), "mac_roman" | "mac-roman" | "macroman") {
            return Some(Self::Standard(MACINTOSH));
        }
        let standard = Encoding::for_label(label.as_bytes()).filter(|encoding| *encoding != REPLACEMENT);
        standard.map(Self::Standard)
    }

    /// The name in lower case, such as `utf-8`.
    pub fn name(self) -> String {
        match self {
            Self::Standard(encoding) => encoding.name().to_ascii_lowercase(),
            Self::CodePage(page) => page.name.to_owned(),
        }
    }

    /// Whether the bytes of a file are its text.
    pub fn is_utf8(self) -> bool {
        self == Self::utf8()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_found_by_name() {
        for (label, name) in [
            ("UTF8", "utf-8"),
            ("latin1", "windows-1252"),
            ("utf-16le", "utf-16le"),
            ("cp437", "cp437"),
            ("cp850", "cp850"),
            ("ibm852", "cp852"),
            ("mac_roman", "macintosh"),
            ("cp866", "ibm866"),
        ] {
            assert_eq!(TextEncoding::for_label(label).unwrap().name(), name, "{label}");
        }
        assert!(TextEncoding::for_label("klingon").is_none() && TextEncoding::for_label("hz-gb-2312").is_none());
    }
}
