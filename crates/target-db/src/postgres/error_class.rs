//! Which errors of PostgreSQL concern one row, and which concern the whole load.
//!
//! A trigger may raise any SQLSTATE, and the types of extensions raise what they like. So the lists name the classes that
//! no row causes; every other error is the fault of a row.

/// The classes that no row causes: connection, transaction, rollback, resources, shutdown, system and the like.
pub(super) const NEVER_OF_A_ROW: [&str; 13] =
    ["08", "25", "26", "28", "2D", "34", "3B", "40", "53", "57", "58", "72", "F0"];
/// The classes that a row causes only if one of its cells alone cannot be converted: features that are not supported,
/// names that do not exist, objects in another state, foreign servers, and internal errors. `hstore` of PostgreSQL 15
/// raises an internal error for text that it cannot read.
pub(super) const DOUBTFUL: [&str; 6] = ["0A", "3D", "3F", "55", "HV", "XX"];
/// The class of names, syntax and permissions. A row may cause it (`regclass`, `hstore`, a policy), and so may a table
/// that was dropped or a right that was taken away.
const NAMES_AND_RIGHTS: &str = "42";

/// Whether an error may be the fault of a row, so that the rows have to be tried one by one.
pub(super) fn may_concern_row(state: &str) -> bool {
    state.len() == 5 && !NEVER_OF_A_ROW.contains(&class_of(state))
}

/// Whether an error is the fault of a row only if one of its cells alone meets it.
pub(super) fn is_doubtful(state: &str) -> bool {
    DOUBTFUL.contains(&class_of(state))
}

/// Whether an error that a single row met may also be the fault of the statement.
pub(super) fn may_concern_statement(state: &str) -> bool {
    class_of(state) == NAMES_AND_RIGHTS
}

/// The first two characters.
fn class_of(state: &str) -> &str {
    state.get(..2).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_of_rows_differ_from_those_of_the_load() {
        let rows = [
            "21000", "22001", "22003", "22007", "22021", "22P02", "22P05", "23502", "23503", "23505", "23514", "23P01",
            "27000", "42501", "42601", "428C9", "44000", "54000", "P0001", "P0004", "ZZ001", "XX000", "0A000", "38001",
        ];
        for state in rows {
            assert!(may_concern_row(state), "{state}");
        }
        let load =
            ["08006", "25006", "28000", "40001", "40P01", "53100", "53300", "57014", "57P01", "58030", "72000", ""];
        for state in load {
            assert!(!may_concern_row(state), "{state}");
        }
    }

    #[test]
    fn names_and_rights_may_concern_the_statement() {
        assert!(may_concern_statement("42P01") && may_concern_statement("42501"));
        assert!(!may_concern_statement("23505") && !may_concern_statement("ZZ001"));
    }
}
