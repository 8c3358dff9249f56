//! Pictures and files through the whole service, from the upload to the results.

use serde_json::{Value, json};

use super::support::pillow;
use crate::support::{Database, TestApp, both};

both!(resized_pictures_become_artifacts, non_picture_fails_the_run, files_are_checked_by_their_bytes);

const RESIZE: &str = r##"name: resize
params:
  file: { type: file }
  size: { type: string, default: "24x24#" }
steps:
  - id: thumbs
    uses: image.resize
    with:
      source: "${{ params.file }}"
      styles:
        small: "${{ params.size }}"
        large: { geometry: "64x64>", format: webp, quality: 70 }
        wide: 50
  - id: again
    uses: image.resize
    with: { source: "${{ steps.thumbs.styles.large }}", format: png, styles: { tiny: 10% } }
  - id: mail
    uses: email.send
    with:
      to: ops@example.com
      subject: "${{ steps.thumbs.styles.small.width }} pixels from ${{ steps.thumbs.source.width }}"
      body: Here it is.
      links: { small: "${{ steps.thumbs.styles.small }}" }
"##;

fn sample(name: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    pillow(&["make"], folder.path());
    std::fs::read(folder.path().join(name)).unwrap()
}

async fn download(app: &TestApp, file: &Value) -> Vec<u8> {
    let request = app.client.get(file["url"].as_str().expect("a URL")).bearer_auth(&app.admin_key);
    request.send().await.unwrap().error_for_status().unwrap().bytes().await.unwrap().to_vec()
}

async fn resized_pictures_become_artifacts(database: Database) {
    let app = TestApp::builder(database).pipeline("resize", RESIZE).start().await;
    let run = app.upload("resize", "IMG_1.JPG", sample("exif-6.jpg")).await;
    let run = app.ended(&run).await;
    assert_eq!(run["status"], "succeeded", "{run}");
    let outputs = &run["steps"][0]["outputs"];
    let source =
        json!({ "width": 64, "height": 96, "format": "jpeg", "orientation": 6, "animated": false, "profile": "none" });
    assert_eq!(outputs["source"], source);
    let told = |name: &str| {
        let style = &outputs["styles"][name];
        json!([style["name"], style["content_type"], style["width"], style["height"]])
    };
    assert_eq!(told("small"), json!(["small.jpg", "image/jpeg", 24, 24]));
    assert_eq!(told("large"), json!(["large.webp", "image/webp", 43, 64]));
    assert_eq!(told("wide"), json!(["wide.jpg", "image/jpeg", 50, 75]));
    let progress = &run["steps"][0]["progress"];
    assert_eq!(json!([progress["done"], progress["total"], progress["unit"]]), json!([3, 3, "styles"]));
    for name in ["small", "large", "wide"] {
        let style = &outputs["styles"][name];
        let bytes = download(&app, style).await;
        assert_eq!(style["size"], bytes.len());
        assert_eq!(style["content_type"], afterload_media_type::detect_media_type(&bytes));
        let size = afterload_media_type::read_image_size(&bytes).unwrap();
        assert_eq!(json!([style["width"], style["height"]]), json!([size.width, size.height]));
    }
    assert_eq!(run["steps"][1]["outputs"]["styles"]["tiny"]["width"], 4);
    assert_eq!(run["artifacts"].as_array().unwrap().len(), 5, "the upload and four results: {run}");
    assert!(app.mails()[0].contains("Subject: 24 pixels from 64"));
    app.finish().await;
}

async fn non_picture_fails_the_run(database: Database) {
    let app = TestApp::builder(database)
        .pipeline("resize", RESIZE)
        .config(|config| config.limits.image.file = afterload_core::units::ByteSize(20_000))
        .start()
        .await;
    let jpeg = sample("exif-6.jpg");
    let cases: [(Vec<u8>, &str); 4] = [
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>".to_vec(), "image_unsupported"),
        (jpeg[..jpeg.len() / 2].to_vec(), "image_truncated"),
        (vec![0xff; 20_001], "image_too_large"),
        (Vec::new(), "image_unsupported"),
    ];
    for (bytes, code) in cases {
        let run = app.upload("resize", "photo.jpg", bytes).await;
        let run = app.ended(&run).await;
        assert_eq!(run["steps"][0]["error"]["code"], code, "{run}");
        assert_eq!((&run["status"], &run["steps"][0]["attempt"]), (&json!("failed"), &json!(1)), "{run}");
        assert_eq!(run["artifacts"].as_array().unwrap().len(), 1, "only the upload: {run}");
    }
    let part = reqwest::multipart::Part::bytes(jpeg).file_name("photo.jpg");
    let form = reqwest::multipart::Form::new().part("file", part).text("size", "100x100##");
    let request = app.client.post(format!("{}/v1/pipelines/resize/runs", app.url)).bearer_auth(&app.admin_key);
    let run = request.multipart(form).send().await.unwrap().json().await.unwrap();
    assert_eq!(app.ended(&run).await["steps"][0]["error"]["code"], "with_invalid");
    app.finish().await;
}

async fn files_are_checked_by_their_bytes(database: Database) {
    let check = |with: &str| {
        format!(
            "name: check\nparams:\n  file: {{ type: file }}\nsteps:\n  - id: check\n    uses: file.check\n    with: {{ source: \"${{{{ params.file }}}}\", {with} }}\n"
        )
    };
    let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let app = TestApp::builder(database)
        .pipeline("images", &check("accept: [image/*], max_size: 10kb").replace("name: check", "name: images"))
        .pipeline(
            "digest",
            &check(&format!("sha256: {}", digest.to_uppercase())).replace("name: check", "name: digest"),
        )
        .pipeline("csv", &check("accept: [text/csv]").replace("name: check", "name: csv"))
        .start()
        .await;
    let png = sample("grey.png");
    let mut large = sample("large.jpg");
    large.resize(10_241, 0);
    let cases: [(&str, &str, &[u8], Value); 9] = [
        ("images", "notes.txt", &png, json!(["image/png", 150, 100])),
        ("images", "photo.png", b"<html>", json!("file_type_refused")),
        ("images", "photo.jpg", &large, json!("file_too_large")),
        ("images", "empty.jpg", b"", json!("file_type_refused")),
        ("digest", "abc", b"abc", json!(["text/plain", null, null])),
        ("digest", "abc", b"abd", json!("file_digest_mismatch")),
        ("csv", "contacts.csv", b"a,b\n1,M\xfcller\n", json!(["text/plain", null, null])),
        ("csv", "contacts.csv", &png, json!("file_type_refused")),
        ("csv", "contacts.csv", b"<html><script>", json!("file_type_refused")),
    ];
    for (pipeline, name, bytes, expected) in cases {
        let run = app.upload(pipeline, name, bytes.to_vec()).await;
        let run = app.ended(&run).await;
        let (outputs, error) = (&run["steps"][0]["outputs"], &run["steps"][0]["error"]);
        let found = match error.is_null() {
            true => json!([outputs["content_type"], outputs["width"], outputs["height"]]),
            false => error["code"].clone(),
        };
        assert_eq!(found, expected, "{pipeline} {name}: {run}");
        if error.is_null() {
            assert_eq!(outputs["size"], bytes.len());
        }
        if pipeline == "digest" && error.is_null() {
            assert_eq!(outputs["sha256"], digest);
        }
    }
    app.finish().await;
}
