//! The texts for developers are true: their example is the code that runs here, and every path that they name exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use afterload_pipeline::ValidationContext;
use afterload_pipeline::expr::BUILTINS;
use afterload_spanned_yaml as yaml;
use regex::Regex;
use serde_json::json;

use crate::support::{Database, TestApp, kinds};

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The folders of all crates below `crates/`.
fn crate_folders() -> Vec<PathBuf> {
    let subfolders = |folder: PathBuf| {
        let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
        entries.filter(|path| path.join("Cargo.toml").exists()).collect::<Vec<_>>()
    };
    let crates = repository().join("crates");
    [subfolders(crates.clone()), subfolders(crates.join("steps"))].concat()
}

#[test]
fn every_crate_has_a_readme_that_names_its_dependencies() {
    let dependency = Regex::new(r"(?m)^afterload-([a-z0-9-]+)\b").unwrap();
    let folders = crate_folders();
    assert!(folders.len() > 15, "{folders:?}");
    for folder in folders {
        let text = read(&folder.join("README.md"));
        assert!(text.lines().count() <= 20, "{}: keep it short", folder.display());
        let manifest = read(&folder.join("Cargo.toml"));
        let (_, dependencies) = manifest.split_once("[dependencies]").unwrap_or_default();
        let dependencies = dependencies.split("\n[").next().unwrap_or_default();
        for found in dependency.captures_iter(dependencies) {
            let name = &found[1];
            assert!(text.contains(&format!("`{name}`")), "{}: `{name}` is not named", folder.display());
        }
    }
}

#[test]
fn every_path_that_the_documents_name_exists() {
    let path =
        Regex::new(r"[`(]((?:src|crates|tests|benches|scripts|docs|examples|pipelines|\.config)/[\w./-]*)").unwrap();
    let mut documents: Vec<PathBuf> = ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/glossary.md"]
        .map(|name| repository().join(name))
        .into();
    documents.extend(crate_folders().into_iter().map(|folder| folder.join("README.md")));
    let (mut missing, mut seen) = (BTreeSet::new(), 0);
    for document in documents {
        for found in path.captures_iter(&read(&document)) {
            seen += 1;
            if !repository().join(&found[1]).exists() {
                missing.insert(format!("{}: {}", document.display(), &found[1]));
            }
        }
    }
    assert!(seen > 50, "the test sees the paths: {seen}");
    assert!(missing.is_empty(), "{missing:#?}");
}

#[test]
fn every_filter_test_and_function_is_documented() {
    let shown = read(&repository().join("docs/expressions.md"));
    let escape = |text: &str| text.replace('|', r"\|");
    let row = |cells: [&str; 3]| format!("| `{}` | `{}` | `{}` |", cells[0], escape(cells[1]), escape(cells[2]));
    let wanted: Vec<_> = BUILTINS.iter().map(|known| row([known.name, known.example, known.result])).collect();
    let found: Vec<_> = shown.lines().filter(|line| line.starts_with("| `")).collect();
    assert_eq!(found, wanted, "copy the rows to `docs/expressions.md`");
}

#[test]
fn contributing_shows_the_kind_that_is_tested() {
    let shown = read(&repository().join("CONTRIBUTING.md"));
    let source = read(&repository().join("tests/it/support/hello.rs"));
    let (_, code) = source.split_once("\n\n").unwrap();
    assert!(shown.contains(&format!("```rust\n{code}```")), "copy `tests/it/support/hello.rs` to CONTRIBUTING.md");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_kind_of_contributing_is_checked_and_run() {
    let catalog = kinds().catalog();
    let hello = catalog.get("hello").unwrap();
    let problems = hello.validate(&yaml::parse("name: ''\n").unwrap(), &ValidationContext::default());
    assert_eq!(problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>(), ["`name` is empty"]);

    let pipeline = "name: greet\nparams: { name: { type: string } }\nsteps:\n  - id: greet\n    uses: hello\n    \
                    with: { name: \"${{ params.name }}\" }\n";
    let app = TestApp::builder(Database::Sqlite).pipeline("greet", pipeline).start().await;
    let run = app.run_to_end("greet", json!({ "name": "Ada" })).await;
    assert_eq!(run["steps"][0]["outputs"], json!({ "text": "hello Ada" }), "{run}");
    app.finish().await;
}
