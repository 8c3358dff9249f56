//! Points at which a process can be made to die, so that tests can prove what a crash leaves behind.
//!
//! `crash_point!("end.before_commit")` is nothing in a release build, unless the feature `crash-points` is on. Elsewhere it
//! does nothing either until [`arm`] has said which point is deadly. Points stand at both sides of everything that lasts:
//! commits, renames, deletions, mails.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock, PoisonError};

/// Passes a point by its name, perhaps with whose point it is: `crash_point!("step.start", &step.id)`.
macro_rules! crash_point {
    ($name:literal) => {
        crash_point!($name, "")
    };
    ($name:literal, $of:expr) => {{
        #[cfg(any(debug_assertions, feature = "crash-points"))]
        $crate::crash::pass($name, $of);
    }};
}

static ARMED: OnceLock<Mutex<Armed>> = OnceLock::new();

/// What makes this process die, and what it has passed.
struct Armed {
    at: At,
    log: Option<File>,
    wanted: String,
    passed: HashMap<String, u32>,
}

/// Where it says which point is deadly.
enum At {
    Never,
    Said(String),
    File(PathBuf),
}

/// Arms this process. `at` is `N` for the point passed as the `N`th, `NAME` or `NAME#N` for the first or `N`th time that a
/// point of this name is passed, or `@FILE` for a file that says one of these: it is looked at whenever a point is
/// passed, counts from when it is written, and is gone before the process is (its first line counts, others only tell one
/// writing from the next). `log` is a file to which the name of every point passed is added as a line.
///
/// # Errors
/// That the log cannot be opened.
pub fn arm(at: Option<&str>, log: Option<&Path>) -> io::Result<()> {
    let at = match at.map(|at| at.strip_prefix('@').ok_or(at)) {
        None => At::Never,
        Some(Ok(file)) => At::File(file.into()),
        Some(Err(at)) => At::Said(at.to_owned()),
    };
    let log = log.map(|path| File::options().create(true).append(true).open(path)).transpose()?;
    let armed = Armed { at, log, wanted: String::new(), passed: HashMap::new() };
    // A process is armed once, at its start.
    drop(ARMED.set(Mutex::new(armed)));
    Ok(())
}

/// Passes a point; see `crash_point!`.
pub fn pass(name: &str, of: &str) {
    let Some(armed) = ARMED.get() else { return };
    let mut armed = armed.lock().unwrap_or_else(PoisonError::into_inner);
    if armed.is_deadly(name, of) {
        if let At::File(file) = &armed.at {
            // Whoever comes after this process is to live.
            drop(fs::remove_file(file));
        }
        std::process::abort();
    }
}

impl Armed {
    fn is_deadly(&mut self, name: &str, of: &str) -> bool {
        let whole = if of.is_empty() { name.to_owned() } else { format!("{name} {of}") };
        if let Some(log) = &mut self.log {
            // One write, so that lines of several processes do not mix.
            drop(log.write_all(format!("{whole}\n").as_bytes()));
        }
        let wanted = match &self.at {
            At::Never => return false,
            At::Said(at) => at.clone(),
            At::File(file) => fs::read_to_string(file).unwrap_or_default(),
        };
        if wanted != self.wanted {
            self.passed.clear();
            self.wanted = wanted;
        }
        let mut count = |point: &str| {
            let passed = self.passed.entry(point.to_owned()).or_default();
            *passed += 1;
            *passed
        };
        let (all, of_name, of_whole) = (count(""), count(&format!("{name}/")), count(&whole));
        let wanted = self.wanted.lines().next().unwrap_or_default();
        let (point, nth) = wanted.split_once('#').unwrap_or((wanted, "1"));
        let nth: u32 = nth.parse().unwrap_or(0);
        point.parse() == Ok(all) || point == name && nth == of_name || point == whole && nth == of_whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of these points would have been deadly.
    fn deadly(at: &str, points: &[(&str, &str)]) -> Vec<usize> {
        let at = At::Said(at.into());
        let mut armed = Armed { at, log: None, wanted: String::new(), passed: HashMap::new() };
        let dies = |(index, (name, of)): (usize, &(&str, &str))| armed.is_deadly(name, of).then_some(index);
        points.iter().enumerate().filter_map(dies).collect()
    }

    #[test]
    fn a_point_is_known_by_its_number_its_name_or_whose_it_is() {
        let points = [("a", ""), ("b", "x"), ("a", ""), ("b", "y"), ("b", "x")];
        assert_eq!(deadly("3", &points), [2]);
        assert_eq!(deadly("a", &points), [0]);
        assert_eq!(deadly("a#2", &points), [2]);
        assert_eq!(deadly("b#3", &points), [4]);
        assert_eq!(deadly("b y", &points), [3]);
        assert_eq!(deadly("b x#2", &points), [4]);
        assert!(deadly("c", &points).is_empty());
        assert!(deadly("", &points).is_empty());
    }
}
