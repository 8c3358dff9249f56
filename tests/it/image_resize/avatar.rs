//! The shipped avatar pipeline on the sample photo.

use std::path::Path;

use futures::TryStreamExt;
use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually};

both!(avatar_upload_creates_all_sizes, upload_response_includes_the_inline_size);

fn repository(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

async fn stored(app: &TestApp, file: &Value) -> Vec<u8> {
    let file = serde_json::from_value(file.clone()).unwrap();
    let body = app.app.engine.objects().open_object(&file, 0).await.unwrap();
    body.stream.map_ok(|bytes| bytes.to_vec()).try_concat().await.unwrap()
}

/// Returns the mean color of a square around a point, which is given in fractions of the width and height.
fn colour(jpeg: &[u8], (x, y): (f64, f64)) -> [u8; 3] {
    let mut decoder = jpeg_decoder::Decoder::new(jpeg);
    let pixels = decoder.decode().unwrap();
    let info = decoder.info().unwrap();
    let (width, height) = (usize::from(info.width), usize::from(info.height));
    let (left, top) = ((x * width as f64) as usize - 2, (y * height as f64) as usize - 2);
    let at = |row: usize, column: usize, channel: usize| usize::from(pixels[(row * width + column) * 3 + channel]);
    let square = || (top..top + 4).flat_map(|row| (left..left + 4).map(move |column| (row, column)));
    [0, 1, 2].map(|channel| (square().map(|(row, column)| at(row, column, channel)).sum::<usize>() / 16) as u8)
}

async fn avatar_upload_creates_all_sizes(database: Database) {
    let yaml = std::fs::read_to_string(repository("pipelines/avatar.yaml")).unwrap();
    let photo = std::fs::read(repository("examples/photo.jpg")).unwrap();
    let app = TestApp::builder(database).pipeline("avatar", &yaml).start().await;
    // As clients of the embedded store upload it.
    app.app.engine.objects().put_object("uploads", "avatars/7.jpg", "image/jpeg", photo.into()).await.unwrap();
    let run = eventually("the run of the upload", async || {
        let runs: Value = app.get("/v1/runs?pipeline=avatar").await.json().await.unwrap();
        runs["runs"].get(0).cloned()
    })
    .await;
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let (small, others) = (&run["steps"][0]["outputs"], &run["steps"][1]["outputs"]["styles"]);
    assert_eq!(small["source"]["orientation"], 6);
    let told = |file: &Value| json!([file["bucket"], file["name"], file["width"], file["height"]]);
    let small = &small["styles"]["small"];
    assert_eq!(told(small), json!(["thumbnails", "small.jpg", 96, 96]));
    assert_eq!(told(&others["medium"]), json!(["thumbnails", "medium.jpg", 320, 320]));
    assert_eq!(told(&others["large"]), json!(["thumbnails", "large.webp", 768, 1024]));
    for file in [small, &others["medium"]] {
        let bytes = stored(&app, file).await;
        assert!(!bytes.windows(4).any(|part| part == b"Exif"), "the place is not told");
        // Upright and cropped to the middle: the sun at the upper right, the sky next to it, the meadow below.
        let [red, green, blue] = colour(&bytes, (7.0 / 9.0, 50.0 / 900.0 + 0.01));
        assert!(red > 200 && green > 200 && blue < 215, "{red} {green} {blue}");
        let [red, _, blue] = colour(&bytes, (0.1, 0.1));
        assert!(blue > 200 && red < 160, "{red} {blue}");
        let [_, green, blue] = colour(&bytes, (0.5, 0.8));
        assert!(green > blue, "{green} {blue}");
    }
    let large = stored(&app, &others["large"]).await;
    let size = afterload_media_type::read_image_size(&large).unwrap();
    assert_eq!((afterload_media_type::detect_media_type(&large), size.width, size.height), ("image/webp", 768, 1024));
    app.finish().await;
}

async fn upload_response_includes_the_inline_size(database: Database) {
    let yaml = std::fs::read_to_string(repository("pipelines/avatar.yaml")).unwrap();
    let photo = std::fs::read(repository("examples/photo.jpg")).unwrap();
    let app = TestApp::builder(database).pipeline("avatar", &yaml).start().await;
    let answer = app.upload("avatar", "me.jpg", photo).await;
    let small = &answer["steps"][0]["outputs"]["styles"]["small"];
    assert_eq!((&small["width"], &small["height"]), (&json!(96), &json!(96)), "{answer}");
    assert_eq!(colour(&stored(&app, small).await, (0.1, 0.1)).len(), 3);
    // The other sizes follow in the background, and each size is made once.
    let run = app.ended(&answer).await;
    let made = |step: usize| -> Vec<String> {
        let styles = run["steps"][step]["outputs"]["styles"].as_object().expect("styles");
        styles.keys().cloned().collect()
    };
    assert_eq!((made(0), made(1)), (vec!["small".to_owned()], vec!["large".to_owned(), "medium".to_owned()]));
    assert_eq!(run["steps"][0]["outputs"], answer["steps"][0]["outputs"]);
    let objects = app.app.engine.objects().list_objects("thumbnails", "avatars/", None).await.unwrap();
    assert_eq!(objects.objects.len(), 3);
    app.finish().await;
}
