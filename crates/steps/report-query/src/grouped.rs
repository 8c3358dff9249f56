//! Splits a report into one file per value of a column.

use std::collections::{BTreeSet, HashSet};

use tokio::sync::mpsc;

use super::columns::unknown_column_error;
use super::upload::NewFile;
use super::writer::{ReportCounts, ReportSpec, ReportVisitor, ReportWriter};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_target_db::{CellType, RowVisitor};

/// The maximum length of the value of a group, in bytes. All of them become outputs of the step.
const MAX_GROUP_KEY_BYTES: usize = 1000;

/// The value of a group; `None` for null.
type GroupKey = Option<Vec<u8>>;

/// How rows are grouped.
pub struct GroupSpec {
    /// The column whose values are the groups.
    pub column: String,
    /// The maximum number of groups.
    pub max_groups: usize,
}

/// Writes a file for each group. The rows arrive group by group, each with its value in front.
pub struct GroupedWriter {
    report: ReportWriter,
    groups: GroupSpec,
    current: Option<GroupKey>,
    /// All groups, so that one that comes again is found.
    keys: HashSet<GroupKey>,
    used_names: BTreeSet<String>,
    /// Whether the next cell is the value of the group.
    expects_key: bool,
    /// Why no file could be started. The end of the row reports it.
    error: Option<Error>,
}

impl GroupedWriter {
    /// Creates a writer. The first row starts the first file.
    pub fn new(spec: ReportSpec, groups: GroupSpec, files: mpsc::Sender<NewFile>) -> Self {
        Self {
            report: ReportWriter::new(spec, files),
            groups,
            current: None,
            keys: HashSet::new(),
            used_names: BTreeSet::new(),
            expects_key: true,
            error: None,
        }
    }

    fn start_group(&mut self, key: Option<&[u8]>) -> Result<()> {
        self.report.finish_file()?;
        let most = self.groups.max_groups;
        if self.keys.len() == most {
            return Err(Error::new(codes::REPORT_TOO_MANY_GROUPS, format!("the query gives more than {most} groups")));
        }
        if let Some(long) = key.filter(|key| key.len() > MAX_GROUP_KEY_BYTES) {
            let message = format!("the value of a group has {} bytes", long.len());
            return Err(Error::new(codes::REPORT_GROUP_KEY_TOO_LONG, message));
        }
        let key: GroupKey = key.map(<[u8]>::to_vec);
        let text = key.as_deref().map(|key| String::from_utf8_lossy(key).into_owned());
        if !self.keys.insert(key.clone()) {
            let shown = text.unwrap_or_default();
            let message = format!("the rows of the group `{shown}` are not together");
            return Err(Error::new(codes::REPORT_GROUPS_UNORDERED, message));
        }
        let name = self.report.name().for_group(text.as_deref(), &mut self.used_names);
        self.report.set_count("groups", self.keys.len() as u64);
        self.report.start_file(&name, text)?;
        self.current = Some(key);
        Ok(())
    }
}

impl ReportVisitor for GroupedWriter {
    fn finish(self) -> Result<ReportCounts> {
        self.report.finish()
    }
}

impl RowVisitor for GroupedWriter {
    fn visit_columns(&mut self, columns: &[String], expected: Option<u64>) -> Result<()> {
        let column = &self.groups.column;
        if !columns.contains(column) {
            return Err(unknown_column_error(column, columns, "group_by"));
        }
        // SQLite does not tell names apart by their case.
        if columns.iter().filter(|name| name.eq_ignore_ascii_case(column)).count() > 1 {
            let message = format!("the query gives more than one column `{column}`, by which its rows are grouped");
            return Err(Error::new(codes::REPORT_COLUMNS_REPEATED, message));
        }
        self.report.set_columns(columns, expected)
    }

    fn visit_cell(&mut self, cell: Option<(CellType, &[u8])>) {
        if !std::mem::take(&mut self.expects_key) {
            return self.report.visit_cell(cell);
        }
        let key = cell.map(|(_, key)| key);
        let same = self.current.as_ref().is_some_and(|current| current.as_deref() == key);
        if !same && let Err(error) = self.start_group(key) {
            self.error = Some(error);
        }
    }

    fn end_row(&mut self) -> Result<()> {
        self.expects_key = true;
        match self.error.take() {
            Some(error) => Err(error),
            None => self.report.end_row(),
        }
    }
}
