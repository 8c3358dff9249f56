//! Text in the XML of a workbook.

/// The first bytes of sequences that need an escape in XML or in spreadsheets.
const XML_SPECIAL_BYTES: [bool; 256] = {
    let mut special = [false; 256];
    let mut control = 0;
    while control < 0x20 {
        special[control] = !matches!(control as u8, b'\t' | b'\n');
        control += 1;
    }
    special[b'&' as usize] = true;
    special[b'<' as usize] = true;
    special[b'>' as usize] = true;
    special[b'_' as usize] = true;
    special[0xef] = true;
    special
};

/// Escapes text for XML. XML has no control characters, so spreadsheets write them as `_x0001_`.
pub fn escape_xml(value: &[u8], out: &mut Vec<u8>) {
    let mut plain = 0;
    for (at, byte) in value.iter().enumerate().filter(|(_, byte)| XML_SPECIAL_BYTES[usize::from(**byte)]) {
        let rest = &value[at..];
        let (written, taken): (std::borrow::Cow<'_, [u8]>, _) = match byte {
            b'&' => (b"&amp;"[..].into(), 1),
            b'<' => (b"&lt;"[..].into(), 1),
            b'>' => (b"&gt;"[..].into(), 1),
            b'_' if is_escape_sequence(rest) => (b"_x005F_"[..].into(), 1),
            0xef if rest.starts_with(b"\xef\xbf\xbe") || rest.starts_with(b"\xef\xbf\xbf") => {
                ("\u{fffd}".as_bytes().into(), 3)
            }
            b'_' | 0xef => continue,
            control => (format!("_x{control:04X}_").into_bytes().into(), 1),
        };
        out.extend_from_slice(&value[plain..at]);
        out.extend_from_slice(&written);
        plain = at + taken;
    }
    out.extend_from_slice(&value[plain..]);
}

/// Whether the text begins like `_x0041_`, which spreadsheets would read as `A`.
fn is_escape_sequence(text: &[u8]) -> bool {
    text.len() >= 7 && text[1] == b'x' && text[6] == b'_' && text[2..6].iter().all(u8::is_ascii_hexdigit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn xml_escapes_round_trip() {
        for (text, expected) in [
            ("a < b & c > \"d\"", "a &lt; b &amp; c &gt; \"d\""),
            ("\u{1}x\r\n\t", "_x0001_x_x000D_\n\t"),
            ("_x0041_ a_b _x12_", "_x005F_x0041_ a_b _x12_"),
            ("\u{ffff}é\u{feff}\u{fffd}", "\u{fffd}é\u{feff}\u{fffd}"),
        ] {
            let mut out = Vec::new();
            escape_xml(text.as_bytes(), &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), expected);
        }
    }
}
