//! Failpoints: named places where tests abort the process, to prove what a crash leaves behind.
//!
//! `failpoint!("end.before_commit")` costs one atomic load until [`configure`] is called. Failpoints stand before and
//! after everything durable: commits, renames, deletions, mails.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Reaches a failpoint, optionally with the step or object it belongs to: `failpoint!("step.start", &step.id)`.
#[macro_export]
macro_rules! failpoint {
    ($name:literal) => {
        $crate::failpoint!($name, "")
    };
    ($name:literal, $subject:expr) => {
        if $crate::failpoint::is_configured() {
            $crate::failpoint::hit($name, $subject);
        }
    };
}

/// True after [`configure`]. A process without failpoints reads nothing else.
static CONFIGURED: AtomicBool = AtomicBool::new(false);
static STATE: OnceLock<Mutex<FailpointState>> = OnceLock::new();

/// Which failpoint aborts the process, and which were reached.
struct FailpointState {
    trigger: Trigger,
    log: Option<File>,
    active_spec: String,
    hit_counts: HashMap<String, u32>,
}

/// Where the failpoint to abort at comes from.
enum Trigger {
    Disabled,
    Point(String),
    File(PathBuf),
}

/// Configures the failpoints of this process. `at` selects the failpoint that aborts it:
///
/// - `N`: the `N`th failpoint that the process reaches,
/// - `NAME` or `NAME#N`: the first or `N`th time that it reaches the failpoint `NAME`,
/// - `@FILE`: a file that holds one of these.
///
/// The file is read at every failpoint, and counting starts when it is written. Only its first line counts; other lines
/// make one write differ from the next. The file is removed before the process aborts. `log` is a file that receives
/// the name of every failpoint reached, one per line.
///
/// # Errors
/// Fails if the log cannot be opened.
pub fn configure(at: Option<&str>, log: Option<&Path>) -> io::Result<()> {
    let trigger = match at.map(|at| at.strip_prefix('@').ok_or(at)) {
        None => Trigger::Disabled,
        Some(Ok(file)) => Trigger::File(file.into()),
        Some(Err(at)) => Trigger::Point(at.to_owned()),
    };
    let log = log.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
    let state = FailpointState { trigger, log, active_spec: String::new(), hit_counts: HashMap::new() };
    // Ignores a second call: a process configures its failpoints once, at its start.
    drop(STATE.set(Mutex::new(state)));
    CONFIGURED.store(true, Ordering::Relaxed);
    Ok(())
}

/// True if failpoints are configured in this process.
pub fn is_configured() -> bool {
    CONFIGURED.load(Ordering::Relaxed)
}

/// Reaches a failpoint; called by `failpoint!`.
pub fn hit(name: &str, of: &str) {
    let Some(state) = STATE.get() else { return };
    let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
    if state.record_hit(name, of) {
        if let Trigger::File(file) = &state.trigger {
            // The next process with this file must survive.
            drop(fs::remove_file(file));
        }
        std::process::abort();
    }
}

impl FailpointState {
    fn record_hit(&mut self, name: &str, of: &str) -> bool {
        let whole = if of.is_empty() { name.to_owned() } else { format!("{name} {of}") };
        if let Some(log) = &mut self.log {
            // One write per line, so that lines of several processes do not mix.
            drop(log.write_all(format!("{whole}\n").as_bytes()));
        }
        let wanted = match &self.trigger {
            Trigger::Disabled => return false,
            Trigger::Point(at) => at.clone(),
            Trigger::File(file) => fs::read_to_string(file).unwrap_or_default(),
        };
        if wanted != self.active_spec {
            self.hit_counts.clear();
            self.active_spec = wanted;
        }
        let mut count = |point: &str| {
            let passed = self.hit_counts.entry(point.to_owned()).or_default();
            *passed += 1;
            *passed
        };
        let (all, of_name, of_whole) = (count(""), count(&format!("{name}/")), count(&whole));
        let wanted = self.active_spec.lines().next().unwrap_or_default();
        let (point, nth) = wanted.split_once('#').unwrap_or((wanted, "1"));
        let nth: u32 = nth.parse().unwrap_or(0);
        point.parse() == Ok(all) || point == name && nth == of_name || point == whole && nth == of_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The indexes of the points that abort the process.
    fn aborting_points(at: &str, points: &[(&str, &str)]) -> Vec<usize> {
        let trigger = Trigger::Point(at.into());
        let mut state = FailpointState { trigger, log: None, active_spec: String::new(), hit_counts: HashMap::new() };
        let dies = |(index, (name, of)): (usize, &(&str, &str))| state.record_hit(name, of).then_some(index);
        points.iter().enumerate().filter_map(dies).collect()
    }

    #[test]
    fn a_failpoint_is_selected_by_number_name_or_subject() {
        let points = [("a", ""), ("b", "x"), ("a", ""), ("b", "y"), ("b", "x")];
        assert_eq!(aborting_points("3", &points), [2]);
        assert_eq!(aborting_points("a", &points), [0]);
        assert_eq!(aborting_points("a#2", &points), [2]);
        assert_eq!(aborting_points("b#3", &points), [4]);
        assert_eq!(aborting_points("b y", &points), [3]);
        assert_eq!(aborting_points("b x#2", &points), [4]);
        assert!(aborting_points("c", &points).is_empty());
        assert!(aborting_points("", &points).is_empty());
    }
}
