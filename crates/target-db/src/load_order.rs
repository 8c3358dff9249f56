//! The order in which rows of a batch are loaded one by one: a row follows the rows of the batch that it refers to.
//!
//! A file may name children before their parents. As long as one statement loads all rows, the database checks the
//! references at its end. Rows that are loaded one by one must be in an order in which each finds what it refers to.

use std::collections::HashMap;

use crate::batch::{BatchCell, RowBatch};
use crate::bulk_load::LoadPlan;

/// All rows of a batch, each once.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LoadOrder {
    /// The rows that can be loaded one by one.
    pub(crate) singles: Vec<usize>,
    /// The rows that refer to each other in a circle, with those that depend on them. Each circle is loaded as a whole,
    /// after the other rows.
    pub(crate) circles: Vec<Vec<usize>>,
}

/// A reference between loaded columns, as indexes of cells.
struct CellReference {
    from: Vec<usize>,
    to: Vec<usize>,
}

impl LoadOrder {
    /// Orders the rows of a batch. Without references to the same table it is the order of the file.
    pub(crate) fn new(plan: &LoadPlan, rows: &RowBatch) -> Self {
        let index = |name: &String| plan.columns.iter().position(|(column, _)| column.name == *name);
        let references = plan.table.self_references.iter().filter_map(|reference| {
            let from = reference.columns.iter().map(index).collect::<Option<Vec<_>>>()?;
            let to = reference.referenced.iter().map(index).collect::<Option<Vec<_>>>()?;
            Some(CellReference { from, to })
        });
        Self::from_references(rows, &references.collect::<Vec<_>>())
    }

    fn from_references(rows: &RowBatch, references: &[CellReference]) -> Self {
        let count = rows.row_count();
        if references.is_empty() {
            return Self { singles: (0..count).collect(), circles: Vec::new() };
        }
        let parents = references.iter().map(|reference| find_parents(rows, reference)).collect::<Vec<_>>();
        let mut order = Self::default();
        let (mut done, mut missing) = (vec![false; count], vec![0_usize; count]);
        let mut children = vec![Vec::new(); count];
        for row in 0..count {
            for parent in parents.iter().filter_map(|parents| parents[row]) {
                if parent != row && !done[parent] {
                    missing[row] += 1;
                    children[parent].push(row);
                }
            }
            let mut ready = if missing[row] == 0 { vec![row] } else { Vec::new() };
            while let Some(row) = ready.pop() {
                done[row] = true;
                order.singles.push(row);
                for child in std::mem::take(&mut children[row]).into_iter().rev() {
                    missing[child] -= 1;
                    if missing[child] == 0 {
                        ready.push(child);
                    }
                }
            }
        }
        order.circles = connected_groups(&done, &children);
        order
    }
}

/// Finds for each row the row of the batch that it refers to: the last one with this key.
fn find_parents(rows: &RowBatch, reference: &CellReference) -> Vec<Option<usize>> {
    let keys = (0..rows.row_count()).filter_map(|row| Some((key_text(rows, row, &reference.to)?, row)));
    let by_key = keys.collect::<HashMap<_, _>>();
    let parent = |row| by_key.get(&key_text(rows, row, &reference.from)?).copied();
    (0..rows.row_count()).map(parent).collect()
}

/// The cells of a key as text. `None` if one of them is null, because such a key refers to nothing.
fn key_text(rows: &RowBatch, row: usize, cells: &[usize]) -> Option<String> {
    let mut text = String::new();
    for cell in cells {
        let cell = rows.row_cells(row)[*cell];
        if cell == BatchCell::Null {
            return None;
        }
        rows.render_cell(cell, &mut text);
        // Cells hold no NUL, so it separates them.
        text.push('\0');
    }
    Some(text)
}

/// Groups the rows that are not done. Two rows are in one group if one of them, over any others, waits for the other.
fn connected_groups(done: &[bool], children: &[Vec<usize>]) -> Vec<Vec<usize>> {
    let mut neighbors = vec![Vec::new(); done.len()];
    for (parent, children) in children.iter().enumerate() {
        for child in children {
            neighbors[parent].push(*child);
            neighbors[*child].push(parent);
        }
    }
    let (mut seen, mut groups) = (done.to_vec(), Vec::new());
    for first in 0..done.len() {
        let (mut group, mut open) = (Vec::new(), vec![first]);
        while let Some(row) = open.pop() {
            if !std::mem::replace(&mut seen[row], true) {
                group.push(row);
                open.extend(&neighbors[row]);
            }
        }
        group.sort_unstable();
        groups.extend((!group.is_empty()).then_some(group));
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Orders rows of the columns `id` and `parent`; 0 stands for null.
    fn order(pairs: &[(i64, i64)]) -> LoadOrder {
        let mut rows = RowBatch::new(2);
        let cell = |value| if value == 0 { BatchCell::Null } else { BatchCell::Int(value) };
        rows.cells.extend(pairs.iter().flat_map(|(id, parent)| [cell(*id), cell(*parent)]));
        LoadOrder::from_references(&rows, &[CellReference { from: vec![1], to: vec![0] }])
    }

    #[test]
    fn children_follow_their_parents_and_others_keep_their_place() {
        assert_eq!(order(&[(2, 1), (9, 0), (1, 0), (3, 2)]).singles, [1, 2, 0, 3]);
        assert_eq!(order(&[(1, 2), (2, 3), (3, 4), (4, 0), (5, 77)]).singles, [3, 2, 1, 0, 4]);
        assert_eq!(order(&[(1, 1), (2, 1), (0, 2)]).singles, [0, 1, 2], "a row may refer to itself");
        let repeated = order(&[(3, 1), (1, 0), (4, 1), (1, 0)]);
        assert_eq!(repeated.singles, [1, 3, 0, 2], "a child follows the last row of its key");
    }

    #[test]
    fn rows_in_a_circle_are_grouped() {
        let found = order(&[(1, 2), (2, 1), (3, 0), (4, 5), (6, 4), (5, 4), (7, 3)]);
        assert_eq!(found, LoadOrder { singles: vec![2, 6], circles: vec![vec![0, 1], vec![3, 4, 5]] });
    }

    #[test]
    fn long_chains_take_linear_time() {
        let pairs = (1..=50_000).map(|id| (id, if id == 50_000 { 0 } else { id + 1 })).collect::<Vec<_>>();
        let found = order(&pairs);
        assert_eq!(found.singles.len(), 50_000);
        assert_eq!((found.singles[0], found.singles[49_999]), (49_999, 0));
    }
}
