//! The shipped mail templates in a real browser. They must stay readable on phones and in dark mode.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tokio::process::Command;

use super::{browser, repository};

/// Lists the shipped templates.
fn templates() -> Vec<String> {
    let folder = std::fs::read_dir(repository("templates/email")).expect("the templates");
    let folders = folder.map(|entry| entry.expect("an entry")).filter(|entry| entry.path().is_dir());
    folders.map(|entry| entry.file_name().into_string().expect("a name")).collect()
}

/// Writes the HTML of a template to `folder`.
async fn preview(folder: &Path, template: &str, params: &[String]) -> PathBuf {
    let mut command = Command::new(env!("CARGO_BIN_EXE_afterload"));
    command.args(["mail", "preview", template, "--dir"]).arg(folder).current_dir(folder.parent().expect("a folder"));
    for param in params {
        command.args(["--param", param]);
    }
    let output = command.kill_on_drop(true).output().await.expect("the binary runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    folder.join(format!("{template}.html"))
}

#[tokio::test]
async fn shipped_mails_fit_phones_and_dark_mode() {
    let folder = tempfile::tempdir().expect("a folder");
    // Long words without a break, such as file names, codes and addresses.
    let long = "x_".repeat(100);
    let url = format!("https://example.com/{long}");
    let hostile = [
        format!("file={long}"),
        format!("since={long}"),
        "rows=123456789012345".to_owned(),
        format!("error={}", json!({ "code": long, "message": long })),
        format!("links={}", json!([{ "label": long, "url": url }, { "label": "another", "url": url }])),
        format!("run={}", json!({ "id": long, "url": url, "pipeline": long })),
    ];
    let mut mails = Vec::new();
    for template in templates() {
        mails.push(preview(&folder.path().join("usual"), &template, &[]).await);
        mails.push(preview(&folder.path().join("long"), &template, &hostile).await);
    }
    let seen = browser("mails.mjs", &mails).output().await.expect("the browser's end");
    assert!(seen.status.success(), "{}", String::from_utf8_lossy(&seen.stderr));
    let seen: Vec<Value> = serde_json::from_slice(&seen.stdout).expect("what was measured");
    // Two widths, light and dark, with and without `<style>`.
    assert_eq!(seen.len(), mails.len() * 8);
    let number = |value: &Value| value.as_f64().expect("a number");
    let mut buttons = 0;
    for look in &seen {
        assert_eq!(look["too_wide"], 0, "{look}");
        // A mail program without `<style>` support shows the light version.
        let is_dark = look["scheme"] == "dark" && look["styles"] == true;
        assert_eq!(number(&look["ground"]) < 0.1, is_dark, "{look}");
        let texts = look["texts"].as_array().expect("a list");
        assert!(texts.len() > 3, "{look}");
        for text in texts {
            assert!(number(&text["contrast"]) >= 4.5 && number(&text["size"]) >= 13.0, "{text} of {look}");
        }
        for height in look["buttons"].as_array().expect("a list") {
            assert!(number(height) >= 44.0, "a thumb needs 44 pixels: {look}");
            buttons += 1;
        }
    }
    assert!(buttons > 0);
}
