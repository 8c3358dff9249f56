//! Why the database refuses a row, in plain words: the column, the value and the rule. Both databases use these words.

use crate::batch::RowBatch;
use crate::bulk_load::{LoadPlan, RowRefusal};
use crate::codes;
use crate::table::mentions_column;
use afterload_core::error::ErrorCode;

/// The most characters of a value that a message shows.
const MAX_VALUE_CHARS: usize = 80;

/// A row that the database refuses.
#[derive(Clone, Copy)]
pub(crate) struct RefusedRow<'a> {
    pub(crate) plan: &'a LoadPlan,
    pub(crate) rows: &'a RowBatch,
    pub(crate) row: usize,
}

impl RefusedRow<'_> {
    /// Another row has the same value in these columns.
    pub(crate) fn duplicate(&self, columns: &[String]) -> RowRefusal {
        let message = match columns {
            [] => "a row with the same key is already there".to_owned(),
            [column] => match self.value_of(column) {
                Some(value) => format!("a row with the `{column}` `{value}` is already there"),
                None => format!("a row with the same `{column}` is already there"),
            },
            columns => format!("a row with the same {} is already there", list_names(columns)),
        };
        self.refusal(codes::CONFLICT, single(columns), message)
    }

    /// Another row rules this one out, by an exclusion constraint of these columns.
    pub(crate) fn excluded(&self, columns: &[String], constraint: &str) -> RowRefusal {
        let message = format!("a row that `{constraint}` does not allow beside this one is already there");
        self.refusal(codes::CONFLICT, single(columns), message)
    }

    /// The columns refer to a row that is not there. `table` and `referenced` name where it should be.
    pub(crate) fn missing_reference(&self, columns: &[String], table: &str, referenced: &[String]) -> RowRefusal {
        let message = match (columns, referenced) {
            ([column], [referenced]) => match self.value_of(column) {
                Some(value) => format!("no row of `{table}` has the `{referenced}` `{value}`"),
                None => format!("no row of `{table}` has this `{referenced}`"),
            },
            (_, []) => format!("no row of `{table}` has this key"),
            (_, referenced) => format!("no row of `{table}` has these {}", list_names(referenced)),
        };
        self.refusal(codes::REFERENCE_MISSING, single(columns), message)
    }

    /// The column needs a value.
    pub(crate) fn missing_value(&self, column: &str) -> RowRefusal {
        self.refusal(codes::DATABASE_REFUSED, column, format!("`{column}` must have a value"))
    }

    /// The columns break a check constraint.
    pub(crate) fn broken_check(&self, columns: &[String], constraint: &str) -> RowRefusal {
        let column = single(columns);
        let message = match self.value_of(column) {
            Some(value) => format!("`{value}` breaks the check constraint `{constraint}`"),
            None => format!("the row breaks the check constraint `{constraint}`"),
        };
        self.refusal(codes::DATABASE_REFUSED, column, message)
    }

    /// The row refers to others that refer to it, so they are loaded together, and the database refused one of them.
    pub(crate) fn broken_circle(&self, message: &str) -> RowRefusal {
        let message = format!("the row refers in a circle to others, and one of them was refused: {message}");
        self.refusal(codes::DATABASE_REFUSED, "", message)
    }

    /// Any other reason, in the words of the database.
    pub(crate) fn other_reason(&self, column: &str, message: &str) -> RowRefusal {
        self.refusal(codes::DATABASE_REFUSED, column, message.to_owned())
    }

    /// The loaded value of a column. `None` if it is null or not loaded.
    fn value_of(&self, column: &str) -> Option<String> {
        let index = self.plan.columns.iter().position(|(loaded, _)| loaded.name == column)?;
        let mut text = String::new();
        self.rows.render_cell(self.rows.row_cells(self.row)[index], &mut text);
        if text.is_empty() {
            return None;
        }
        Some(match text.char_indices().nth(MAX_VALUE_CHARS) {
            Some((end, _)) => format!("{}…", &text[..end]),
            None => text,
        })
    }

    fn refusal(&self, code: ErrorCode, column: &str, message: String) -> RowRefusal {
        RowRefusal { row: self.row, code, column: column.to_owned(), message }
    }
}

/// The column of a rule that concerns just one. A rule of several columns blames none of them.
fn single(columns: &[String]) -> &str {
    match columns {
        [column] => column,
        _ => "",
    }
}

fn list_names(names: &[String]) -> String {
    names.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")
}

/// Finds the loaded columns that an expression of the database names.
pub(crate) fn mentioned_columns(plan: &LoadPlan, expression: &str) -> Vec<String> {
    let names = plan.columns.iter().map(|(column, _)| column.name.clone());
    names.filter(|name| mentions_column(expression, name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::BatchCell;

    #[test]
    fn refusals_name_column_value_and_rule() {
        let plan = LoadPlan::of_texts("t", &["email", "age"]);
        let mut rows = RowBatch::new(2);
        rows.text_buffer.extend_from_slice("é".repeat(100).as_bytes());
        rows.cells = vec![RowBatch::text_cell(0..6), BatchCell::Null, RowBatch::text_cell(0..200), BatchCell::Int(13)];
        let row = |row| RefusedRow { plan: &plan, rows: &rows, row };
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let shown = |refusal: RowRefusal| format!("{} {}: {}", refusal.code, refusal.column, refusal.message);
        let (email, age, both) = (names(&["email"]), names(&["age"]), names(&["email", "age"]));
        let found = [
            row(0).duplicate(&email),
            row(0).duplicate(&both),
            row(0).duplicate(&[]),
            row(0).duplicate(&age),
            row(1).missing_reference(&age, "people", &names(&["id"])),
            row(1).missing_reference(&both, "people", &names(&["a", "b"])),
            row(1).broken_check(&age, "adult"),
            row(1).broken_check(&both, "adult"),
            row(0).missing_value("age"),
        ];
        let expected = [
            "conflict email: a row with the `email` `ééé` is already there",
            "conflict : a row with the same `email`, `age` is already there",
            "conflict : a row with the same key is already there",
            "conflict age: a row with the same `age` is already there",
            "reference_missing age: no row of `people` has the `id` `13`",
            "reference_missing : no row of `people` has these `a`, `b`",
            "database_refused age: `13` breaks the check constraint `adult`",
            "database_refused : the row breaks the check constraint `adult`",
            "database_refused age: `age` must have a value",
        ];
        assert_eq!(found.map(shown), expected);
        let long = row(1).duplicate(&email).message;
        assert!(long.contains(&format!("`{}…`", "é".repeat(MAX_VALUE_CHARS))), "{long}");
    }
}
