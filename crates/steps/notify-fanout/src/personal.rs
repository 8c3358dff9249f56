//! What is written for each person: the parts of `deliver` whose expressions can name `person` and `reason`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::each::Trouble;
use afterload_core::error::{Error, Result};
use afterload_pipeline::expr::{Piece, pieces};
use afterload_pipeline::{Scope, names, resolve, resolve_to_text};
use afterload_target_db::Person;

/// What expressions about a person can name besides everything else.
pub const NAMES: [&str; 2] = [PERSON, REASON];
const PERSON: &str = "person";
const REASON: &str = "reason";

/// What is written for each person, or the same for all of them.
pub struct Part {
    value: Value,
    names: BTreeSet<String>,
}

/// Knows what expressions see for a person.
pub struct Personal {
    scope: Scope,
    /// The columns that are named.
    columns: BTreeSet<String>,
}

impl Part {
    /// As it stands in the pipeline.
    pub fn new(value: Value) -> Self {
        Self { names: names(&value), value }
    }

    /// Whether it differs from person to person.
    pub fn differs(&self) -> bool {
        self.names.iter().any(|name| NAMES.contains(&name.split('.').next().unwrap_or_default()))
    }

    /// What a text begins with for everybody, up to where it first differs.
    pub fn start(&self, scope: &Scope) -> String {
        let text = self.value.as_str().unwrap_or_default();
        let mut start = String::new();
        for piece in pieces(text).unwrap_or_default() {
            let same = match piece {
                Piece::Text(range) => Ok(text[range].to_owned()),
                Piece::Expression(range) => resolve_to_text(&format!("${{{{ {} }}}}", &text[range]), scope),
            };
            // There is no person yet.
            let Ok(same) = same else { break };
            start.push_str(&same);
        }
        start
    }

    /// Whose trouble an error of it is.
    pub fn trouble(&self, error: Error) -> Trouble {
        if self.differs() { Trouble::Person(error) } else { Trouble::Channel(error) }
    }

    /// What it is for somebody.
    pub fn value(&self, scope: &Scope) -> Result<Value, Trouble> {
        resolve(&self.value, scope).map_err(|error| self.trouble(error))
    }

    /// The same as text.
    pub fn text(&self, scope: &Scope) -> Result<String, Trouble> {
        let text = self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned);
        resolve_to_text(&text, scope).map_err(|error| self.trouble(error))
    }
}

impl Personal {
    /// For these parts.
    pub fn new<'a>(scope: &Scope, parts: impl IntoIterator<Item = &'a Part>) -> Self {
        let named = parts.into_iter().flat_map(|part| &part.names);
        let columns = named.filter_map(|name| name.strip_prefix(PERSON)?.strip_prefix('.')?.split('.').next());
        Self { scope: scope.clone(), columns: columns.map(str::to_owned).collect() }
    }

    /// What expressions see for somebody.
    pub fn of(&self, person: &Person, reason: &str) -> Result<Scope, Trouble> {
        if let Some(column) = self.columns.iter().find(|column| !person.row.contains_key(*column)) {
            let error = Error::permanent("column_not_found", format!("the query gives no column `{column}`"))
                .hint("`person` has the columns of the query that finds people");
            return Err(Trouble::Channel(error));
        }
        Ok(self.scope.clone().with(PERSON, &json!(person.row)).with(REASON, &reason.into()))
    }
}
