//! The metadata of a picture: color profiles, EXIF, the location of the photo.

use afterload_image_resize::{OutputFormat, ProfileState};
use afterload_media_type::PixelSize;
use moxcms::ColorProfile;
use serde_json::json;

use super::support::{pillow, resize, style};

/// Builds a JPEG in Display P3, whose green is outside of sRGB.
fn wide(profile: &[u8], colour: [u8; 3]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut bytes, 95);
    encoder.add_icc_profile(profile).unwrap();
    encoder.encode(&colour.repeat(64 * 64), 64, 64, jpeg_encoder::ColorType::Rgb).unwrap();
    bytes
}

#[test]
fn wide_profile_is_converted_or_kept_but_never_dropped() {
    let folder = tempfile::tempdir().unwrap();
    let p3 = ColorProfile::new_display_p3().encode().unwrap();
    let mut results = Vec::new();
    for (name, colour) in [("green.jpg", [40, 180, 60]), ("red.jpg", [200, 90, 80]), ("grey.jpg", [99, 99, 99])] {
        let source = wide(&p3, colour);
        std::fs::write(folder.path().join(name), &source).unwrap();
        for target in [OutputFormat::Jpeg, OutputFormat::Png, OutputFormat::Webp] {
            let (converted, state) = resize(&source, vec![style("a", "32x32", target)], false).unwrap();
            assert_eq!(state, ProfileState::Converted);
            let result = format!("{name}-{}", converted[0].format.file_extension());
            std::fs::write(folder.path().join(&result), &converted[0].bytes).unwrap();
            results.push(json!([name, result, { "mean": 1.5, "largest": 5 }]));

            let (kept, state) = resize(&source, vec![style("a", "32x32", target)], true).unwrap();
            assert_eq!(state, ProfileState::Kept);
            let result = format!("{name}-kept-{}", kept[0].format.file_extension());
            std::fs::write(folder.path().join(&result), &kept[0].bytes).unwrap();
            assert!(kept[0].bytes.len() > converted[0].bytes.len(), "{result}");
        }
    }
    std::fs::write(folder.path().join("results.json"), serde_json::to_string(&results).unwrap()).unwrap();
    assert_eq!(pillow(&["compare"], folder.path()), "");
    let kept = pillow(&["metadata"], folder.path());
    assert_eq!(
        kept.lines().filter(|line| line.contains("-kept-") && line.ends_with("icc_profile")).count(),
        9,
        "{kept}"
    );
}

#[test]
fn location_is_kept_only_with_keep_metadata() {
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    let results = tempfile::tempdir().unwrap();
    for extension in ["jpg", "png", "webp"] {
        let source = std::fs::read(folder.path().join(format!("exif-6.{extension}"))).unwrap();
        for (keep, name) in [(false, "stripped"), (true, "kept")] {
            for target in [OutputFormat::Jpeg, OutputFormat::Png, OutputFormat::Webp] {
                let picture = resize(&source, vec![style("a", "48x48", target)], keep).unwrap().0.remove(0);
                assert_eq!(picture.size, PixelSize::new(32, 48), "it is upright");
                let result = format!("{name}-from-{extension}.{}", picture.format.file_extension());
                std::fs::write(results.path().join(result), picture.bytes).unwrap();
            }
        }
    }
    let told = pillow(&["metadata"], results.path());
    let with = |what: &str| told.lines().filter(|line| line.ends_with(what)).count();
    // Results are upright, so their EXIF orientation is 1. Any other value would turn them twice.
    assert_eq!((with(": exif orientation=1 camera gps"), with(": nothing")), (9, 9), "{told}");
}

#[test]
fn unusable_profile_is_reported() {
    for profile in [&b"not a profile"[..], &[0; 200], &ColorProfile::new_gray_with_gamma(2.2).encode().unwrap()] {
        let (_, state) = resize(&wide(profile, [9, 9, 9]), vec![style("a", "8", OutputFormat::Keep)], false).unwrap();
        assert_eq!(state, ProfileState::Unusable);
    }
    let mut grey = Vec::new();
    let mut encoder = jpeg_encoder::Encoder::new(&mut grey, 95);
    encoder.add_icc_profile(&ColorProfile::new_gray_with_gamma(1.8).encode().unwrap()).unwrap();
    encoder.encode(&[100; 32 * 32], 32, 32, jpeg_encoder::ColorType::Luma).unwrap();
    for keep in [false, true] {
        // Some formats cannot carry a gray profile, so it is always converted.
        let (_, state) = resize(&grey, vec![style("a", "8", OutputFormat::Webp)], keep).unwrap();
        assert_eq!(state, ProfileState::Converted);
    }
}
