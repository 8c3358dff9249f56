//! The code pages of DOS, which older programs still write and the WHATWG standard leaves out.

/// A code page: ASCII, and 128 other characters.
#[derive(Debug, PartialEq, Eq)]
pub struct CodePage {
    /// The name.
    pub name: &'static str,
    upper: [char; 128],
}

impl CodePage {
    /// Finds a code page by its name: `cp850`, `ibm850`, `cp-850` or `850`.
    pub fn for_label(label: &str) -> Option<&'static Self> {
        let label = label.trim().to_ascii_lowercase().replace(['-', '_', ' '], "");
        let number = ["cp", "ibm", "dos", "oem"].iter().find_map(|prefix| label.strip_prefix(prefix)).unwrap_or(&label);
        [&CP437, &CP850, &CP852].into_iter().find(|page| page.name.strip_prefix("cp") == Some(number))
    }

    /// The character of a byte.
    pub fn decode_byte(&self, byte: u8) -> char {
        match byte.checked_sub(128) {
            None => char::from(byte),
            Some(index) => self.upper[usize::from(index)],
        }
    }
}

#[rustfmt::skip]
static CP437: CodePage = CodePage {
    name: "cp437",
    upper: [
        'Ç', 'ü', 'é', 'â', 'ä', 'à', 'å', 'ç', 'ê', 'ë', 'è', 'ï', 'î', 'ì', 'Ä', 'Å',
        'É', 'æ', 'Æ', 'ô', 'ö', 'ò', 'û', 'ù', 'ÿ', 'Ö', 'Ü', '¢', '£', '¥', '₧', 'ƒ',
        'á', 'í', 'ó', 'ú', 'ñ', 'Ñ', 'ª', 'º', '¿', '⌐', '¬', '½', '¼', '¡', '«', '»',
        '░', '▒', '▓', '│', '┤', '╡', '╢', '╖', '╕', '╣', '║', '╗', '╝', '╜', '╛', '┐',
        '└', '┴', '┬', '├', '─', '┼', '╞', '╟', '╚', '╔', '╩', '╦', '╠', '═', '╬', '╧',
        '╨', '╤', '╥', '╙', '╘', '╒', '╓', '╫', '╪', '┘', '┌', '█', '▄', '▌', '▐', '▀',
        'α', 'ß', 'Γ', 'π', 'Σ', 'σ', 'µ', 'τ', 'Φ', 'Θ', 'Ω', 'δ', '∞', 'φ', 'ε', '∩',
        '≡', '±', '≥', '≤', '⌠', '⌡', '÷', '≈', '°', '∙', '·', '√', 'ⁿ', '²', '■', '\u{a0}',
    ],
};

#[rustfmt::skip]
static CP850: CodePage = CodePage {
    name: "cp850",
    upper: [
        'Ç', 'ü', 'é', 'â', 'ä', 'à', 'å', 'ç', 'ê', 'ë', 'è', 'ï', 'î', 'ì', 'Ä', 'Å',
        'É', 'æ', 'Æ', 'ô', 'ö', 'ò', 'û', 'ù', 'ÿ', 'Ö', 'Ü', 'ø', '£', 'Ø', '×', 'ƒ',
        'á', 'í', 'ó', 'ú', 'ñ', 'Ñ', 'ª', 'º', '¿', '®', '¬', '½', '¼', '¡', '«', '»',
        '░', '▒', '▓', '│', '┤', 'Á', 'Â', 'À', '©', '╣', '║', '╗', '╝', '¢', '¥', '┐',
        '└', '┴', '┬', '├', '─', '┼', 'ã', 'Ã', '╚', '╔', '╩', '╦', '╠', '═', '╬', '¤',
        'ð', 'Ð', 'Ê', 'Ë', 'È', 'ı', 'Í', 'Î', 'Ï', '┘', '┌', '█', '▄', '¦', 'Ì', '▀',
        'Ó', 'ß', 'Ô', 'Ò', 'õ', 'Õ', 'µ', 'þ', 'Þ', 'Ú', 'Û', 'Ù', 'ý', 'Ý', '¯', '´',
        '\u{ad}', '±', '‗', '¾', '¶', '§', '÷', '¸', '°', '¨', '·', '¹', '³', '²', '■', '\u{a0}',
    ],
};

#[rustfmt::skip]
static CP852: CodePage = CodePage {
    name: "cp852",
    upper: [
        'Ç', 'ü', 'é', 'â', 'ä', 'ů', 'ć', 'ç', 'ł', 'ë', 'Ő', 'ő', 'î', 'Ź', 'Ä', 'Ć',
        'É', 'Ĺ', 'ĺ', 'ô', 'ö', 'Ľ', 'ľ', 'Ś', 'ś', 'Ö', 'Ü', 'Ť', 'ť', 'Ł', '×', 'č',
        'á', 'í', 'ó', 'ú', 'Ą', 'ą', 'Ž', 'ž', 'Ę', 'ę', '¬', 'ź', 'Č', 'ş', '«', '»',
        '░', '▒', '▓', '│', '┤', 'Á', 'Â', 'Ě', 'Ş', '╣', '║', '╗', '╝', 'Ż', 'ż', '┐',
        '└', '┴', '┬', '├', '─', '┼', 'Ă', 'ă', '╚', '╔', '╩', '╦', '╠', '═', '╬', '¤',
        'đ', 'Đ', 'Ď', 'Ë', 'ď', 'Ň', 'Í', 'Î', 'ě', '┘', '┌', '█', '▄', 'Ţ', 'Ů', '▀',
        'Ó', 'ß', 'Ô', 'Ń', 'ń', 'ň', 'Š', 'š', 'Ŕ', 'Ú', 'ŕ', 'Ű', 'ý', 'Ý', 'ţ', '´',
        '\u{ad}', '˝', '˛', 'ˇ', '˘', '§', '÷', '¸', '°', '¨', '˙', 'ű', 'Ř', 'ř', '■', '\u{a0}',
    ],
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_pages_are_found_and_decode() {
        let text = |page: &CodePage, bytes: &[u8]| bytes.iter().map(|byte| page.decode_byte(*byte)).collect::<String>();
        for (label, bytes, expected) in [
            ("cp437", &b"Z\x81rich \x9c"[..], "Zürich £"),
            ("IBM850", b"Espa\xa4a \x9d", "España Ø"),
            ("cp-852", b"\x9d\xa2d\xab", "Łódź"),
            ("850", b"abc", "abc"),
        ] {
            assert_eq!(text(CodePage::for_label(label).unwrap(), bytes), expected, "{label}");
        }
        assert!(CodePage::for_label("cp1252").is_none() && CodePage::for_label("").is_none());
    }
}
