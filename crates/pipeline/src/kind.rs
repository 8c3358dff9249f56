//! What the language has to know of a step kind, and what a kind may ask about its surroundings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use afterload_core::dialect::Dialect;
use afterload_core::error::Error;
use afterload_spanned_yaml::{Key, Node, Problem, Span, Value, closest};

/// A step kind as the language sees it. `steps/` makes one from every type that implements `Step`.
pub trait Kind: Send + Sync {
    /// The name after `uses:`, such as `csv.import`.
    fn name(&self) -> &'static str;
    /// JSON Schema of its `with:` block.
    fn schema(&self) -> schemars::Schema;
    /// JSON Schema of its outputs; its `properties` are what `steps.ID.…` may name.
    fn outputs(&self) -> schemars::Schema;
    /// An example of its `with:` block.
    fn example(&self) -> &'static str;
    /// Examples of other ways to use it.
    fn more_examples(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether it makes files, so that `output` may stand on it.
    fn makes_files(&self) -> bool {
        false
    }
    /// The parts of its `with:` block that it resolves itself.
    fn repeated(&self) -> &'static [Repeated] {
        &[]
    }
    /// All problems of a `with:` block, each at its place.
    fn check(&self, with: &Node, around: &Surroundings) -> Vec<Problem>;
}

/// A part of a `with:` block that a kind resolves itself, once for each of many things that it comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Repeated {
    /// Where it stands below `with:`.
    pub path: &'static [&'static str],
    /// What its expressions can name besides everything else.
    pub names: &'static [&'static str],
}

impl Repeated {
    /// What its expressions can name, if one of the parts stands at `key`; else the parts below that.
    ///
    /// # Errors
    /// The parts below.
    pub fn at(parts: &[Self], key: &str) -> Result<&'static [&'static str], Vec<Self>> {
        let mut below = Vec::new();
        for part in parts {
            match part.path {
                [first] if *first == key => return Ok(part.names),
                [first, rest @ ..] if *first == key => below.push(Self { path: rest, ..*part }),
                _ => {}
            }
        }
        Err(below)
    }
}

/// All step kinds.
pub struct Kinds(pub Vec<Arc<dyn Kind>>);

impl Kinds {
    /// The kind with this name.
    pub fn get(&self, name: &str) -> Option<&dyn Kind> {
        self.0.iter().find(|kind| kind.name() == name).map(AsRef::as_ref)
    }
}

/// What a pipeline may refer to outside of itself. `None`: not known here (as in an editor), so not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Names of connections.
    pub connections: Option<BTreeSet<String>>,
    /// What the connections speak, as far as that is known.
    pub dialects: BTreeMap<String, Dialect>,
    /// Names of connections that may not be written.
    pub read_only: BTreeSet<String>,
    /// Names of mail templates.
    pub templates: Option<BTreeSet<String>>,
    /// Mail templates that cannot be used, each with the reason.
    pub broken_templates: BTreeMap<String, String>,
    /// Names of secrets.
    pub secrets: Option<BTreeSet<String>>,
    /// Names of declared queues.
    pub queues: Option<BTreeSet<String>>,
    /// The bucket of the service itself, which no step may write by name and no trigger may name.
    pub artifacts: Option<String>,
}

/// Gathers the problems that a step finds in its own checked `with:` block.
pub struct Check<'a> {
    /// What the block may refer to.
    pub around: &'a Surroundings,
    with: &'a Node,
    unread: &'a [Problem],
    problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    /// Starts a check of `with`.
    pub fn new(with: &'a Node, around: &'a Surroundings) -> Self {
        Self { around, with, unread: &[], problems: Vec::new() }
    }

    /// Some of the block could not be read and holds something empty; `unread` says where. What follows from that alone is
    /// not told.
    #[must_use]
    pub fn without(mut self, unread: &'a [Problem]) -> Self {
        self.unread = unread;
        self
    }

    /// Whether something stands at `path`, and be it something that could not be read.
    pub fn written(&self, path: &[&str]) -> bool {
        path.iter().try_fold(self.with, |node, name| node.get(name)).is_some()
    }

    /// Whether everything at `path` and below it could be read.
    pub fn readable(&self, path: &[&str]) -> bool {
        fn clean(node: &Node, unread: &[Problem]) -> bool {
            let at = |span: Span| unread.iter().any(|problem| problem.span == span);
            !at(node.span)
                && match &node.value {
                    Value::Seq(items) => items.iter().all(|item| clean(item, unread)),
                    Value::Map(entries) => entries.iter().all(|(key, item)| !at(key.span) && clean(item, unread)),
                    _ => true,
                }
        }
        if self.written(path) { clean(self.with.nearest(path), self.unread) } else { !self.lost(path) }
    }

    /// Whether nothing stands at `path` because a field on the way was reported as missing, or stands under a misspelt name.
    fn lost(&self, path: &[&str]) -> bool {
        let Some(depth) = (0..path.len()).find(|depth| !self.written(&path[..=*depth])) else { return false };
        let (above, name) = (self.with.nearest(&path[..depth]), path[depth]);
        let missing = format!("missing field `{name}`");
        let misspelt = |key: &Key| {
            self.unread.iter().any(|problem| problem.span == key.span) && closest(&key.text, [name]).is_some()
        };
        self.unread.iter().any(|problem| problem.span == above.span && problem.message == missing)
            || matches!(&above.value, Value::Map(entries) if entries.iter().any(|(key, _)| misspelt(key)))
    }

    /// Whether a problem at `path` is but the consequence of what could not be read.
    fn follows(&self, path: &[&str]) -> bool {
        let at = self.with.nearest(path);
        let unread = |problem: &Problem| problem.span == at.span && !problem.message.starts_with("missing field");
        self.lost(path) || !std::ptr::eq(at, self.with) && self.unread.iter().any(unread)
    }

    /// Records a problem at `path` below `with:`, such as `["into", "table"]`; at the nearest existing place above it.
    pub fn problem(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        if self.follows(path) {
            return;
        }
        let at = self.with.nearest(path).span;
        self.problems.push(Problem::new("definition_invalid", at, message).hint(hint));
    }

    /// Records that something at `path` is refused, under the code that it would have when the step runs.
    pub fn refused(&mut self, path: &[&str], error: &Error) {
        if self.follows(path) {
            return;
        }
        let at = self.with.nearest(path).span;
        let problem = Problem::new(error.code(), at, error.message());
        self.problems.push(problem.hint(error.hint_text().unwrap_or_default()));
    }

    /// Records that `what`, at `path`, belongs to the language but is not executed by this version.
    pub fn not_yet(&mut self, path: &[&str], what: &str) {
        let at = self.with.nearest(path).span;
        let problem = Problem::new("not_supported_yet", at, format!("{what} is not supported yet"));
        self.problems.push(problem.hint("remove it; a later version will accept it"));
    }

    /// Records a problem unless the surroundings know a connection of this name.
    pub fn connection(&mut self, path: &[&str], name: &str, writes: bool) {
        let Some(known) = &self.around.connections else { return };
        if !known.contains(name) {
            let choices = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            self.problem(path, format!("unknown connection `{name}`"), format!("the configuration knows {choices}"));
        } else if writes && self.around.read_only.contains(name) {
            self.problem(path, format!("connection `{name}` is read-only"), "this step writes; use another connection");
        }
    }

    /// What was found.
    pub fn finish(self) -> Vec<Problem> {
        self.problems
    }
}
