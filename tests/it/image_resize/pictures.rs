//! Compares the pixels of all source and result formats with Pillow.

use afterload_image_resize::{OutputFormat, ProfileState};
use serde_json::{Value, json};

use super::support::{pillow, resize, style};

/// The allowed differences. Even lossless decoders round in different ways, and JPEG decoders also smooth colors
/// differently.
fn settings(source: &str) -> Value {
    match source.rsplit('.').next() {
        Some("png" | "gif") => json!({ "same": true, "mean": 0.5, "largest": 1 }),
        _ if source.starts_with("lossless") || source.starts_with("animated") => {
            json!({ "same": true, "mean": 0.0, "largest": 0 })
        }
        _ => json!({ "same": true, "mean": 1.5, "largest": 40 }),
    }
}

#[test]
fn every_source_format_decodes_like_pillow() {
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    let mut results = Vec::new();
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let source = entry.unwrap().file_name().into_string().unwrap();
        let bytes = std::fs::read(folder.path().join(&source)).unwrap();
        let wanted = vec![
            style("same", "100%", OutputFormat::Png),
            style("small", "37%", OutputFormat::Png),
            style("crop", "31x23#", OutputFormat::Png),
        ];
        let (pictures, state) = resize(&bytes, wanted, false).unwrap_or_else(|error| panic!("{source}: {error:?}"));
        assert_eq!(state, if source == "srgb.jpg" { ProfileState::Srgb } else { ProfileState::None }, "{source}");
        for picture in pictures {
            let result = format!("{source}-{}.png", picture.name);
            std::fs::write(folder.path().join(&result), picture.bytes).unwrap();
            match picture.name.as_str() {
                "same" => results.push(json!([source, result, settings(&source)])),
                "small" => results.push(json!([source, result, { "mean": 3.0, "largest": 60 }])),
                _ => assert_eq!((picture.size.width, picture.size.height), (31, 23)),
            }
        }
    }
    assert!(results.len() > 90, "{}", results.len());
    std::fs::write(folder.path().join("results.json"), serde_json::to_string(&results).unwrap()).unwrap();
    assert_eq!(pillow(&["compare"], folder.path()), "");
}

#[test]
fn every_result_format_decodes_like_pillow() {
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    let mut results = Vec::new();
    for source in ["rgb.png", "rgba.png", "grey.png", "grey-alpha.png", "cmyk.jpg", "exif-6.jpg"] {
        let bytes = std::fs::read(folder.path().join(source)).unwrap();
        let transparent = source.contains('a') && source.ends_with("a.png") || source == "grey-alpha.png";
        let mut blue = style("blue", "100%", OutputFormat::Jpeg);
        blue.background = Some([0, 0, 255]);
        let wanted = vec![
            style("jpeg", "100%", OutputFormat::Jpeg),
            style("webp", "100%", OutputFormat::Webp),
            blue,
            style("half", "50%", OutputFormat::Webp),
        ];
        for picture in resize(&bytes, wanted, false).unwrap().0 {
            let result = format!("{source}-{}.{}", picture.name, picture.format.file_extension());
            std::fs::write(folder.path().join(&result), &picture.bytes).unwrap();
            let mut settings = json!({ "mean": 4.0, "largest": 90 });
            if transparent && picture.format.file_extension() == "jpg" {
                settings["background"] = if picture.name == "blue" { "#0000ff" } else { "#ffffff" }.into();
            }
            results.push(json!([source, result, settings]));
        }
    }
    std::fs::write(folder.path().join("results.json"), serde_json::to_string(&results).unwrap()).unwrap();
    assert_eq!(pillow(&["compare"], folder.path()), "");
}

#[test]
fn same_source_gives_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    let bytes = std::fs::read(folder.path().join("large.jpg")).unwrap();
    let make = || {
        let targets = [OutputFormat::Jpeg, OutputFormat::Png, OutputFormat::Webp];
        let wanted = targets.map(|target| style("one", "300x200", target)).to_vec();
        resize(&bytes, wanted, false).unwrap().0.into_iter().map(|picture| picture.bytes).collect::<Vec<_>>()
    };
    assert_eq!(make(), make());
}
