//! Words that stand for values, found in any case.

use std::collections::HashMap;

use serde_json::Value;

use crate::columns::ImportColumn;

/// The cells of a column and what they stand for.
#[derive(Debug)]
pub struct ValueMap(HashMap<String, Option<String>>);

impl ValueMap {
    /// Compiles `map`; `None` if it is empty.
    ///
    /// # Errors
    /// A message about an entry that is not a single value, or that is there twice.
    pub fn compile(map: &std::collections::BTreeMap<String, Value>) -> Result<Option<Self>, String> {
        let mut words = HashMap::new();
        for (word, value) in map {
            let text = match value {
                Value::Null => None,
                Value::String(text) => Some(text.clone()),
                Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
                Value::Array(_) | Value::Object(_) => return Err(format!("`{word}` must stand for a single value")),
            };
            if words.insert(word.trim().to_lowercase(), text).is_some() {
                return Err(format!("`map` names `{word}` twice, because case does not matter"));
            }
        }
        Ok((!words.is_empty()).then_some(Self(words)))
    }

    /// What a cell stands for. The inner `None` is null.
    pub fn get(&self, cell: &str) -> Option<&Option<String>> {
        self.0.get(&cell.trim().to_lowercase())
    }
}

/// The words for true and false.
#[derive(Debug)]
pub struct BooleanWords {
    yes: Vec<String>,
    no: Vec<String>,
}

impl BooleanWords {
    const DEFAULT_TRUE: [&str; 6] = ["true", "t", "yes", "y", "on", "1"];
    const DEFAULT_FALSE: [&str; 6] = ["false", "f", "no", "n", "off", "0"];

    /// Compiles the words of a column; `None` if it has none of its own.
    ///
    /// # Errors
    /// A message if a word stands for both.
    pub fn compile(column: &ImportColumn) -> Result<Option<Self>, String> {
        if column.true_values.is_none() && column.false_values.is_none() {
            return Ok(None);
        }
        let lower = |words: &Option<Vec<String>>, default: [&str; 6]| match words {
            Some(words) => words.iter().map(|word| word.trim().to_lowercase()).collect(),
            None => default.map(str::to_owned).to_vec(),
        };
        let yes: Vec<String> = lower(&column.true_values, Self::DEFAULT_TRUE);
        let mut no: Vec<String> = lower(&column.false_values, Self::DEFAULT_FALSE);
        match (&column.true_values, &column.false_values) {
            (Some(_), Some(_)) => {
                if let Some(both) = yes.iter().find(|word| no.contains(word)) {
                    return Err(format!("`{both}` cannot be true and false"));
                }
                Ok(Some(Self { yes, no }))
            }
            // What the column names wins over the default words of the other side.
            (Some(_), None) => {
                no.retain(|word| !yes.contains(word));
                Ok(Some(Self { yes, no }))
            }
            (None, _) => Ok(Some(Self { yes: yes.into_iter().filter(|word| !no.contains(word)).collect(), no })),
        }
    }

    /// Parses a cell.
    pub fn parse(&self, cell: &str) -> Option<bool> {
        let cell = cell.to_lowercase();
        match (self.yes.contains(&cell), self.no.contains(&cell)) {
            (true, _) => Some(true),
            (_, true) => Some(false),
            _ => None,
        }
    }
}

/// The values that a column may have.
#[derive(Debug)]
pub struct AllowedValues {
    values: Vec<String>,
    /// The index of each value.
    exact: HashMap<String, usize>,
    /// The index of each value in lower case; `None` if it stands for several values, or case matters.
    lower: HashMap<String, Option<usize>>,
}

impl AllowedValues {
    /// Creates the list. With `any_case` a cell may be written in another case than the value.
    pub fn new(values: &[String], any_case: bool) -> Self {
        let (mut exact, mut lower) = (HashMap::new(), HashMap::new());
        for (index, value) in values.iter().enumerate() {
            exact.entry(value.clone()).or_insert(index);
            if any_case {
                lower.entry(value.to_lowercase()).and_modify(|other| *other = None).or_insert(Some(index));
            }
        }
        Self { values: values.to_vec(), exact, lower }
    }

    /// Finds the value that a cell stands for.
    pub fn find(&self, cell: &str) -> Option<&str> {
        let index = self.exact.get(cell).copied();
        let index = index.or_else(|| if self.lower.is_empty() { None } else { *self.lower.get(&cell.to_lowercase())? });
        index.map(|index| self.values[index].as_str())
    }

    /// Lists the values for a message.
    pub fn describe(&self) -> String {
        let some = self.values.iter().take(10).map(|value| format!("`{value}`")).collect::<Vec<_>>().join(", ");
        let more = if self.values.len() > 10 { ", …" } else { "" };
        format!("{some}{more}")
    }
}
