//! The error codes are unique, declared and used, and `docs/error-codes.md` lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use afterload::error_codes::{CODES_BY_CRATE, all_codes};
use afterload_core::error::{ErrorCode, Retryability};
use regex::Regex;

const DOCS_INTRO: &str = "\
<!-- Generated from the code. Renew it with `UPDATE_DOCS=1 cargo test --test it error_codes`. -->
# Error codes

Every error has a code that does not change: it stands in answers of the API, in the `error` of a run, in the log and in
rejected rows. The sentence beside it may change.

- **HTTP** is the status of a response that the error ends. Codes with 500 appear in runs, in the log and on the command
  line; to a client of the API they show as `internal_error`, and with status 503 where another try may help.
- **Retried** says whether the engine tries a step again after this error: `yes`, `no`, or `stopped` where nothing is wrong
  with the step; `waits` where the machine lacks something: the step is tried again until it succeeds, and no attempt is
  counted. A single error may differ from its code.
- **What to do** is the hint of errors that bring none of their own.
";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The sources of the binary and of all crates.
fn source_files() -> BTreeMap<PathBuf, String> {
    let (mut folders, mut files) = (vec![root().join("src"), root().join("crates")], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.insert(path, text);
            }
        }
    }
    files
}

fn render_docs() -> String {
    let mut page = DOCS_INTRO.to_owned();
    for (name, codes) in CODES_BY_CRATE {
        writeln!(page, "\n## {name}\n\n| Code | HTTP | Retried | Meaning | What to do |\n|---|---|---|---|---|")
            .unwrap();
        for code in *codes {
            page.push_str(&render_row(*code));
        }
    }
    page
}

fn render_row(code: ErrorCode) -> String {
    let retried = match code.retryability() {
        Retryability::Permanent => "no",
        Retryability::Transient => "yes",
        Retryability::Shortage => "waits",
        Retryability::Stopped => "stopped",
    };
    let hint = code.hint().unwrap_or_default().replace('|', "\\|");
    format!("| `{code}` | {} | {retried} | {} | {hint} |\n", code.status(), code.summary())
}

#[test]
fn error_codes_are_unique_and_well_formed() {
    let mut names = BTreeSet::new();
    for code in all_codes() {
        let name = code.name();
        assert!(names.insert(name), "`{name}` is declared twice");
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_'), "{name}");
        let status = code.status();
        assert!((400..500).contains(&status) || [500, 503].contains(&status), "`{name}`: {status}");
        let summary = code.summary();
        assert!(summary.starts_with(|first: char| first.is_ascii_uppercase()), "`{name}`: {summary}");
        assert!(!summary.ends_with('.'), "`{name}`: {summary}");
    }
}

#[test]
fn every_declared_error_code_is_listed_and_used() {
    let declaration = Regex::new(r#"const ([A-Z0-9_]+): ErrorCode =\s*ErrorCode::\w+\(\s*"([a-z0-9_]+)""#).unwrap();
    let (lists, code): (Vec<_>, Vec<_>) =
        source_files().into_iter().partition(|(path, _)| path.file_name().is_some_and(|name| name == "codes.rs"));
    let code: String = code.into_iter().map(|(_, text)| text).collect();
    let words: BTreeSet<&str> = code.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    let mut declared = BTreeSet::new();
    for (path, text) in &lists {
        for found in declaration.captures_iter(text) {
            assert_eq!(found[1].to_lowercase(), found[2], "{}", path.display());
            assert!(words.contains(&found[1]), "nothing uses `{}` of {}", &found[1], path.display());
            declared.insert(found[2].to_owned());
        }
    }
    let listed: BTreeSet<_> = all_codes().map(|code| code.name().to_owned()).collect();
    assert_eq!(declared, listed, "`CODES` of each crate holds each of its codes");
}

#[test]
fn the_docs_list_all_error_codes() {
    let path = root().join("docs/error-codes.md");
    let page = render_docs();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(root().join("docs")).unwrap();
        std::fs::write(&path, &page).unwrap();
    }
    let stored = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == page, "docs/error-codes.md is out of date; run `UPDATE_DOCS=1 cargo test --test it error_codes`");
}
