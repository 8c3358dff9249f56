//! The deadlines of a run and the reasons why its steps are stopped, stored in the row of the run.

use super::tx::DbRow;
use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;

/// Why the steps of a run are stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunStop {
    /// A cancel was requested. Only `finally` still runs.
    Cancelled,
    /// A deadline has passed. `on_failure` and `finally` still run.
    TimedOut,
}

impl RunStop {
    /// True if the steps of this section are stopped, and none of them starts any more.
    pub fn stops_section(self, section: &str) -> bool {
        match self {
            Self::Cancelled => section != "finally",
            Self::TimedOut => matches!(section, "steps" | "on_success"),
        }
    }
}

/// The condition that a run stops the steps of a section. `section` is a placeholder or an expression.
pub(super) fn section_is_stopped_sql(section: &str) -> String {
    format!(
        "(cancel_requested_at IS NOT NULL AND {section} <> 'finally'
          OR timed_out_at IS NOT NULL AND {section} IN ('steps', 'on_success'))"
    )
}

/// The deadlines of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunDeadlines {
    /// Until when the first step must have started.
    pub queue: Option<UnixMillis>,
    /// Until when the run must have ended.
    pub end: Option<UnixMillis>,
}

impl RunDeadlines {
    /// The first deadline.
    pub fn first(self) -> Option<UnixMillis> {
        self.queue.into_iter().chain(self.end).min()
    }
}

/// The columns that [`deadlines_from_row`] reads, and when the run timed out.
pub(super) const DEADLINE_COLUMNS: &str = "queue_deadline_at, deadline_at, timed_out_at";

pub(super) fn deadlines_from_row(row: &DbRow) -> Result<RunDeadlines> {
    Ok(RunDeadlines { queue: row.get_opt_int("queue_deadline_at")?, end: row.get_opt_int("deadline_at")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeout_stops_what_comes_before_the_outcome() {
        let stopped =
            |stop: RunStop| ["steps", "on_success", "on_failure", "finally"].map(|section| stop.stops_section(section));
        assert_eq!(stopped(RunStop::TimedOut), [true, true, false, false]);
        assert_eq!(stopped(RunStop::Cancelled), [true, true, true, false]);
    }

    #[test]
    fn first_deadline_is_the_earlier_one() {
        assert_eq!(RunDeadlines::default().first(), None);
        assert_eq!(RunDeadlines { queue: Some(5), end: None }.first(), Some(5));
        assert_eq!(RunDeadlines { queue: Some(5), end: Some(3) }.first(), Some(3));
    }
}
