//! Hostile and damaged files: each is rejected with a code, or decoded. None panics or hangs.

use afterload::config::ImageLimits;
use afterload_core::units::ByteSize;
use afterload_image_resize::{OutputFormat, inspect_image};

use super::support::{one, pillow, resize_within, style};

/// Builds a PNG chunk.
fn chunk(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let mut named = kind.to_vec();
    named.extend_from_slice(data);
    let checksum = named.iter().fold(!0u32, |sum, byte| {
        (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xedb8_8320 } else { sum >> 1 })
    });
    let mut chunk = (data.len() as u32).to_be_bytes().to_vec();
    chunk.extend_from_slice(&named);
    chunk.extend_from_slice(&(!checksum).to_be_bytes());
    chunk
}

/// Builds a PNG that declares this size, with these chunks before its pixels.
fn png(width: u32, height: u32, chunks: &[u8], pixels: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = [width.to_be_bytes(), height.to_be_bytes()].concat();
    header.extend_from_slice(&[8, 0, 0, 0, 0]);
    bytes.extend(chunk(b"IHDR", &header));
    bytes.extend_from_slice(chunks);
    bytes.extend(chunk(b"IDAT", pixels));
    bytes.extend(chunk(b"IEND", b""));
    bytes
}

/// Compresses `count` zeros with zlib.
fn zeros(count: usize) -> Vec<u8> {
    use std::io::Write;
    let mut writer = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    let block = vec![0; 1 << 20];
    for _ in 0..count / block.len() {
        writer.write_all(&block).unwrap();
    }
    writer.write_all(&block[..count % block.len()]).unwrap();
    writer.finish().unwrap()
}

fn code(bytes: &[u8]) -> &'static str {
    one(bytes, "10x10").map_or_else(|error| error.code().name(), |_| "fine")
}

#[test]
fn non_pictures_are_rejected_by_name() {
    let told = |bytes: &[u8]| {
        let error = one(bytes, "10").expect_err("no picture");
        format!("{} [{}]", error.message(), error.code())
    };
    let cases: [&[u8]; 10] = [
        b"<svg xmlns='http://www.w3.org/2000/svg' onload='alert(1)'/>",
        b"<!DOCTYPE html><script>alert(1)</script>",
        b"<!-- \xff\xd8\xff --><html>",
        b"%PDF-1.7\n",
        b"II*\0\x08\0\0\0",
        b"BM\x46\0\0\0\0\0\0\0\x36\0",
        b"\0\0\0\x1cftypheic\0\0\0\0",
        b"name,email\n",
        b"\x01\x02\x03\x04",
        b"",
    ];
    insta::assert_snapshot!(cases.map(told).join("\n"));
}

#[test]
fn bombs_are_rejected_before_decoding() {
    let limits = ImageLimits::default();
    let refused = |bytes: &[u8], limits: &ImageLimits| {
        inspect_image(bytes, limits).map(drop).map_err(|error| error.code().name())
    };
    assert_eq!(refused(&png(20_000, 10, b"", b""), &limits), Err("image_too_large"));
    assert_eq!(refused(&png(12_000, 12_000, b"", b""), &limits), Err("image_too_large"));
    assert_eq!(refused(&png(u32::MAX, u32::MAX, b"", b""), &limits), Err("image_too_large"));
    assert_eq!(refused(&png(0, 10, b"", b""), &limits), Err("image_invalid"));
    let mut huge_frame = b"GIF89a\x01\0\x01\0\0\0\0\x2c\0\0\0\0\xff\xff\xff\xff\0\x02\0\x3b".to_vec();
    assert_eq!(refused(&huge_frame, &limits), Err("image_too_large"));
    huge_frame[18..22].copy_from_slice(b"\x01\0\x01\0");
    assert_eq!(refused(&huge_frame, &limits), Ok(()));
    let small = ImageLimits { file: ByteSize(20), ..ImageLimits::default() };
    assert_eq!(refused(&huge_frame, &small), Err("image_too_large"));
}

#[test]
fn inflated_bytes_are_limited() {
    // A profile of 256 MB in 250 KB, and a text chunk of 16 MB.
    let mut profile = b"bomb\0\0".to_vec();
    profile.extend(zeros(256 << 20));
    let mut chunks = chunk(b"iCCP", &profile);
    let mut text = b"bomb\0\0".to_vec();
    text.extend(zeros(16 << 20));
    chunks.extend(chunk(b"zTXt", &text));
    let bytes = png(1, 1, &chunks, &zeros(2));
    let inspected = inspect_image(&bytes, &ImageLimits::default()).unwrap();
    assert!(inspected.broken_profile && inspected.profile.is_none());
    assert_eq!(code(&bytes), "fine");
    // Pixels beyond the declared size are not read.
    assert_eq!(code(&png(1, 1, b"", &zeros(64 << 20))), "fine");
    assert_eq!(code(&png(100, 100, b"", &zeros(2))), "image_invalid");
}

#[test]
fn decoding_memory_is_limited() {
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    let limits = ImageLimits { decode: ByteSize(300_000), ..ImageLimits::default() };
    let try_out = |name: &str, geometry: &str| {
        let bytes = std::fs::read(folder.path().join(name)).unwrap();
        let made = resize_within(&bytes, vec![style("a", geometry, OutputFormat::Keep)], false, &limits);
        made.map_or_else(|error| error.code().name(), |_| "fine")
    };
    assert_eq!(try_out("large.jpg", "800x600"), "image_too_large");
    // Decoding at an eighth of the size needs little memory.
    assert_eq!(try_out("large.jpg", "100x75"), "fine");
    assert_eq!(try_out("rgb.png", "50x50"), "fine");
    assert_eq!(try_out("rgb.png", "50000x50000!"), "image_too_large");
}

/// A generator with a fixed seed, so that every run flips the same bits.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % below as u64) as usize
    }
}

#[test]
fn damaged_file_is_rejected_or_decoded() {
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    let allowed = ["fine", "image_invalid", "image_truncated", "image_unsupported", "image_too_large"];
    let mut dice = Dice(4_101_842_887_655_102_017);
    for name in [
        "420.jpg",
        "progressive.jpg",
        "exif-6.jpg",
        "palette-alpha.png",
        "srgb.jpg",
        "lossy-alpha.webp",
        "animated.gif",
    ] {
        let whole = std::fs::read(folder.path().join(name)).unwrap();
        assert_eq!(code(&whole), "fine", "{name}");
        for length in (0..12.min(whole.len())).chain((12..whole.len()).step_by(whole.len() / 40)) {
            let code = code(&whole[..length]);
            let expected = if length < 12 { &allowed[1..] } else { &["image_truncated"][..] };
            assert!(expected.contains(&code), "{name}, the first {length} bytes: {code}");
        }
        for _ in 0..60 {
            let mut damaged = whole.clone();
            for _ in 0..1 + dice.roll(4) {
                let at = dice.roll(damaged.len());
                damaged[at] ^= 1 << dice.roll(8);
            }
            let code = code(&damaged);
            assert!(allowed.contains(&code), "{name}: {code}");
        }
    }
}

#[test]
fn trailing_bytes_are_dropped() {
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    for name in ["rgb.jpg", "rgb.png", "still.gif", "lossy.webp"] {
        let mut bytes = std::fs::read(folder.path().join(name)).unwrap();
        bytes.extend_from_slice(b"PK\x03\x04<script>alert(1)</script>");
        for target in [OutputFormat::Keep, OutputFormat::Webp] {
            let limits = ImageLimits::default();
            let made = resize_within(&bytes, vec![style("a", "100%", target)], true, &limits).unwrap().0.remove(0);
            assert!(!made.bytes.windows(8).any(|part| part == b"<script>"), "{name}");
        }
    }
}
