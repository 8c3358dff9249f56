//! Public corpora of pictures that break decoders: each is decoded as expected, or rejected with a code.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use afterload::config::ImageLimits;
use afterload_image_resize::{OutputFormat, inspect_image};
use afterload_media_type as media;
use serde_json::json;

use super::support::{pillow, resize, style};

fn corpus(name: &str) -> PathBuf {
    let target = std::env::var("CARGO_TARGET_DIR")
        .map_or_else(|_| Path::new(env!("CARGO_MANIFEST_DIR")).join("target"), PathBuf::from);
    let folder = target.join("corpora").join(name);
    assert!(folder.is_dir(), "{} is missing; run scripts/corpora.sh", folder.display());
    folder
}

/// Lists all files below a folder by their relative path.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let (mut folders, mut files) = (vec![folder.to_owned()], BTreeMap::new());
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let name = path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned();
                    files.insert(name, std::fs::read(&path).unwrap());
                }
            }
        }
    }
    files
}

const CODES: [&str; 4] = ["image_invalid", "image_truncated", "image_unsupported", "image_too_large"];

#[test]
fn pngsuite_is_decoded_like_pillow() {
    let folder = tempfile::tempdir().unwrap();
    let (mut results, mut refused) = (Vec::new(), Vec::new());
    let suite = files(&corpus("pngsuite"));
    assert!(suite.len() > 170);
    for (name, bytes) in suite.into_iter().filter(|(name, _)| name.ends_with(".png")) {
        match resize(
            &bytes,
            vec![style("same", "100%", OutputFormat::Png), style("half", "50%", OutputFormat::Webp)],
            false,
        ) {
            Ok((pictures, _)) => {
                // A conversion of colors rounds once more.
                let largest = if bytes.windows(4).any(|part| part == b"gAMA") { 2 } else { 1 };
                std::fs::write(folder.path().join(&name), bytes).unwrap();
                let same = pictures.into_iter().find(|picture| picture.name == "same").unwrap();
                let result = format!("{name}.same.png");
                std::fs::write(folder.path().join(&result), same.bytes).unwrap();
                // Pillow compares the color key of 4-bit gray with 8-bit pixels, so it finds none. ImageMagick agrees
                // with our result.
                if name == "tbbn0g04.png" {
                    continue;
                }
                // The decoder keeps the upper eight of sixteen bits; Pillow rounds some values.
                results.push(json!([name, result, { "same": true, "mean": 1.0, "largest": largest }]));
            }
            Err(error) => {
                assert!(CODES.contains(&error.code().name()), "{name}: {error:?}");
                refused.push(format!("{name}: {} [{}]", error.message(), error.code()));
            }
        }
    }
    // The files that begin with an x are broken on purpose.
    insta::assert_snapshot!(refused.join("\n"));
    std::fs::write(folder.path().join("results.json"), serde_json::to_string(&results).unwrap()).unwrap();
    assert_eq!(pillow(&["compare"], folder.path()), "");
}

/// Returns the sizes, by name, of all files that Pillow can decode completely.
fn sizes(folder: &Path) -> BTreeMap<String, String> {
    let told = pillow(&["sizes"], folder);
    told.lines().filter_map(|line| line.split_once('\t')).map(|(name, size)| (name.into(), size.into())).collect()
}

#[test]
fn pillow_images_are_decoded_or_rejected_with_a_code() {
    let folder = corpus("pillow");
    let theirs = sizes(&folder);
    let (mut shown, mut refused, mut wrong) = (0, Vec::new(), Vec::new());
    for (name, bytes) in files(&folder) {
        match resize(
            &bytes,
            vec![style("a", "100x100>", OutputFormat::Jpeg), style("b", "7x5#", OutputFormat::Keep)],
            false,
        ) {
            Ok(_) => {
                shown += 1;
                let seen = inspect_image(&bytes, &ImageLimits::default()).unwrap().upright_size().to_string();
                match theirs.get(&name) {
                    Some(size) if *size == seen => {}
                    other => wrong.push(format!("{name}: we see {seen}, Pillow {other:?}")),
                }
            }
            Err(error) => {
                assert!(CODES.contains(&error.code().name()), "{name}: {error:?}");
                if theirs.contains_key(&name) || media::read_image_size(&bytes).is_some() {
                    let whose = if theirs.contains_key(&name) { "" } else { " (Pillow neither)" };
                    refused.push(format!("{name}: {} [{}]{whose}", error.message(), error.code()));
                }
            }
        }
    }
    assert!(shown > 400, "{shown}");
    insta::assert_snapshot!(format!("refused:\n{}\nseen otherwise:\n{}", refused.join("\n"), wrong.join("\n")));
}
