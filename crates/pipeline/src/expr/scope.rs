//! What expressions can see while a run goes on.

use std::collections::BTreeMap;
use std::sync::Arc;

use minijinja::value::{Enumerator, Object};
use serde_json::{Map, Value};

type Jinja = minijinja::Value;
type Lookup = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// What expressions can see while a run goes on: `params`, `event`, `steps`, `run`, `secrets`, `item` and `index`.
#[derive(Clone, Default)]
pub struct Scope {
    roots: BTreeMap<&'static str, Jinja>,
    steps: BTreeMap<String, Jinja>,
}

impl Scope {
    /// Sees nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets `params`.
    #[must_use]
    pub fn params(self, params: &Map<String, Value>) -> Self {
        self.set("params", plain(params))
    }

    /// Sets `event`; null for a run that no trigger started.
    #[must_use]
    pub fn event(self, event: &Value) -> Self {
        self.set("event", plain(event))
    }

    /// Whether something happened that started the run.
    pub(super) fn has_event(&self) -> bool {
        self.roots.get("event").is_some_and(|event| !event.is_none())
    }

    /// Sets `run`: `id`, `url` and `pipeline`, and outside of the main steps `status` and `error`.
    #[must_use]
    pub fn run(self, run: &Value) -> Self {
        self.set("run", plain(run))
    }

    /// Sets `item` and `index`.
    #[must_use]
    pub fn item(self, index: u64, item: &Value) -> Self {
        self.set("item", plain(item)).set("index", index.into())
    }

    /// Sets `file`: what a key of `output` may name of the file at hand.
    #[must_use]
    pub fn file(self, file: &Value) -> Self {
        self.set("file", plain(file))
    }

    /// Sets a root that only some parts of a step can name.
    #[must_use]
    pub fn with(self, root: &'static str, value: &Value) -> Self {
        self.set(root, plain(value))
    }

    /// Sets `secrets`; each is looked up only when an expression reads it.
    #[must_use]
    pub fn secrets(self, lookup: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.set("secrets", Jinja::from_object(Secrets(Arc::new(lookup))))
    }

    /// Adds a step that has ended: its outputs, its state and its error. An output that it did not give, as when it
    /// was skipped, is none.
    #[must_use]
    pub fn step(mut self, id: &str, outputs: &Value, state: &str, error: &Value) -> Self {
        let mut fields: BTreeMap<String, Jinja> = BTreeMap::new();
        if let Value::Object(outputs) = outputs {
            fields.extend(outputs.iter().map(|(name, value)| (name.clone(), plain(value))));
        }
        fields.insert("state".into(), state.into());
        fields.insert("error".into(), plain(error));
        self.steps.insert(id.to_owned(), Jinja::from_object(Ended(fields)));
        self
    }

    fn set(mut self, root: &'static str, value: Jinja) -> Self {
        self.roots.insert(root, value);
        self
    }

    pub(super) fn root(&self) -> Jinja {
        let mut roots: BTreeMap<&str, Jinja> = self.roots.clone();
        roots.insert("steps", Jinja::from_pairs(self.steps.clone()));
        Jinja::from_pairs(roots)
    }
}

#[derive(Debug)]
struct Ended(BTreeMap<String, Jinja>);

impl Object for Ended {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        let name = key.as_str()?;
        Some(self.0.get(name).cloned().unwrap_or_else(|| Jinja::from(())))
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        Enumerator::Values(self.0.keys().map(|name| Jinja::from(name.as_str())).collect())
    }
}

fn plain(value: impl serde::Serialize) -> Jinja {
    Jinja::from(minijinja::value::Serde(value))
}

/// Cannot be listed or shown, only asked for one name.
struct Secrets(Lookup);

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Object for Secrets {
    fn get_value(self: &Arc<Self>, key: &Jinja) -> Option<Jinja> {
        (self.0)(key.as_str()?).map(Jinja::from)
    }
}
