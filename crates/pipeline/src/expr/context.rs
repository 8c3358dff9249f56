//! The values that expressions can read during a run.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object};
use serde_json::{Map, Value};

use super::builtins::NOW_FUNCTION;
use afterload_core::clock::{Clock, format_rfc3339};

type JinjaValue = minijinja::Value;
type SecretLookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The values that expressions can read: `params`, `event`, `steps`, `run`, `secrets`, `item` and `index`.
#[derive(Clone, Default)]
pub struct ExprContext {
    roots: BTreeMap<&'static str, JinjaValue>,
    steps: BTreeMap<String, JinjaValue>,
}

impl ExprContext {
    /// Creates an empty context.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `params`.
    #[must_use]
    pub fn with_params(self, params: &Map<String, Value>) -> Self {
        self.set_root("params", to_jinja_value(params))
    }

    /// Sets `event`; null if no trigger started the run.
    #[must_use]
    pub fn with_event(self, event: &Value) -> Self {
        self.set_root("event", to_jinja_value(event))
    }

    /// True if a trigger started the run.
    pub(super) fn has_event(&self) -> bool {
        self.roots.get("event").is_some_and(|event| !event.is_none())
    }

    /// Sets `run`: `id`, `url`, `pipeline` and `created_at`, and after the main steps also `status` and `error`.
    #[must_use]
    pub fn with_run(self, run: &Value) -> Self {
        self.set_root("run", to_jinja_value(run))
    }

    /// Sets `item` and `index`.
    #[must_use]
    pub fn with_item(self, index: u64, item: &Value) -> Self {
        self.set_root("item", to_jinja_value(item)).set_root("index", index.into())
    }

    /// Sets `file`: the file whose `output.key` is resolved.
    #[must_use]
    pub fn with_file(self, file: &Value) -> Self {
        self.set_root("file", to_jinja_value(file))
    }

    /// Sets an additional root name, for deferred fields.
    #[must_use]
    pub fn with_root(self, root: &'static str, value: &Value) -> Self {
        self.set_root(root, to_jinja_value(value))
    }

    /// Sets `secrets`. A secret is looked up only when an expression reads it.
    #[must_use]
    pub fn with_secrets(self, lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.set_root("secrets", JinjaValue::from_object(SecretsObject(Arc::new(lookup))))
    }

    /// Sets the clock of `now()`.
    #[must_use]
    pub fn with_clock(self, clock: &Clock) -> Self {
        let clock = clock.clone();
        self.set_root(NOW_FUNCTION, JinjaValue::from_function(move || format_rfc3339(clock.now())))
    }

    /// Adds a step that has ended: its outputs, its state and its error. A missing output is none, for example if the
    /// step was skipped.
    #[must_use]
    pub fn with_step(mut self, id: &str, outputs: &Value, state: &str, error: &Value) -> Self {
        let mut fields: BTreeMap<String, JinjaValue> = BTreeMap::new();
        if let Value::Object(outputs) = outputs {
            fields.extend(outputs.iter().map(|(name, value)| (name.clone(), to_jinja_value(value))));
        }
        fields.insert("state".into(), state.into());
        fields.insert("error".into(), to_jinja_value(error));
        self.steps.insert(id.to_owned(), JinjaValue::from_object(StepValue(fields)));
        self
    }

    fn set_root(mut self, root: &'static str, value: JinjaValue) -> Self {
        self.roots.insert(root, value);
        self
    }

    pub(super) fn to_jinja(&self) -> JinjaValue {
        let mut roots: BTreeMap<&str, JinjaValue> = self.roots.clone();
        roots.insert("steps", JinjaValue::from_pairs(self.steps.clone()));
        JinjaValue::from_pairs(roots)
    }
}

#[derive(Debug)]
struct StepValue(BTreeMap<String, JinjaValue>);

impl Object for StepValue {
    fn get_value(self: &Arc<Self>, key: &JinjaValue) -> Option<JinjaValue> {
        let name = key.as_str()?;
        Some(self.0.get(name).cloned().unwrap_or_else(|| JinjaValue::from(())))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().map(|name| JinjaValue::from(name.as_str())).collect())
    }
}

fn to_jinja_value(value: impl serde::Serialize) -> JinjaValue {
    JinjaValue::from(minijinja::value::Serde(value))
}

/// Supports lookups by name only: secrets cannot be listed or printed.
struct SecretsObject(SecretLookup);

impl std::fmt::Debug for SecretsObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Object for SecretsObject {
    fn get_value(self: &Arc<Self>, key: &JinjaValue) -> Option<JinjaValue> {
        (self.0)(key.as_str()?).map(JinjaValue::from)
    }
}
