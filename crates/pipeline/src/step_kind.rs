//! What the language has to know of a step kind, and what a kind may ask about its surroundings.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::codes;
use afterload_core::dialect::Dialect;
use afterload_core::error::Error;
use afterload_spanned_yaml::{Diagnostic, SourceSpan, YamlKey, YamlNode, YamlValue, closest_name};

/// A step kind as the language sees it. `steps/` makes one from every type that implements `Step`.
pub trait StepKind: Send + Sync {
    /// The name after `uses:`, such as `csv.import`.
    fn name(&self) -> &'static str;
    /// JSON Schema of its `with:` block.
    fn input_schema(&self) -> schemars::Schema;
    /// JSON Schema of its outputs; its `properties` are what `steps.ID.…` may name.
    fn output_schema(&self) -> schemars::Schema;
    /// An example of its `with:` block.
    fn example_input(&self) -> &'static str;
    /// Examples of other ways to use it.
    fn more_example_inputs(&self) -> &'static [&'static str] {
        &[]
    }
    /// Whether it makes files, so that `output` may stand on it.
    fn makes_files(&self) -> bool {
        false
    }
    /// The parts of its `with:` block that it resolves itself.
    fn deferred_fields(&self) -> &'static [DeferredField] {
        &[]
    }
    /// All problems of a `with:` block, each at its place.
    fn validate(&self, with: &YamlNode, around: &ValidationContext) -> Vec<Diagnostic>;
}

/// A part of a `with:` block that a kind resolves itself, once for each of many things that it comes upon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeferredField {
    /// Where it stands below `with:`.
    pub path: &'static [&'static str],
    /// What its expressions can name besides everything else.
    pub names: &'static [&'static str],
}

impl DeferredField {
    /// What its expressions can name, if one of the parts stands at `key`; else the parts below that.
    ///
    /// # Errors
    /// The parts below.
    pub fn match_key(parts: &[Self], key: &str) -> Result<&'static [&'static str], Vec<Self>> {
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
pub struct StepCatalog(pub Vec<Arc<dyn StepKind>>);

impl StepCatalog {
    /// The kind with this name.
    pub fn get(&self, name: &str) -> Option<&dyn StepKind> {
        self.0.iter().find(|kind| kind.name() == name).map(AsRef::as_ref)
    }
}

/// What a pipeline may refer to outside of itself. `None`: not known here (as in an editor), so not checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidationContext {
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
    pub artifacts_bucket: Option<String>,
}

/// Gathers the problems that a step finds in its own checked `with:` block.
pub struct Validator<'a> {
    /// What the block may refer to.
    pub ctx: &'a ValidationContext,
    with: &'a YamlNode,
    unread: &'a [Diagnostic],
    problems: Vec<Diagnostic>,
}

impl<'a> Validator<'a> {
    /// Starts a check of `with`.
    pub fn new(with: &'a YamlNode, around: &'a ValidationContext) -> Self {
        Self { ctx: around, with, unread: &[], problems: Vec::new() }
    }

    /// Some of the block could not be read and holds something empty; `unread` says where. What follows from that alone is
    /// not told.
    #[must_use]
    pub fn with_unread(mut self, unread: &'a [Diagnostic]) -> Self {
        self.unread = unread;
        self
    }

    /// Whether something stands at `path`, and be it something that could not be read.
    pub fn is_present(&self, path: &[&str]) -> bool {
        path.iter().try_fold(self.with, |node, name| node.get(name)).is_some()
    }

    /// Whether everything at `path` and below it could be read.
    pub fn is_readable(&self, path: &[&str]) -> bool {
        fn is_clean(node: &YamlNode, unread: &[Diagnostic]) -> bool {
            let at = |span: SourceSpan| unread.iter().any(|problem| problem.span == span);
            !at(node.span)
                && match &node.value {
                    YamlValue::Seq(items) => items.iter().all(|item| is_clean(item, unread)),
                    YamlValue::Map(entries) => {
                        entries.iter().all(|(key, item)| !at(key.span) && is_clean(item, unread))
                    }
                    _ => true,
                }
        }
        if self.is_present(path) {
            is_clean(self.with.closest_node(path), self.unread)
        } else {
            !self.is_missing_or_misspelled(path)
        }
    }

    /// Whether nothing stands at `path` because a field on the way was reported as missing, or stands under a misspelt name.
    fn is_missing_or_misspelled(&self, path: &[&str]) -> bool {
        let Some(depth) = (0..path.len()).find(|depth| !self.is_present(&path[..=*depth])) else { return false };
        let (above, name) = (self.with.closest_node(&path[..depth]), path[depth]);
        let missing = format!("missing field `{name}`");
        let misspelt = |key: &YamlKey| {
            self.unread.iter().any(|problem| problem.span == key.span) && closest_name(&key.text, [name]).is_some()
        };
        self.unread.iter().any(|problem| problem.span == above.span && problem.message == missing)
            || matches!(&above.value, YamlValue::Map(entries) if entries.iter().any(|(key, _)| misspelt(key)))
    }

    /// Whether a problem at `path` is but the consequence of what could not be read.
    fn is_consequence(&self, path: &[&str]) -> bool {
        let at = self.with.closest_node(path);
        let unread = |problem: &Diagnostic| problem.span == at.span && !problem.message.starts_with("missing field");
        self.is_missing_or_misspelled(path) || !std::ptr::eq(at, self.with) && self.unread.iter().any(unread)
    }

    /// Records a problem at `path` below `with:`, such as `["into", "table"]`; at the nearest existing place above it.
    pub fn report_invalid(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        if self.is_consequence(path) {
            return;
        }
        let at = self.with.closest_node(path).span;
        self.problems.push(Diagnostic::new(codes::DEFINITION_INVALID, at, message).with_hint(hint));
    }

    /// Records that something at `path` is refused, under the code that it would have when the step runs.
    pub fn report_refused(&mut self, path: &[&str], error: &Error) {
        if self.is_consequence(path) {
            return;
        }
        let at = self.with.closest_node(path).span;
        let problem = Diagnostic::new(error.code(), at, error.message());
        self.problems.push(problem.with_hint(error.hint_text().unwrap_or_default()));
    }

    /// Records that `what`, at `path`, belongs to the language but is not executed by this version.
    pub fn report_unsupported(&mut self, path: &[&str], what: &str) {
        let at = self.with.closest_node(path).span;
        let problem = Diagnostic::new(codes::NOT_SUPPORTED_YET, at, format!("{what} is not supported yet"));
        self.problems.push(problem.with_hint("remove it; a later version will accept it"));
    }

    /// Records a problem unless the surroundings know a connection of this name.
    pub fn check_connection(&mut self, path: &[&str], name: &str, writes: bool) {
        let Some(known) = &self.ctx.connections else { return };
        if !known.contains(name) {
            let choices = known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
            self.report_invalid(
                path,
                format!("unknown connection `{name}`"),
                format!("the configuration knows {choices}"),
            );
        } else if writes && self.ctx.read_only.contains(name) {
            self.report_invalid(
                path,
                format!("connection `{name}` is read-only"),
                "this step writes; use another connection",
            );
        }
    }

    /// What was found.
    pub fn finish(self) -> Vec<Diagnostic> {
        self.problems
    }
}
