//! Files that other programs read and that readers get wrong: each comes out right, or with the right code.

use std::path::Path;

use afterload_image_resize::{OutputFormat, ProfileState};
use afterload_media_type::detect_media_type;
use serde_json::json;

use super::support::{one, pillow, resize, style};
use crate::support::{Database, TestApp, both};

both!(files_have_the_types_of_their_bytes);

const DOCX: &str = "application/vnd.openxmlformats-officedocument.wordprocessingml.document";
/// The files with their types.
const TYPES: [(&str, &str); 11] = [
    ("bom.json", "application/json"),
    ("lines.jsonl", "application/x-ndjson"),
    ("vault.zip", "application/zip"),
    ("photos.zip", "application/zip"),
    ("with-chart.docx", DOCX),
    ("leading-newline.pdf", "application/pdf"),
    ("noid3.mp3", "audio/mpeg"),
    ("utf16.xml", "application/xml"),
    ("mif1.avif", "image/avif"),
    ("old.xls", "application/vnd.ms-excel"),
    ("gif-no-trailer.gif", "image/gif"),
];

fn read_file(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/image_resize/files");
    std::fs::read(folder.join(name)).unwrap()
}

#[test]
fn unusual_pictures_look_as_in_browsers() {
    let plain = [[30, 200, 40], [30, 40, 220], [240, 220, 40]];
    for (name, corners, profile) in [
        ("rgb-jpeg-adobe-ids-123.jpg", plain, ProfileState::None),
        ("cmyk-no-adobe.jpg", plain, ProfileState::None),
        ("jpeg-samsung-sos-0-63-1.jpg", plain, ProfileState::None),
        ("gif-no-trailer.gif", [[255, 0, 0]; 3], ProfileState::None),
        // Green and yellow of Display P3 are outside of sRGB.
        ("png-cicp-p3.png", [[0, 204, 0], [27, 40, 229], [244, 219, 0]], ProfileState::Converted),
        ("icc-gimp-linear-srgb.png", [[96, 229, 110], [96, 110, 239], [248, 239, 110]], ProfileState::Converted),
    ] {
        for geometry in ["100%", "25%"] {
            let made = resize(&read_file(name), vec![style("a", geometry, OutputFormat::Jpeg)], false);
            let (pictures, state) = made.unwrap_or_else(|error| panic!("{name}: {error:?}"));
            assert_eq!(state, profile, "{name}");
            let picture = &pictures[0];
            let pixels = jpeg_decoder::Decoder::new(&picture.bytes[..]).decode().unwrap();
            let (width, height) = (picture.size.width as usize, picture.size.height as usize);
            for ((x, y), expected) in [(6, 2), (2, 6), (6, 6)].into_iter().zip(corners) {
                let at = (y * height / 8 * width + x * width / 8) * 3;
                let found = &pixels[at..at + 3];
                let close = found.iter().zip(expected).all(|(found, expected)| found.abs_diff(expected) <= 6);
                assert!(close, "{name} at {geometry}, {x}/8 and {y}/8: {found:?} instead of {expected:?}");
            }
        }
    }
}

#[test]
fn png_colors_equal_those_of_the_same_profile() {
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    let plain = std::fs::read(folder.path().join("rgba.png")).unwrap();
    // Pixels follow after the header, which has 33 bytes with the signature.
    let with_chunk = |kind: &str, data: &[u8]| {
        let mut checksum = flate2::Crc::new();
        checksum.update(kind.as_bytes());
        checksum.update(data);
        let length = (data.len() as u32).to_be_bytes();
        [&plain[..33], &length, kind.as_bytes(), data, &checksum.sum().to_be_bytes(), &plain[33..]].concat()
    };
    let state = |bytes: &[u8], keep| resize(bytes, vec![style("a", "50%", OutputFormat::Png)], keep).unwrap();
    let bytes = |bytes: &[u8]| one(bytes, "50%").unwrap().bytes;
    let numbers = |numbers: &[u32]| numbers.iter().flat_map(|number| number.to_be_bytes()).collect::<Vec<_>>();
    let p3 = numbers(&[31_270, 32_900, 68_000, 32_000, 26_500, 69_000, 15_000, 6_000]);
    for (kind, data, expected) in [
        ("cICP", &[12u8, 13, 0, 1][..], ProfileState::Converted),
        ("cICP", &[1, 13, 0, 1], ProfileState::Srgb),
        ("cHRM", &p3, ProfileState::Converted),
        ("gAMA", &numbers(&[100_000]), ProfileState::Converted),
        ("gAMA", &numbers(&[45_455]), ProfileState::Srgb),
        ("sRGB", &[0], ProfileState::None),
    ] {
        let source = with_chunk(kind, data);
        assert_eq!(state(&source, false).1, expected, "{kind} {data:?}");
        assert_eq!(bytes(&source) == bytes(&plain), expected != ProfileState::Converted, "{kind} {data:?}");
        // Kept colors need a profile that all readers know.
        let kept = state(&source, true);
        let has_profile = kept.0[0].bytes.windows(4).any(|part| part == b"iCCP");
        assert_eq!(has_profile, kept.1 == ProfileState::Kept, "{kind} {data:?}");
        assert_eq!(has_profile, expected != ProfileState::None, "{kind} {data:?}");
    }
}

#[test]
fn scans_that_end_early_are_truncated() {
    let code = |bytes: &[u8], geometry| one(bytes, geometry).map_or_else(|error| error.code().name(), |_| "fine");
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    assert_eq!(code(&read_file("jpeg-cut-with-eoi.jpg"), "100%"), "image_truncated");
    for name in ["420.jpg", "422.jpg", "progressive.jpg", "restarts.jpg", "grey.jpg", "cmyk.jpg", "exif-6.jpg"] {
        let whole = std::fs::read(folder.path().join(name)).unwrap();
        let scan = whole.windows(2).position(|marker| marker == b"\xff\xda").unwrap() + 20;
        for part in 1..10 {
            let cut = scan + (whole.len() - 2 - scan) * part / 10;
            for geometry in ["100%", "9x9"] {
                let cut_off = [&whole[..cut], b"\xff\xd9"].concat();
                assert_eq!(code(&cut_off, geometry), "image_truncated", "{name} up to {cut}");
            }
        }
        // More bytes behind the end marker, and restart markers behind the last scan, do no harm.
        let end = whole.len() - 2;
        let restart = [&whole[..end], b"\xff\xd0\xff\xd9tail"].concat();
        assert_eq!(code(&restart, "100%"), "fine", "{name}");
    }
    // Between two scans, where all that is there is whole.
    let whole = std::fs::read(folder.path().join("progressive.jpg")).unwrap();
    let starts = |at: &usize| [b"\xff\xc4", b"\xff\xda"].iter().any(|marker| whole[*at..].starts_with(*marker));
    let first = whole.windows(2).position(|marker| marker == b"\xff\xda").unwrap();
    let cuts: Vec<usize> = (first + 2..whole.len()).filter(starts).collect();
    assert!(cuts.len() > 8, "{cuts:?}");
    for cut in cuts {
        for end in [&b""[..], b"\xff\xd9"] {
            let cut_off = [&whole[..cut], end].concat();
            assert_eq!(code(&cut_off, "100%"), "image_truncated", "up to {cut}, then {end:?}");
        }
    }
    // A restart marker in the scan of a file that has none.
    let whole = std::fs::read(folder.path().join("420.jpg")).unwrap();
    let middle = whole.len() / 2;
    for marker in [b"\xff\xd0", b"\xff\xd9", b"\xff\xd8"] {
        let interrupted = [&whole[..middle], marker, &whole[middle..]].concat();
        assert_eq!(code(&interrupted, "100%"), "image_truncated", "{marker:?}");
    }
}

#[test]
fn bytes_identify_types() {
    for (name, media) in TYPES.iter().filter(|(name, _)| *name != "old.xls") {
        assert_eq!(detect_media_type(&read_file(name)), *media, "{name}");
    }
}

async fn files_have_the_types_of_their_bytes(database: Database) {
    let mut accept: Vec<_> = TYPES.iter().map(|(_, media)| *media).collect();
    accept.sort_unstable();
    accept.dedup();
    let check = format!(
        "name: check\nparams:\n  file: {{ type: file }}\nsteps:\n  - id: check\n    uses: file.check\n    with: {{ source: \"${{{{ params.file }}}}\", accept: [{}] }}\n",
        accept.join(", ")
    );
    let csv = check.replace("name: check", "name: csv").replace(&accept.join(", "), "text/csv");
    let app = TestApp::builder(database).pipeline("check", &check).pipeline("csv", &csv).start().await;
    let mut cases: Vec<_> = TYPES.iter().map(|(name, media)| ("check", *name, read_file(name), json!(media))).collect();
    let large = format!("[{}0]", "{\"name\": \"value\"},\n".repeat(70_000));
    assert!(large.len() > 1 << 20);
    cases.push(("check", "large.json", large.into_bytes(), json!("application/json")));
    // Its bytes say that it is no text, whatever its name says.
    cases.push(("csv", "old.csv", read_file("old.xls"), json!("file_type_refused")));
    for (pipeline, name, bytes, expected) in cases {
        let run = app.upload(pipeline, name, bytes).await;
        let run = app.ended(&run).await;
        let step = &run["steps"][0];
        let found = if step["error"].is_null() { &step["outputs"]["content_type"] } else { &step["error"]["code"] };
        assert_eq!(*found, expected, "{name}: {step}");
    }
    app.finish().await;
}
