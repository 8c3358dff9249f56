//! Templates per recipient: the parts of `deliver` whose expressions can use `person` and `reason`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::per_recipient::DeliveryError;
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_pipeline::expr::{TemplateSegment, split_template};
use afterload_pipeline::{ExprContext, referenced_names, resolve, resolve_html, resolve_to_text, resolve_url};
use afterload_target_db::Recipient;

/// The additional names that expressions of `deliver` can use.
pub const RECIPIENT_VARIABLES: [&str; 2] = [PERSON_VARIABLE, REASON_VARIABLE];
const PERSON_VARIABLE: &str = "person";
const REASON_VARIABLE: &str = "reason";

/// A part of a message: a template per recipient, or a value that is the same for all.
pub struct TemplatePart {
    value: Value,
    names: BTreeSet<String>,
}

/// Creates the expression context of a recipient.
pub struct RecipientContext {
    scope: ExprContext,
    /// The columns that the templates use.
    columns: BTreeSet<String>,
}

impl TemplatePart {
    /// Creates a part from its value in the pipeline.
    pub fn new(value: Value) -> Self {
        Self { names: referenced_names(&value), value }
    }

    /// True if the part depends on the recipient.
    pub fn is_personal(&self) -> bool {
        self.names.iter().any(|name| RECIPIENT_VARIABLES.contains(&name.split('.').next().unwrap_or_default()))
    }

    /// Returns the beginning of a text, up to the first expression that depends on the recipient.
    pub fn common_prefix(&self, scope: &ExprContext) -> String {
        let text = self.value.as_str().unwrap_or_default();
        let mut start = String::new();
        for piece in split_template(text).unwrap_or_default() {
            let same = match piece {
                TemplateSegment::Text(range) => Ok(text[range].to_owned()),
                TemplateSegment::Expression(range) => resolve_to_text(&format!("${{{{ {} }}}}", &text[range]), scope),
            };
            // The expression needs a recipient, and there is none yet.
            let Ok(same) = same else { break };
            start.push_str(&same);
        }
        start
    }

    /// Assigns an error of this part to the recipient or to the channel.
    pub fn classify_error(&self, error: Error) -> DeliveryError {
        if self.is_personal() { DeliveryError::Recipient(error) } else { DeliveryError::Channel(error) }
    }

    /// Resolves the value for a recipient.
    pub fn resolve_value(&self, scope: &ExprContext) -> Result<Value, DeliveryError> {
        resolve(&self.value, scope).map_err(|error| self.classify_error(error))
    }

    /// Resolves the value to text.
    pub fn resolve_text(&self, scope: &ExprContext) -> Result<String, DeliveryError> {
        let text = self.value.as_str().map_or_else(|| self.value.to_string(), str::to_owned);
        resolve_to_text(&text, scope).map_err(|error| self.classify_error(error))
    }

    /// Resolves the value to HTML.
    pub fn resolve_html(&self, scope: &ExprContext) -> Result<String, DeliveryError> {
        resolve_html(self.value.as_str().unwrap_or_default(), scope).map_err(|error| self.classify_error(error))
    }

    /// Resolves the value to a URL.
    pub fn resolve_url(&self, scope: &ExprContext) -> Result<String, DeliveryError> {
        resolve_url(self.value.as_str().unwrap_or_default(), scope).map_err(|error| self.classify_error(error))
    }
}

impl RecipientContext {
    /// Creates the context for these parts.
    pub fn new<'a>(scope: &ExprContext, parts: impl IntoIterator<Item = &'a TemplatePart>) -> Self {
        let named = parts.into_iter().flat_map(|part| &part.names);
        let columns = named.filter_map(|name| name.strip_prefix(PERSON_VARIABLE)?.strip_prefix('.')?.split('.').next());
        Self { scope: scope.clone(), columns: columns.map(str::to_owned).collect() }
    }

    /// Returns the expression context of a recipient.
    pub fn for_recipient(&self, person: &Recipient, reason: &str) -> Result<ExprContext, DeliveryError> {
        if let Some(column) = self.columns.iter().find(|column| !person.columns.contains_key(*column)) {
            let error = Error::new(codes::COLUMN_NOT_FOUND, format!("the query gives no column `{column}`"))
                .with_hint("`person` has the columns of the query that finds people");
            return Err(DeliveryError::Channel(error));
        }
        Ok(self
            .scope
            .clone()
            .with_root(PERSON_VARIABLE, &json!(person.columns))
            .with_root(REASON_VARIABLE, &reason.into()))
    }
}
