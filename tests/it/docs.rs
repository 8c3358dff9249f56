//! The texts for developers are true: their example is the code that runs here, and every path that they name exists. The
//! book in `docs/` is short and plain, its links resolve, and its pipelines are valid.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use afterload::cli::check::{CheckArgs, CheckFormat, run};
use afterload_pipeline::ValidationContext;
use afterload_pipeline::expr::BUILTINS;
use afterload_spanned_yaml as yaml;
use annotate_snippets::Renderer;
use regex::Regex;
use serde_json::json;

use crate::support::{Database, TestApp, kinds};

const MAX_README_LINES: usize = 150;
const MAX_PAGE_WORDS: usize = 1_500;
const MAX_MEAN_SENTENCE_WORDS: usize = 24;
const MIN_QUESTIONS: usize = 30;

/// Pages to look things up in. They may be longer.
const REFERENCE_PAGES: [&str; 4] =
    ["docs/benchmarks.md", "docs/error-codes.md", "docs/glossary.md", "docs/http-api.md"];

/// Generated from the code, whose hints are not prose of the book.
const GENERATED_PAGE: &str = "docs/error-codes.md";

/// Metaphors, old-fashioned words and British spellings, for which there are plainer words.
const AVOIDED_WORDS: &str = r"(?i)\b(?:tells?|told|telling|says|said|for ever|forever|lets? go of|looks? after|whoever|ghosts?|in hand|called off|patience|shel(?:f|ves)|lanes?|colours?|behaviours?|catalogues?|licences?)\b";

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

/// The pages of the book, in the order of their names, and the README: paths from the root, and texts.
fn pages() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(repository().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let mut names: Vec<String> = entries
        .filter(|path| path.extension().is_some_and(|extension| extension == "md"))
        .map(|path| format!("docs/{}", path.file_name().unwrap().to_str().unwrap()))
        .collect();
    names.sort();
    names.push("README.md".into());
    let with_text = |name: String| {
        let text = read(&repository().join(&name));
        (name, text)
    };
    names.into_iter().map(with_text).collect()
}

/// All documents for people: the pages, the texts for developers, and the READMEs of the crates.
fn documents() -> Vec<PathBuf> {
    let mut documents: Vec<PathBuf> = pages().into_iter().map(|(name, _)| repository().join(name)).collect();
    documents.extend(["ARCHITECTURE.md", "CONTRIBUTING.md", "examples/README.md"].map(|name| repository().join(name)));
    documents.extend(crate_folders().into_iter().map(|folder| folder.join("README.md")));
    documents
}

/// The lines outside of code blocks.
fn prose_lines(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        in_code ^= is_fence;
        !is_fence && !in_code
    })
}

/// A text as its reader sees it. Inline code is one word.
fn visible_text(text: &str) -> String {
    static MARKUP: LazyLock<[(Regex, &str); 3]> = LazyLock::new(|| {
        [
            (Regex::new("`[^`]*`").unwrap(), "code"),
            (Regex::new(r"!?\[([^\]]*)\]\([^)]*\)").unwrap(), "$1"),
            (Regex::new("<[^>]*>").unwrap(), ""),
        ]
    });
    MARKUP.iter().fold(text.to_owned(), |text, (markup, by)| markup.replace_all(&text, *by).into_owned())
}

/// The paragraphs and list items, without headings, tables and HTML.
fn paragraphs(text: &str) -> Vec<String> {
    let bullet = Regex::new(r"^(?:[-*]|\d+\.) ").unwrap();
    let mut found = vec![String::new()];
    for line in prose_lines(text).map(str::trim) {
        let is_prose = !line.is_empty() && !line.starts_with(['#', '|', '<']);
        if !is_prose || bullet.is_match(line) {
            found.push(String::new());
        }
        if let Some(paragraph) = found.last_mut().filter(|_| is_prose) {
            paragraph.push_str(&bullet.replace(line, ""));
            paragraph.push(' ');
        }
    }
    found
}

/// The number of words of each sentence.
fn sentence_lengths(text: &str) -> Vec<usize> {
    let end = Regex::new(r"[.?!](?:\s|$)").unwrap();
    let mut lengths = Vec::new();
    for paragraph in paragraphs(text) {
        let visible = visible_text(&paragraph);
        for sentence in end.split(&visible) {
            lengths.push(sentence.split_whitespace().filter(|word| word.contains(char::is_alphanumeric)).count());
        }
    }
    lengths.retain(|words| *words > 0);
    lengths
}

/// The targets of the links and pictures outside of code.
fn links(text: &str) -> Vec<String> {
    let code = Regex::new(r"`[^`\n]*`").unwrap();
    let link = Regex::new(r#"(?:\]\(|(?:src|srcset|href)=")([^)\s"]+)[)"]"#).unwrap();
    let prose = prose_lines(text).collect::<Vec<_>>().join("\n");
    link.captures_iter(&code.replace_all(&prose, "")).map(|found| found[1].to_owned()).collect()
}

/// The anchors of the headings, as forges and mdBook make them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut seen = BTreeMap::<String, usize>::new();
    let mut found = BTreeSet::new();
    for heading in prose_lines(text).filter(|line| line.starts_with('#')) {
        let title = visible_text(&heading.trim_start_matches('#').trim().replace('`', "")).to_lowercase();
        let title: String = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_')).collect();
        let slug = title.replace(' ', "-");
        let earlier = seen.entry(slug.clone()).or_default();
        found.insert(if *earlier == 0 { slug } else { format!("{slug}-{earlier}") });
        *earlier += 1;
    }
    found
}

#[test]
fn the_readme_is_short() {
    let lines = read(&repository().join("README.md")).lines().count();
    assert!(lines <= MAX_README_LINES, "{lines} lines; put details into docs/");
}

#[test]
fn pages_are_short_and_their_sentences_plain() {
    let avoided = Regex::new(AVOIDED_WORDS).unwrap();
    let mut faults = Vec::new();
    for (name, text) in pages() {
        let words = text.split_whitespace().count();
        if words > MAX_PAGE_WORDS && !REFERENCE_PAGES.contains(&name.as_str()) {
            faults.push(format!("{name}: {words} words; split it, at most {MAX_PAGE_WORDS}"));
        }
        let lengths = sentence_lengths(&text);
        let all = lengths.iter().sum::<usize>();
        if all > MAX_MEAN_SENTENCE_WORDS * lengths.len() {
            let mean = all / lengths.len();
            faults.push(format!("{name}: {mean} words per sentence, at most {MAX_MEAN_SENTENCE_WORDS}"));
        }
        for line in prose_lines(&text).map(visible_text).filter(|_| name != GENERATED_PAGE) {
            faults.extend(avoided.find_iter(&line).map(|word| format!("{name}: avoid `{}`: {line}", word.as_str())));
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn the_summary_lists_every_page_once() {
    let mut listed: Vec<String> =
        links(&read(&repository().join("docs/SUMMARY.md"))).iter().map(|link| format!("docs/{link}")).collect();
    listed.sort();
    let is_page = |name: &String| name.starts_with("docs/") && name != "docs/SUMMARY.md";
    let stored: Vec<String> = pages().into_iter().map(|(name, _)| name).filter(is_page).collect();
    assert_eq!(listed, stored, "list each page of `docs/` in `docs/SUMMARY.md`");
}

#[test]
fn every_link_and_anchor_resolves() {
    let (mut faults, mut seen) = (Vec::new(), 0);
    for document in documents().into_iter().chain([repository().join("CHANGELOG.md")]) {
        for link in links(&read(&document)) {
            if link.contains("://") || link.starts_with("mailto:") {
                continue;
            }
            seen += 1;
            let (path, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
            let target = if path.is_empty() { document.clone() } else { document.parent().unwrap().join(path) };
            if !target.exists() || !(anchor.is_empty() || anchors(&read(&target)).contains(anchor)) {
                faults.push(format!("{}: {link}", document.display()));
            }
        }
    }
    assert!(seen > 150, "the test sees the links: {seen}");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn each_question_leads_to_a_section() {
    let page = read(&repository().join("docs/faq.md"));
    let questions: Vec<&str> = page.lines().filter(|line| line.starts_with("| ") && line.contains("? | ")).collect();
    assert!(questions.len() >= MIN_QUESTIONS, "{} questions", questions.len());
    for question in questions {
        assert!(links(question).iter().any(|link| link.contains(".md#")), "no section: {question}");
    }
}

#[test]
fn every_shipped_pipeline_is_described() {
    let page = read(&repository().join("docs/examples.md"));
    for entry in std::fs::read_dir(repository().join("pipelines")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let described = !name.contains(".yaml") || page.contains(&format!("(../pipelines/{name})"));
        assert!(described, "describe `{name}` in docs/examples.md");
    }
}

/// A code block that begins with a name is a whole pipeline.
#[test]
fn pipelines_of_the_pages_are_valid() {
    let block = Regex::new(r"(?ms)^```yaml\n(name: ([a-z0-9-]+)\n.*?)^```$").unwrap();
    let catalog = afterload::registry::step_kinds().catalog();
    let mut seen = 0;
    for (page, text) in pages() {
        for found in block.captures_iter(&text) {
            seen += 1;
            let folder = tempfile::tempdir().unwrap();
            std::fs::write(folder.path().join(format!("{}.yaml", &found[2])), &found[1]).unwrap();
            let args = CheckArgs { files: Vec::new(), format: CheckFormat::Json, connect: false };
            let (context, mut out) = (ValidationContext::default(), Vec::new());
            run(&args, folder.path(), &catalog, &context, &Renderer::plain(), &mut out).unwrap();
            let problems: Vec<serde_json::Value> = serde_json::from_slice(&out).unwrap();
            assert!(problems.is_empty(), "{page}: {problems:#?}");
        }
    }
    assert!(seen >= 3, "the test sees the pipelines: {seen}");
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
    let (mut missing, mut seen) = (BTreeSet::new(), 0);
    for document in documents() {
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
