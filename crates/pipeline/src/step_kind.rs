//! What the language needs to know about a step kind, and what a kind can check outside of its own block.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::codes;
use afterload_core::dialect::Dialect;
use afterload_core::error::Error;
use afterload_spanned_yaml::{Diagnostic, SourceSpan, YamlKey, YamlNode, YamlValue, closest_name};

/// A step kind as the language sees it. `step-api` creates one from every type that implements `Step`.
pub trait StepKind: Send + Sync {
    /// The name after `uses:`, such as `csv.import`.
    fn name(&self) -> &'static str;
    /// JSON Schema of its `with:` block.
    fn input_schema(&self) -> &schemars::Schema;
    /// JSON Schema of its outputs. Expressions can use its `properties` as `steps.ID.…`.
    fn output_schema(&self) -> &schemars::Schema;
    /// An example of its `with:` block.
    fn example_input(&self) -> &'static str;
    /// Examples of other uses.
    fn more_example_inputs(&self) -> &'static [&'static str] {
        &[]
    }
    /// True if the kind creates files, so that a step may set `output`.
    fn makes_files(&self) -> bool {
        false
    }
    /// True if each successful run of a step with this `with:` block creates a file.
    fn always_makes_files(&self, with: &YamlNode) -> bool {
        let _ = with;
        false
    }
    /// The URL to which each success of a step with this `with:` block sends a `POST` request; `None` if an expression
    /// decides, or if it sends none. The field is `url`.
    fn certain_post(&self, with: &YamlNode) -> Option<String> {
        let _ = with;
        None
    }
    /// The fields of `with:` that the kind resolves itself.
    fn deferred_fields(&self) -> &'static [DeferredField] {
        &[]
    }
    /// The fields of `with:` that encode the values in their text. Deferred fields are not among them.
    fn encoded_fields(&self) -> &'static [EncodedField] {
        &[]
    }
    /// Returns all problems of a `with:` block, each at its span.
    fn validate(&self, with: &YamlNode, around: &ValidationContext) -> Vec<Diagnostic>;
}

/// The path of a field below `with:`.
pub type FieldPath = &'static [&'static str];

/// How the values in a text are encoded, so that they cannot change its structure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ValueEncoding {
    /// The text is a URL; values are percent-encoded.
    Url,
    /// The text is HTML; values are escaped.
    Html,
}

/// A field of `with:` that encodes the values in its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodedField {
    /// The path below `with:`.
    pub path: FieldPath,
    /// The encoding.
    pub encoding: ValueEncoding,
}

impl EncodedField {
    /// A URL.
    pub const fn url(path: FieldPath) -> Self {
        Self { path, encoding: ValueEncoding::Url }
    }

    /// HTML.
    pub const fn html(path: FieldPath) -> Self {
        Self { path, encoding: ValueEncoding::Html }
    }

    /// The fields below `key`.
    pub fn below(fields: &[Self], key: &str) -> Vec<Self> {
        let field = |field: &Self| match field.path {
            [first, rest @ ..] if *first == key => Some(Self { path: rest, ..*field }),
            _ => None,
        };
        fields.iter().filter_map(field).collect()
    }
}

/// A field of `with:` that a kind resolves itself, once per record that it processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeferredField {
    /// The path below `with:`.
    pub path: FieldPath,
    /// The additional names that its expressions can use.
    pub names: &'static [&'static str],
}

impl DeferredField {
    /// Returns the additional names if a deferred field is at `key`, or else the deferred fields below it.
    ///
    /// # Errors
    /// The deferred fields below.
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

/// All registered step kinds.
pub struct StepCatalog(pub Vec<Arc<dyn StepKind>>);

impl StepCatalog {
    /// Returns the kind with this name.
    pub fn get(&self, name: &str) -> Option<&dyn StepKind> {
        self.0.iter().find(|kind| kind.name() == name).map(AsRef::as_ref)
    }
}

/// The resources that a pipeline can refer to. `None` means unknown (for example in an editor), so references are not
/// checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ValidationContext {
    /// The names of connections.
    pub connections: Option<BTreeSet<String>>,
    /// The SQL dialects of the connections, as far as they are known.
    pub dialects: BTreeMap<String, Dialect>,
    /// The names of read-only connections.
    pub read_only: BTreeSet<String>,
    /// The functions that a connection allows in SQL which must only read.
    pub functions: BTreeMap<String, Vec<String>>,
    /// The names of mail templates.
    pub templates: Option<BTreeSet<String>>,
    /// Invalid mail templates, each with the reason.
    pub broken_templates: BTreeMap<String, String>,
    /// The names of secrets.
    pub secrets: Option<BTreeSet<String>>,
    /// The names of declared queues.
    pub queues: Option<BTreeSet<String>>,
    /// The bucket of the service itself. No step may write to it by name, and no trigger may use it.
    pub artifacts_bucket: Option<String>,
    /// True if the mailbox of an address may have letters outside ASCII, which only servers with SMTPUTF8 take.
    pub smtputf8: bool,
    /// Whether the service knows the URL by which the outside reaches it.
    pub has_public_url: Option<bool>,
    /// The URL of the service. A step that calls its API may start other runs.
    pub public_url: Option<String>,
    /// Asks databases about SQL. Without one, only the text is checked.
    pub query_verifier: Option<QueryVerifier>,
}

/// The error of SQL, if the database of a connection refuses to take it as a read.
type VerifyFn = dyn Fn(&str, &str) -> Result<(), Error> + Send + Sync;

/// Asks the database of a connection whether SQL only reads.
#[derive(Clone)]
pub struct QueryVerifier(Arc<VerifyFn>);

impl QueryVerifier {
    /// Creates a verifier from a function of the connection's name and the SQL. It may block.
    pub fn new(verify: impl Fn(&str, &str) -> Result<(), Error> + Send + Sync + 'static) -> Self {
        Self(Arc::new(verify))
    }
}

impl std::fmt::Debug for QueryVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("QueryVerifier")
    }
}

impl PartialEq for QueryVerifier {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for QueryVerifier {}

/// Collects the problems that a step finds in its own `with:` block.
pub struct Validator<'a> {
    /// The resources that the block can refer to.
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

    /// Marks the unreadable parts of the block, which hold default values. Problems that follow only from them are not
    /// reported.
    #[must_use]
    pub fn with_unread(mut self, unread: &'a [Diagnostic]) -> Self {
        self.unread = unread;
        self
    }

    /// True if there is a value at `path`, even an unreadable one.
    pub fn is_present(&self, path: &[&str]) -> bool {
        path.iter().try_fold(self.with, |node, name| node.get(name)).is_some()
    }

    /// True if the value at `path` and all values below it are readable.
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

    /// True if `path` is missing because a field on it was reported as missing, or because its name is misspelled.
    fn is_missing_or_misspelled(&self, path: &[&str]) -> bool {
        let Some(depth) = (0..path.len()).find(|depth| !self.is_present(&path[..=*depth])) else { return false };
        let (above, name) = (self.with.closest_node(&path[..depth]), path[depth]);
        let misspelt = |key: &YamlKey| {
            self.unread.iter().any(|problem| problem.span == key.span) && closest_name(&key.text, [name]).is_some()
        };
        self.unread.iter().any(|problem| problem.span == above.span && problem.fault.missing_field() == Some(name))
            || matches!(&above.value, YamlValue::Map(entries) if entries.iter().any(|(key, _)| misspelt(key)))
    }

    /// True if a problem at `path` only follows from an unreadable value.
    fn is_consequence(&self, path: &[&str]) -> bool {
        let at = self.with.closest_node(path);
        let unread = |problem: &Diagnostic| problem.span == at.span && problem.fault.missing_field().is_none();
        self.is_missing_or_misspelled(path) || !std::ptr::eq(at, self.with) && self.unread.iter().any(unread)
    }

    /// Reports a problem at `path` below `with:`, such as `["into", "table"]`. Its span is that of the closest existing
    /// node.
    pub fn report_invalid(&mut self, path: &[&str], message: impl Into<String>, hint: impl Into<String>) {
        if self.is_consequence(path) {
            return;
        }
        let at = self.with.closest_node(path).span;
        self.problems.push(Diagnostic::new(codes::DEFINITION_INVALID, at, message).with_hint(hint));
    }

    /// Reports that the value at `path` is rejected, with the error code that the step would have at run time.
    pub fn report_refused(&mut self, path: &[&str], error: &Error) {
        if self.is_consequence(path) {
            return;
        }
        let at = self.with.closest_node(path).span;
        let problem = Diagnostic::new(error.code(), at, error.message());
        self.problems.push(problem.with_hint(error.hint_text().unwrap_or_default()));
    }

    /// Reports that `what`, at `path`, is not supported by this version.
    pub fn report_unsupported(&mut self, path: &[&str], what: &str) {
        let at = self.with.closest_node(path).span;
        let problem = Diagnostic::new(codes::NOT_SUPPORTED_YET, at, format!("{what} is not supported yet"));
        self.problems.push(problem.with_hint("remove it; a later version will accept it"));
    }

    /// Reports SQL at `path` that its database refuses, if databases are asked.
    pub fn verify_query(&mut self, path: &[&str], connection: &str, sql: &str) {
        if let Some(error) = self.find_query_error(connection, sql) {
            self.report_refused(path, &error);
        }
    }

    /// Returns why the database refuses SQL. `None` if it does not, or if databases are not asked.
    pub fn find_query_error(&self, connection: &str, sql: &str) -> Option<Error> {
        let known = self.ctx.connections.as_ref().is_none_or(|known| known.contains(connection));
        let QueryVerifier(verify) = self.ctx.query_verifier.as_ref().filter(|_| known)?;
        verify(connection, sql).err()
    }

    /// Reports an unknown connection, or a read-only one if the step writes.
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

    /// Returns the reported problems.
    pub fn finish(self) -> Vec<Diagnostic> {
        self.problems
    }
}
