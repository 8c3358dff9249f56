//! The house keeps its order: rooms import only from below, and some names stand in one place only.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use regex::Regex;

/// From the top of the house to its ground; a room may import from those after it. What stands on one line is one floor.
const ROOMS: &[&[&str]] = &[
    &["cli"],
    &["app"],
    &["web"],
    &["triggers"],
    &["engine"],
    &["steps"],
    &["pipeline"],
    &["geo"],
    &["connections", "http", "mail", "objects"],
    &["store"],
    &["config"],
    &["yaml"],
    &["media", "metrics", "secrets", "units"],
    &["bell", "clock"],
    &["error"],
    &["crash"],
];

fn sources() -> BTreeMap<PathBuf, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let (mut folders, mut files) = (vec![root.clone()], BTreeMap::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                files.insert(path.strip_prefix(&root).unwrap().to_owned(), text);
            }
        }
    }
    files
}

fn room(path: &Path) -> String {
    path.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned()
}

fn floor(room: &str) -> Option<usize> {
    ROOMS.iter().position(|floor| floor.contains(&room))
}

#[test]
fn rooms_import_only_from_below() {
    let import = Regex::new(r"\bcrate::([a-z_]+)").unwrap();
    let (mut seen, mut faults) = (0, Vec::new());
    for (path, text) in sources() {
        let from = room(&path);
        let Some(mine) = floor(&from) else {
            assert!(["lib", "main"].contains(&from.as_str()), "`{}` is in no room of the list", path.display());
            continue;
        };
        // A test beside the code may reach up.
        let code = text.split("#[cfg(test)]").next().unwrap();
        for found in import.captures_iter(code) {
            let to = &found[1];
            let Some(theirs) = floor(to) else { continue };
            seen += 1;
            if to != from && theirs <= mine {
                faults.push(format!("{} imports from `{to}`", path.display()));
            }
        }
    }
    assert!(seen > 100, "the test sees the imports");
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn some_names_stand_in_one_place_only() {
    let rules = [
        (r"\bapalis\w*::", &["engine/chain/"][..]),
        (r"\bserde_yaml::", &["yaml/"]),
        (r"\baws_sdk_s3::", &["objects/"]),
        (r"\bs3s::", &["objects/"]),
        (r"\blettre::", &["mail/"]),
        (r"\bcss_inline::", &["mail/"]),
        (r"\brusqlite::", &["connections/", "objects/"]),
        (r"\bminijinja::", &["pipeline/", "mail/"]),
        (r"\baxum::", &["web/"]),
        (r"\breqwest::", &["http/", "cli/client.rs"]),
        (r"\bmaxminddb::", &["geo/"]),
        (r"\bprometheus_client::", &["metrics.rs"]),
        (r"\.route\(", &["web/openapi.rs", "web/tests/"]),
        (r"Utc::now", &["clock.rs"]),
    ];
    for (name, places) in rules {
        let name = Regex::new(name).unwrap();
        let code = |text: &str| {
            text.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| name.is_match(line))
        };
        let found: Vec<_> =
            sources().into_iter().filter(|(_, text)| code(text)).map(|(path, _)| path.display().to_string()).collect();
        assert!(!found.is_empty(), "nobody uses {name} any more; take the rule away");
        let wrong: Vec<_> = found.iter().filter(|path| !places.iter().any(|place| path.starts_with(place))).collect();
        assert!(wrong.is_empty(), "{name} belongs in {places:?}, not in {wrong:?}");
    }
}
