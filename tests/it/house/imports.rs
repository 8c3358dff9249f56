//! Reads which modules of a crate refer to which other modules of it.
//!
//! The reader follows `mod` declarations from `lib.rs`, leaves out what is compiled for tests only, and understands `use`
//! trees and paths. A name that a module re-exports counts as a reference to the module where the name comes from. Methods
//! are not followed: the compiler knows their types, a reader of the file does not see them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    PathSeparator,
    Sign(char),
}

/// What one module declares and names.
#[derive(Default)]
struct Module {
    parent: usize,
    name: String,
    file: PathBuf,
    children: BTreeMap<String, usize>,
    items: BTreeSet<String>,
    /// Names that `use` brings in, with the path that each stands for.
    imports: BTreeMap<String, Vec<String>>,
    glob_imports: Vec<Vec<String>>,
    paths: BTreeSet<Vec<String>>,
    words: BTreeSet<String>,
}

/// All modules of a crate; the first is its root.
pub struct CrateModules {
    modules: Vec<Module>,
}

/// Modules of one parent that refer to each other in a circle.
#[derive(Debug, PartialEq, Eq)]
pub struct ImportCircle {
    /// The modules that can all be reached from each other.
    pub members: Vec<String>,
    /// One of the shortest circles among them, a line for each reference.
    pub references: Vec<String>,
}

impl CrateModules {
    /// Reads the crate whose root is this file.
    pub fn read(root: &Path) -> Self {
        let folder = root.parent().unwrap().to_owned();
        let mut read = Self { modules: vec![Module { file: root.to_owned(), ..Module::default() }] };
        read.read_file(0, root, &folder);
        read
    }

    fn from_sources(sources: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in sources {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Self::read(&folder.path().join("lib.rs"))
    }

    /// How many references to other modules were found.
    pub fn reference_count(&self) -> usize {
        self.sibling_references().values().map(BTreeMap::len).sum()
    }

    fn read_file(&mut self, module: usize, file: &Path, child_folder: &Path) {
        let tokens = tokenize(&std::fs::read_to_string(file).unwrap());
        self.read_block(module, &tokens, child_folder);
    }

    fn add_child(&mut self, parent: usize, name: &str, file: PathBuf) -> usize {
        self.modules.push(Module { parent, name: name.to_owned(), file, ..Module::default() });
        let child = self.modules.len() - 1;
        self.modules[parent].children.insert(name.to_owned(), child);
        child
    }

    fn read_block(&mut self, module: usize, tokens: &[Token], folder: &Path) {
        let mut at = 0;
        while at < tokens.len() {
            let follows = |offset: usize| tokens.get(at + offset);
            let is_sign = |offset: usize, sign: char| follows(offset) == Some(&Token::Sign(sign));
            let Token::Word(word) = &tokens[at] else {
                at = if is_sign(0, '#') && (is_sign(1, '[') || is_sign(1, '!')) {
                    skip_attribute(tokens, at)
                } else {
                    at + 1
                };
                continue;
            };
            let before = at.checked_sub(1).map(|before| &tokens[before]);
            let continues = matches!(before, Some(Token::PathSeparator | Token::Sign('.' | '$')));
            match (word.as_str(), follows(1)) {
                _ if continues => at += 1,
                ("mod", Some(Token::Word(name))) if is_sign(2, ';') => {
                    self.read_child_file(module, name, folder);
                    at += 3;
                }
                ("mod", Some(Token::Word(name))) if is_sign(2, '{') => {
                    let end = matching_end(tokens, at + 2);
                    let child = self.add_child(module, name, self.modules[module].file.clone());
                    self.read_block(child, &tokens[at + 3..end], &folder.join(name));
                    at = end;
                }
                ("use", Some(next)) if *next != Token::Sign('<') => {
                    let end = at + tokens[at..].iter().position(|token| *token == Token::Sign(';')).unwrap();
                    self.read_use_tree(module, &tokens[at + 1..end], &[]);
                    at = end;
                }
                ("pub", Some(Token::Sign('('))) if is_sign(3, ')') || follows(2) == Some(&Token::Word("in".into())) => {
                    at = matching_end(tokens, at + 1);
                }
                (_, Some(Token::PathSeparator)) => {
                    let mut path = vec![word.clone()];
                    while let [Token::PathSeparator, Token::Word(next), ..] = &tokens[at + 1..] {
                        path.push(next.clone());
                        at += 2;
                    }
                    self.modules[module].paths.insert(path);
                    at += 1;
                }
                (
                    "fn" | "struct" | "enum" | "trait" | "type" | "const" | "static" | "union",
                    Some(Token::Word(name)),
                ) => {
                    self.modules[module].items.insert(name.clone());
                    at += 2;
                }
                _ => {
                    self.modules[module].words.insert(word.clone());
                    at += 1;
                }
            }
        }
    }

    fn read_child_file(&mut self, module: usize, name: &str, folder: &Path) {
        let beside = folder.join(format!("{name}.rs"));
        let file = if beside.exists() { beside } else { folder.join(name).join("mod.rs") };
        let child = self.add_child(module, name, file.clone());
        self.read_file(child, &file, &folder.join(name));
    }

    /// Reads what stands between `use` and the semicolon.
    fn read_use_tree(&mut self, module: usize, tokens: &[Token], prefix: &[String]) {
        let mut path = prefix.to_vec();
        let mut alias = None;
        let mut at = 0;
        while at < tokens.len() {
            match &tokens[at] {
                Token::Word(word) if word == "as" => {
                    let Some(Token::Word(name)) = tokens.get(at + 1) else { panic!("`as` without a name") };
                    alias = Some(name.clone());
                    at += 1;
                }
                Token::Word(word) => path.push(word.clone()),
                Token::Sign('*') => return self.modules[module].glob_imports.push(path),
                Token::Sign('{') => {
                    for part in split_at_commas(&tokens[at + 1..matching_end(tokens, at)]) {
                        self.read_use_tree(module, part, &path);
                    }
                    return;
                }
                _ => {}
            }
            at += 1;
        }
        if path.last().is_some_and(|last| last == "self") && path.len() > 1 {
            path.pop();
        }
        let Some(name) = alias.or_else(|| path.last().cloned()) else { return };
        // `use … as _` brings in a trait whose name cannot be used.
        let name = if name == "_" { path.join("::") } else { name };
        self.modules[module].imports.insert(name, path);
    }

    /// The module that a path leads to, seen from `from`; nothing for what lies outside of the crate.
    fn resolve(&self, from: usize, path: &[String], depth: usize) -> Option<usize> {
        let mut current = from;
        for (place, part) in path.iter().enumerate() {
            let module = &self.modules[current];
            match part.as_str() {
                "crate" if place == 0 => current = 0,
                "self" if place == 0 => {}
                "super" => current = module.parent,
                name => {
                    if let Some(child) = module.children.get(name) {
                        current = *child;
                        continue;
                    }
                    let follow = |target: &[String]| {
                        let full = [target, &path[place + 1..]].concat();
                        (depth < 16).then(|| self.resolve(current, &full, depth + 1)).flatten()
                    };
                    if let Some(target) = module.imports.get(name) {
                        // An import that repeats its own name, such as `use serde`, is another crate's.
                        return if target.first().is_some_and(|first| first == name) { None } else { follow(target) };
                    }
                    for glob in &module.glob_imports {
                        let target = (depth < 16).then(|| self.resolve(current, glob, depth + 1)).flatten();
                        if let Some(target) = target.filter(|target| self.declares(*target, name)) {
                            return self.resolve(target, &path[place..], depth + 1);
                        }
                    }
                    return if place == 0 { None } else { Some(current) };
                }
            }
        }
        Some(current)
    }

    fn declares(&self, module: usize, name: &str) -> bool {
        let module = &self.modules[module];
        module.items.contains(name) || module.children.contains_key(name) || module.imports.contains_key(name)
    }

    fn ancestors(&self, module: usize) -> Vec<usize> {
        let mut line = vec![module];
        while *line.last().unwrap() != 0 {
            line.push(self.modules[*line.last().unwrap()].parent);
        }
        line.reverse();
        line
    }

    /// For each parent, which of its children refers to which other, and one place where it does.
    fn sibling_references(&self) -> BTreeMap<usize, BTreeMap<(usize, usize), String>> {
        let mut found: BTreeMap<usize, BTreeMap<(usize, usize), String>> = BTreeMap::new();
        for (index, module) in self.modules.iter().enumerate() {
            let mut paths: BTreeSet<Vec<String>> = module.paths.clone();
            paths.extend(module.imports.values().cloned());
            for glob in &module.glob_imports {
                let Some(target) = self.resolve(index, glob, 0) else { continue };
                let names = self.modules[target].imports.keys().filter(|name| module.words.contains(*name));
                paths.extend(names.map(|name| [&glob[..], std::slice::from_ref(name)].concat()));
                paths.insert(glob.clone());
            }
            for path in paths {
                let Some(target) = self.resolve(index, &path, 0) else { continue };
                let (from, to) = (self.ancestors(index), self.ancestors(target));
                let shared = from.iter().zip(&to).take_while(|(one, other)| one == other).count();
                // Parent and child may know each other.
                let (Some(one), Some(other)) = (from.get(shared), to.get(shared)) else { continue };
                let names = format!("{} names `{}`", module.file.display(), path.join("::"));
                found.entry(from[shared - 1]).or_default().entry((*one, *other)).or_insert(names);
            }
        }
        found
    }

    /// The circles among the children of each module.
    pub fn find_circles(&self) -> Vec<ImportCircle> {
        let mut circles = Vec::new();
        for references in self.sibling_references().values() {
            let mut left: BTreeSet<usize> = references.keys().map(|(from, _)| *from).collect();
            while let Some(start) = left.pop_first() {
                let reached = reachable(references, start);
                let members: BTreeSet<usize> =
                    reached.iter().copied().filter(|node| reachable(references, *node).contains(&start)).collect();
                if members.is_empty() {
                    continue;
                }
                left.retain(|node| !members.contains(node));
                let shortest = members.iter().map(|node| shortest_circle(references, *node)).min_by_key(Vec::len);
                let describe = |pair: &(usize, usize)| {
                    let name = |node: usize| &self.modules[node].name;
                    format!("{} -> {}: {}", name(pair.0), name(pair.1), references[pair])
                };
                circles.push(ImportCircle {
                    members: members.iter().map(|node| self.modules[*node].name.clone()).collect(),
                    references: shortest.unwrap().iter().map(describe).collect(),
                });
            }
        }
        circles
    }
}

/// What can be reached by at least one reference.
fn reachable(references: &BTreeMap<(usize, usize), String>, start: usize) -> BTreeSet<usize> {
    let (mut seen, mut waiting) = (BTreeSet::new(), vec![start]);
    while let Some(node) = waiting.pop() {
        let next = references.keys().filter(|(from, _)| *from == node).map(|(_, to)| *to);
        waiting.extend(next.filter(|to| seen.insert(*to)));
    }
    seen
}

/// The references of a shortest way from a module back to itself.
fn shortest_circle(references: &BTreeMap<(usize, usize), String>, start: usize) -> Vec<(usize, usize)> {
    let (mut came_from, mut waiting) = (BTreeMap::new(), VecDeque::from([start]));
    while let Some(node) = waiting.pop_front() {
        for (from, to) in references.keys().filter(|(from, _)| *from == node) {
            if *to == start {
                let mut circle = vec![(*from, *to)];
                while let Some(before) = came_from.get(&circle[0].0) {
                    circle.insert(0, (*before, circle[0].0));
                }
                return circle;
            }
            if !came_from.contains_key(to) {
                came_from.insert(*to, *from);
                waiting.push_back(*to);
            }
        }
    }
    unreachable!("the module is part of a circle")
}

/// The place behind an attribute, and behind the item after it if that is compiled for tests only.
fn skip_attribute(tokens: &[Token], at: usize) -> usize {
    let open = at + 1 + usize::from(tokens[at + 1] == Token::Sign('!'));
    if tokens.get(open) != Some(&Token::Sign('[')) {
        return at + 1;
    }
    let end = matching_end(tokens, open);
    let has = |name: &str| tokens[open..end].contains(&Token::Word(name.to_owned()));
    if !(has("cfg") && has("test")) || has("not") {
        return end + 1;
    }
    let is_use = tokens.get(end + 1) == Some(&Token::Word("use".to_owned()));
    let mut at = end + 1;
    while at < tokens.len() {
        match &tokens[at] {
            Token::Sign(';') => return at + 1,
            Token::Sign('{') if !is_use => return matching_end(tokens, at) + 1,
            Token::Sign('(' | '[' | '{') => at = matching_end(tokens, at),
            _ => {}
        }
        at += 1;
    }
    at
}

/// The place of the bracket that closes the one at `open`.
fn matching_end(tokens: &[Token], open: usize) -> usize {
    let mut depth = 0usize;
    for (at, token) in tokens.iter().enumerate().skip(open) {
        match token {
            Token::Sign('(' | '[' | '{') => depth += 1,
            Token::Sign(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return at;
        }
    }
    panic!("a bracket is not closed")
}

fn split_at_commas(tokens: &[Token]) -> Vec<&[Token]> {
    let (mut parts, mut start, mut at) = (Vec::new(), 0, 0);
    while at < tokens.len() {
        match &tokens[at] {
            Token::Sign('{') => at = matching_end(tokens, at),
            Token::Sign(',') => {
                parts.push(&tokens[start..at]);
                start = at + 1;
            }
            _ => {}
        }
        at += 1;
    }
    parts.push(&tokens[start..]);
    parts
}

/// Words, path separators and signs. Comments, literals and lifetimes are left out.
fn tokenize(text: &str) -> Vec<Token> {
    let chars: Vec<char> = text.chars().collect();
    let is_word = |at: usize| chars.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => at += chars[at..].iter().position(|c| *c == '\n').unwrap_or(chars.len() - at),
            ('/', Some('*')) => at = skip_block_comment(&chars, at),
            (':', Some(':')) => {
                tokens.push(Token::PathSeparator);
                at += 2;
            }
            ('"', _) => at = skip_quoted(&chars, at, '"'),
            ('\'', Some('\\')) => at = skip_quoted(&chars, at, '\''),
            ('\'', _) if chars.get(at + 2) == Some(&'\'') => at += 3,
            ('\'', _) => at += (1..).find(|offset| !is_word(at + offset)).unwrap_or(1),
            (first, _) if is_word(at) => {
                let end = (at..).find(|end| !is_word(*end)).unwrap_or(chars.len());
                let word: String = chars[at..end].iter().collect();
                let raw = ["r", "br", "cr"].contains(&word.as_str()) && matches!(chars.get(end), Some('"' | '#'));
                match raw.then(|| skip_raw_string(&chars, end)).flatten() {
                    Some(after) => at = after,
                    None => {
                        // `r#type` is the word `type`.
                        at = end + usize::from(raw);
                        if !raw && !first.is_numeric() {
                            tokens.push(Token::Word(word));
                        }
                    }
                }
            }
            (sign, _) => {
                if !sign.is_whitespace() {
                    tokens.push(Token::Sign(sign));
                }
                at += 1;
            }
        }
    }
    tokens
}

fn skip_block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut at) = (0usize, start);
    while at < chars.len() {
        match (chars[at], chars.get(at + 1)) {
            ('/', Some('*')) => {
                depth += 1;
                at += 2;
            }
            ('*', Some('/')) => {
                depth -= 1;
                at += 2;
                if depth == 0 {
                    return at;
                }
            }
            _ => at += 1,
        }
    }
    at
}

fn skip_quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut at = start + 1;
    while at < chars.len() && chars[at] != quote {
        at += if chars[at] == '\\' { 2 } else { 1 };
    }
    at + 1
}

/// The place behind a raw string whose hashes begin at `start`; nothing if no string begins there.
fn skip_raw_string(chars: &[char], start: usize) -> Option<usize> {
    let hashes = chars[start..].iter().take_while(|c| **c == '#').count();
    let mut at = start + hashes;
    if chars.get(at) != Some(&'"') {
        return None;
    }
    loop {
        at += 1;
        let closes = chars[at] == '"' && chars[at + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes;
        if closes {
            return Some(at + 1 + hashes);
        }
    }
}

#[test]
fn circles_are_found_through_reexports_and_nested_modules() {
    let sources = [
        ("lib.rs", "mod a; mod b; mod c; pub use b::{inner::Thing, Other as Renamed};"),
        ("a.rs", "use super::Thing; // use super::c\nconst TEXT: &str = \"crate::c::x\"; fn f<'c>(_: &'c str) {}"),
        ("b/mod.rs", "pub mod inner; pub struct Other;"),
        ("b/inner.rs", "pub struct Thing; fn f() { crate::c::g::<u8>(); }"),
        (
            "c.rs",
            "pub fn g<T>() { let _ = r#\"use crate::b;\"#; super::a::f(\"\") }\n#[cfg(test)] mod tests { use crate::b; }",
        ),
    ];
    let circles = CrateModules::from_sources(&sources).find_circles();
    assert_eq!(circles.len(), 1, "{circles:#?}");
    assert_eq!(circles[0].members, ["a", "b", "c"]);
    assert_eq!(circles[0].references.len(), 3, "{circles:#?}");
}

#[test]
fn parent_and_child_are_no_circle() {
    let sources = [
        ("lib.rs", "mod a; mod b; pub use a::child::Item; pub struct Root(a::child::Item);"),
        ("a/mod.rs", "pub mod child; pub(in crate::a) fn own(_: child::Item) {}"),
        ("a/child.rs", "use super::own; use crate::Root; pub struct Item;"),
        ("b.rs", "use crate::{Item, a::child::{self, Item as Same}};"),
    ];
    let read = CrateModules::from_sources(&sources);
    assert_eq!(read.find_circles(), []);
    assert_eq!(read.reference_count(), 1);
}
