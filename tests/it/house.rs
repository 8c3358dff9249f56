//! The house keeps its order: crates depend only on crates below them, modules form no circles, and some names stand in one
//! place only.

mod imports;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;

use imports::CrateModules;

/// The root package is written so in `members`.
const ROOT_PACKAGE: &str = ".";

fn root_folder() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read_manifest(member: &str) -> String {
    std::fs::read_to_string(root_folder().join(member).join("Cargo.toml")).unwrap()
}

/// The members of the workspace from top to bottom: folders, as the root manifest lists them.
fn workspace_members() -> Vec<String> {
    let manifest = read_manifest(ROOT_PACKAGE);
    let list = manifest.split_once("members = [").unwrap().1.split_once(']').unwrap().0;
    Regex::new(r#""([^"]+)""#).unwrap().captures_iter(list).map(|found| found[1].to_owned()).collect()
}

fn package_name(manifest: &str) -> String {
    Regex::new(r#"(?m)^name = "([^"]+)""#).unwrap().captures(manifest).unwrap()[1].to_owned()
}

/// The names of all dependencies, also those for tests, builds and single platforms.
fn dependency_names(manifest: &str) -> Vec<String> {
    let entry = Regex::new(r"^([A-Za-z0-9_-]+)(?:\.workspace)?\s*=").unwrap();
    let (mut in_dependencies, mut names) = (false, Vec::new());
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            let section = section.trim_end_matches(']');
            in_dependencies = section.ends_with("dependencies") && !section.starts_with("workspace");
        } else if let Some(found) = entry.captures(line).filter(|_| in_dependencies) {
            names.push(found[1].to_owned());
        }
    }
    names
}

#[test]
fn crates_depend_only_on_crates_below() {
    let members = workspace_members();
    let manifests: Vec<String> = members.iter().map(|member| read_manifest(member)).collect();
    let floors: BTreeMap<String, usize> =
        manifests.iter().enumerate().map(|(floor, manifest)| (package_name(manifest), floor)).collect();
    let (mut seen, mut faults) = (0, Vec::new());
    for (floor, manifest) in manifests.iter().enumerate() {
        for name in dependency_names(manifest) {
            let Some(below) = floors.get(&name) else { continue };
            seen += 1;
            let (from, to) = (&members[floor], &members[*below]);
            if *below <= floor {
                faults.push(format!("{from} depends on {to}, which `members` lists above it"));
            }
            if from.starts_with("crates/steps/") && to.starts_with("crates/steps/") {
                faults.push(format!("{from} depends on {to}, but no step kind knows another"));
            }
        }
    }
    assert!(seen > 60, "the test sees the dependencies: {seen}");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn every_crate_is_a_member() {
    let members = workspace_members();
    for folder in ["crates", "crates/steps"] {
        for entry in std::fs::read_dir(root_folder().join(folder)).unwrap() {
            let name = format!("{folder}/{}", entry.unwrap().file_name().display());
            let is_crate = root_folder().join(&name).join("Cargo.toml").exists();
            assert!(!is_crate || members.contains(&name), "`{name}` is missing in `members`");
        }
    }
}

#[test]
fn modules_form_no_import_circles() {
    let (mut seen, mut faults) = (0, Vec::new());
    for member in workspace_members() {
        let crate_root = root_folder().join(&member).join("src/lib.rs");
        let modules = CrateModules::read(&crate_root);
        seen += modules.reference_count();
        faults.extend(modules.find_circles().into_iter().map(|circle| (member.clone(), circle)));
    }
    assert!(seen > 300, "the test sees the imports: {seen}");
    assert!(faults.is_empty(), "{} circles: {faults:#?}", faults.len());
}

/// All source files of the workspace, by their path from its root.
fn source_files() -> BTreeMap<PathBuf, String> {
    let root = root_folder();
    let (mut folders, mut files) = (vec![root.join("src"), root.join("crates")], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.insert(path.strip_prefix(root).unwrap().to_owned(), text);
            }
        }
    }
    files
}

#[test]
fn some_names_stand_in_one_place_only() {
    let rules = [
        (r"\bapalis\w*::", &["crates/state/src/queue/"][..]),
        (r"\bserde_yaml::", &["crates/spanned-yaml/"]),
        // The embedded endpoint is reached by the ordinary client: through an HTTP client of its own, with credentials of its own.
        (
            r"\baws_sdk_s3::",
            &["crates/object-store/", "crates/s3-server/src/in_process.rs", "crates/s3-server/src/lib.rs"],
        ),
        (r"\bs3s::", &["crates/s3-server/"]),
        // Step kinds read files through `StepFiles`, which verifies that the run may.
        (
            r"\bafterload_object_store::",
            &["src/", "crates/server/", "crates/engine/", "crates/step-api/", "crates/s3-server/"],
        ),
        (r"\blettre::", &["crates/mailer/"]),
        (r"\bcss_inline::", &["crates/mailer/"]),
        // Signatures of mails. TLS uses it below its own crates.
        (r"\bring::", &["crates/mailer/"]),
        (r"\brusqlite::", &["crates/target-db/", "crates/s3-server/"]),
        (r"\bminijinja::", &["crates/pipeline/", "crates/mailer/"]),
        (r"\baxum::", &["crates/server/", "crates/dashboard/"]),
        (r"\baskama::", &["crates/dashboard/"]),
        (r"\breqwest::", &["crates/egress/", "src/cli/client.rs"]),
        (r"\bmaxminddb::", &["crates/geoip/"]),
        (r"\bprometheus_client::", &["crates/metrics/"]),
        (r"\bnotify::", &["crates/fs-watch/"]),
        (r"\bsqlparser::", &["crates/target-db/"]),
        // `core` says what kind of error a database reports; the demo fills a database of its own with sample rows.
        (
            r"\bsqlx::",
            &[
                "crates/state/",
                "crates/target-db/",
                "crates/core/src/error.rs",
                "crates/core/src/shortage.rs",
                "src/cli/demo/",
            ],
        ),
        (
            r"\.route\(",
            &["crates/server/src/api/openapi.rs", "crates/server/src/api/tests/", "crates/dashboard/src/routes.rs"],
        ),
        (r"Utc::now", &["crates/core/src/clock.rs"]),
    ];
    let sources = source_files();
    for (name, places) in rules {
        let name = Regex::new(name).unwrap();
        let names_it = |text: &str| {
            text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| name.is_match(line))
        };
        let found: Vec<_> =
            sources.iter().filter(|(_, text)| names_it(text)).map(|(path, _)| path.display().to_string()).collect();
        assert!(!found.is_empty(), "nobody uses {name} any more; take the rule away");
        let wrong: Vec<_> = found.iter().filter(|path| !places.iter().any(|place| path.starts_with(place))).collect();
        assert!(wrong.is_empty(), "{name} belongs in {places:?}, not in {wrong:?}");
    }
}

/// The literals of a source file without its comments: what can be SQL.
fn string_literals(source: &str) -> Vec<String> {
    // A comment, a character, a raw string or a string, whichever comes first.
    let token = Regex::new(r##"(?s)//[^\n]*|'(?:[^'\\]|\\.)'|r#+"(.*?)"#+|r"([^"]*)"|"((?:[^"\\]|\\.)*)""##).unwrap();
    let literal =
        |found: regex::Captures<'_>| (1..=3).find_map(|group| found.get(group)).map(|text| text.as_str().to_owned());
    token.captures_iter(source).filter_map(literal).collect()
}

#[test]
fn sql_asks_nobody_for_the_time() {
    let asks = Regex::new(
        r"(?i)\b(now|unixepoch|julianday|clock_timestamp|statement_timestamp|transaction_timestamp|timeofday)\s*\(|\bcurrent_(time|date|timestamp)\b|'now'",
    )
    .unwrap();
    // The clock of the process is corrected by what this file asks. The queue's own statements stand in its crates.
    let place = Path::new("crates/state/src/correct_clock.rs");
    let mut files = source_files();
    files.retain(|path, _| path.starts_with("crates/state/src"));
    let found: Vec<_> =
        files.iter().filter(|(_, text)| string_literals(text).iter().any(|text| asks.is_match(text))).collect();
    assert_eq!(found.iter().map(|(path, _)| path.as_path()).collect::<Vec<_>>(), [place]);
    let migrations = root_folder().join("crates/state/src/migrations");
    let mut seen = 0;
    for entry in std::fs::read_dir(migrations).unwrap() {
        let (path, sql) = (entry.as_ref().unwrap().path(), std::fs::read_to_string(entry.unwrap().path()).unwrap());
        assert!(!asks.is_match(&sql), "{} asks the database for the time", path.display());
        seen += 1;
    }
    assert!(seen > 0);
    for (sql, asks_it) in [
        ("SELECT now()", true),
        ("UPDATE t SET a = unixepoch ( )", true),
        ("a < CURRENT_TIMESTAMP", true),
        ("datetime('now', '-1 hour')", true),
        ("strftime('%s', 'now')", true),
        ("a < clock_timestamp()", true),
        ("known() and {now}", false),
    ] {
        let source = format!("let a = 'x'; // \"now()\"\nlet sql = \"{sql}\"; clock.now();");
        assert_eq!(string_literals(&source), [sql]);
        assert_eq!(asks.is_match(sql), asks_it, "{sql}");
    }
}
