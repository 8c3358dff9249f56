//! Detects the kinds of ZIP archives: many documents are one.

const OFFICE_TYPES: &[(&[u8], &str)] = &[
    (b"word/", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"),
    (b"xl/", "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
    (b"ppt/", "application/vnd.openxmlformats-officedocument.presentationml.presentation"),
];
/// Documents whose first entry, `mimetype`, holds their type.
const NAMED_TYPES: &[&str] = &[
    "application/epub+zip",
    "application/vnd.oasis.opendocument.text",
    "application/vnd.oasis.opendocument.spreadsheet",
    "application/vnd.oasis.opendocument.presentation",
];
/// Entries of office documents in no other archive. Some writers put the list of types last, where it is not seen.
const OFFICE_ENTRIES: &[&[u8]] = &[
    b"[Content_Types].xml",
    b"_rels/.rels",
    b"docProps/app.xml",
    b"word/document.xml",
    b"xl/workbook.xml",
    b"ppt/presentation.xml",
];
const ENTRY_SIGNATURE: &[u8] = b"PK\x03\x04";
const ENTRY_HEADER_BYTES: usize = 30;

/// Office documents are ZIP archives; the names of their entries identify the type.
pub fn detect_zip(head: &[u8]) -> Option<&'static str> {
    if !head.starts_with(ENTRY_SIGNATURE) {
        return head.starts_with(b"PK\x05\x06").then_some("application/zip");
    }
    let (mut office, mut is_office, mut at) = (None, false, 0);
    while let Some(entry) = read_entry(head, at) {
        if at == 0 && entry.name == b"mimetype" {
            let named = NAMED_TYPES.iter().find(|media| media.as_bytes() == entry.data.trim_ascii());
            return Some(named.unwrap_or(&"application/zip"));
        }
        is_office |= OFFICE_ENTRIES.contains(&entry.name);
        // Embedded documents come behind the parts of their own document.
        office = office.or_else(|| OFFICE_TYPES.iter().find(|(folder, _)| entry.name.starts_with(folder)));
        if let (true, Some((_, media))) = (is_office, office) {
            return Some(media);
        }
        at = entry.end;
    }
    Some("application/zip")
}

struct ZipEntry<'a> {
    name: &'a [u8],
    data: &'a [u8],
    end: usize,
}

/// Reads the entry whose header stands at this place; `None` behind the last entry.
fn read_entry(head: &[u8], at: usize) -> Option<ZipEntry<'_>> {
    let header = head.get(at..)?.first_chunk::<ENTRY_HEADER_BYTES>()?;
    if !header.starts_with(ENTRY_SIGNATURE) {
        return None;
    }
    let number = |at: usize| usize::from(u16::from_le_bytes([header[at], header[at + 1]]));
    let (flags, size) = (number(6), number(18) | number(20) << 16);
    let name_end = at + ENTRY_HEADER_BYTES + number(26);
    let name = head.get(at + ENTRY_HEADER_BYTES..name_end)?;
    let start = name_end + number(28);
    // Writers that do not know the size in advance put it behind the data.
    let size_follows = flags & 8 != 0 && matches!(size, 0 | 0xffff_ffff);
    let rest = head.get(start..).unwrap_or_default();
    let length = match size_follows {
        true => find_data_end(rest),
        false => size.min(rest.len()),
    };
    let next = match size_follows {
        true => memchr::memmem::find(&rest[length..], ENTRY_SIGNATURE).map_or(rest.len(), |found| length + found),
        false => length,
    };
    Some(ZipEntry { name, data: &rest[..length], end: start + next })
}

/// Returns where the size behind the data, or the next entry, begins.
fn find_data_end(rest: &[u8]) -> usize {
    memchr::memmem::find(rest, b"PK").unwrap_or(rest.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Builds the entries of an archive, each with the size in front or behind.
    fn archive(entries: &[(&str, &[u8])], size_follows: bool) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, data) in entries {
            let size = (data.len() as u32).to_le_bytes();
            let flags = if size_follows { 8u16 } else { 0 };
            let in_front = if size_follows { [0; 4] } else { size };
            bytes.extend_from_slice(b"PK\x03\x04\x14\0");
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&[0; 10]);
            bytes.extend_from_slice(&in_front);
            bytes.extend_from_slice(&in_front);
            bytes.extend_from_slice(&(name.len() as u16).to_le_bytes());
            bytes.extend_from_slice(&[0; 2]);
            bytes.extend_from_slice(name.as_bytes());
            bytes.extend_from_slice(data);
            if size_follows {
                bytes.extend_from_slice(b"PK\x07\x08\0\0\0\0");
                bytes.extend_from_slice(&size);
                bytes.extend_from_slice(&size);
            }
        }
        bytes
    }

    #[test]
    fn entries_identify_documents() {
        let (docx, xlsx) = (OFFICE_TYPES[0].1, OFFICE_TYPES[1].1);
        let odt = "application/vnd.oasis.opendocument.text";
        for size_follows in [false, true] {
            let sheet = archive(&[("[Content_Types].xml", b"x"), ("xl/workbook.xml", b"x")], size_follows);
            for (entries, media) in [
                (&[("a.txt", &b"x"[..])][..], "application/zip"),
                (&[("password/list.txt", b"x"), ("shirts-xl/a.txt", b"x")], "application/zip"),
                (&[("xl/photo.jpg", b"x"), ("word/photo.jpg", b"x")], "application/zip"),
                (&[("xl/workbook.xml", b"x")], xlsx),
                (&[("docProps/app.xml", b"x"), ("xl/worksheets/sheet1.xml", b"x")], xlsx),
                (&[("word/document.xml", b"x"), ("[Content_Types].xml", b"x")], docx),
                (&[("[Content_Types].xml", b"x"), ("word/a.xml", b"x"), ("word/embeddings/a.xlsx", &sheet)], docx),
                (&[("mimetype", odt.as_bytes()), ("content.xml", b"x")], odt),
                (&[("mimetype", b"application/vnd.oasis.opendocument.text-template")], "application/zip"),
            ] {
                let head = archive(entries, size_follows);
                assert_eq!(detect_zip(&head), Some(media), "{:?} {size_follows}", entries[0].0);
                for length in 4..head.len() {
                    assert!(detect_zip(&head[..length]).is_some());
                }
            }
            // An archive of documents is none itself.
            if !size_follows {
                assert_eq!(detect_zip(&archive(&[("a.xlsx", &sheet)], false)), Some("application/zip"));
            }
        }
        assert_eq!(detect_zip(b"PK\x05\x06"), Some("application/zip"));
    }
}
