//! What the language has to know of a step kind, and what a kind may ask about its surroundings.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::yaml::{Node, Problem};

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
    /// All problems of a `with:` block, each at its place.
    fn check(&self, with: &Node, around: &Surroundings) -> Vec<Problem>;
}

/// All step kinds: those that run, and the names of those that the language knows but this version does not run yet.
pub struct Kinds {
    /// The kinds that run.
    pub ready: Vec<Arc<dyn Kind>>,
    /// The names of the kinds to come; refused as `not_supported_yet`.
    pub planned: &'static [&'static str],
}

impl Kinds {
    /// The kind with this name.
    pub fn get(&self, name: &str) -> Option<&dyn Kind> {
        self.ready.iter().find(|kind| kind.name() == name).map(AsRef::as_ref)
    }
}

/// What a pipeline may refer to outside of itself. `None`: not known here (as in an editor), so not checked.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// Names of connections.
    pub connections: Option<BTreeSet<String>>,
    /// Names of connections that may not be written.
    pub read_only: BTreeSet<String>,
    /// Names of mail templates.
    pub templates: Option<BTreeSet<String>>,
    /// Names of secrets.
    pub secrets: Option<BTreeSet<String>>,
    /// Names of declared queues.
    pub queues: Option<BTreeSet<String>>,
}

/// Gathers the problems that a step finds in its own checked `with:` block.
pub struct Check<'a> {
    /// What the block may refer to.
    pub around: &'a Surroundings,
    with: &'a Node,
    problems: Vec<Problem>,
}

impl<'a> Check<'a> {
    /// Starts a check of `with`.
    pub fn new(with: &'a Node, around: &'a Surroundings) -> Self {
        Self { around, with, problems: Vec::new() }
    }

    /// Records a problem at `path` below `with:`, such as `["into", "table"]`; at the nearest existing place above it.
    pub fn problem(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        let at = self.with.nearest(path).span;
        self.problems.push(Problem::new("definition_invalid", at, message).hint(hint));
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
