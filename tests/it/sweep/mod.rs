//! The crash sweep. Everything durable has a failpoint before and after it. Each registered kind runs once undisturbed.
//! Then it runs again for every failpoint that it passed: the process crashes there and is restarted. The result must
//! be the same: runs, steps, outputs, files by their bytes, and every row of the application's database. External
//! effects may repeat at most once per crash, with the same id.
#![expect(clippy::print_stdout, reason = "what it prints is the table")]

pub mod fixture;
pub mod http;
mod paths;
mod pipelines;
pub mod seen;
pub mod stage;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Mutex;

use serde_json::Value;

use self::seen::Done;
use self::stage::Stage;
use crate::soak::{figure, full};
use crate::support::{Database, both};

both!(
    every_kind_survives_crashes_1,
    every_kind_survives_crashes_2,
    every_kind_survives_crashes_3,
    every_kind_survives_crashes_4
);

/// The kinds are split over this many tests, each with its own processes.
const GROUPS: usize = 4;
/// The number of stages that each test runs in parallel.
const LANES: usize = 2;
/// Some failpoints are passed in one run but not in the next: whether a sweep or a commit comes first depends on the
/// machine. So a few misses prove nothing, and each failpoint is tried this often.
const MAX_ATTEMPTS: usize = 12;
/// The same for failpoints that may be missed altogether.
const MAX_ATTEMPTS_BY_CHANCE: usize = 3;
/// Failpoints that depend on timing: a quick step may end before its progress is stored.
const BY_CHANCE: &str = "progress.";

async fn every_kind_survives_crashes_1(database: Database) {
    kinds_of(database, 0).await;
}

async fn every_kind_survives_crashes_2(database: Database) {
    kinds_of(database, 1).await;
}

async fn every_kind_survives_crashes_3(database: Database) {
    kinds_of(database, 2).await;
}

async fn every_kind_survives_crashes_4(database: Database) {
    kinds_of(database, 3).await;
}

async fn kinds_of(database: Database, group: usize) {
    let in_group = |index: usize| index % GROUPS == group;
    let mut stages = futures::future::join_all((0..LANES).map(|_| Stage::new(database, in_group))).await;
    for index in (0..stages[0].samples.len()).filter(|index| in_group(*index)) {
        sweep(&mut stages, &Play::Sample(index)).await;
    }
    futures::future::join_all(stages.into_iter().map(Stage::finish)).await;
}

/// A subject of the sweep.
pub enum Play {
    /// A run of the sample with this number.
    Sample(usize),
    /// A way by which runs start, stop or are deleted.
    Path(paths::Path),
}

impl Play {
    fn name(&self, stage: &Stage) -> String {
        match self {
            Self::Sample(index) => stage.samples[*index].name.clone(),
            Self::Path(path) => format!("{path:?}"),
        }
    }

    /// The maximum number of parallel external effects.
    fn at_once(&self) -> usize {
        match self {
            Self::Sample(_) => 1,
            Self::Path(path) => path.at_once(),
        }
    }

    /// A number of its own among the subjects of its sort.
    fn number(&self) -> usize {
        match self {
            Self::Sample(index) => *index,
            Self::Path(path) => *path as usize,
        }
    }

    /// Runs it to its end and returns everything that is visible of it.
    async fn play(&self, stage: &mut Stage, key: &str) -> (Value, [Done; 2]) {
        // Paths leave the tables of the fixture as they are.
        let mark = match self {
            Self::Sample(_) => stage.reset().await,
            Self::Path(_) => stage.mark(),
        };
        let ids = match self {
            Self::Sample(index) => {
                let (name, params) = (stage.samples[*index].name.clone(), stage.samples[*index].params.clone());
                let id = stage.start(&name, &params, key).await;
                let run = stage.ended(&id).await;
                let unfit = "the world of tests/it/sweep/fixture.rs lacks what its example needs";
                assert_eq!(run["status"], "succeeded", "{name} fails; {unfit}? {run:#}\n{}", stage.log());
                vec![id]
            }
            Self::Path(path) => path.play(stage, key).await,
        };
        // Failpoints right after the end may still be pending.
        for _ in 0..20 {
            if !stage.is_armed() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        stage.seen(&ids, &mark).await
    }
}

/// Numbers the passes of each failpoint, such as `store.after_commit#2`.
fn numbered(points: Vec<String>) -> Vec<String> {
    let mut passed = BTreeMap::new();
    let number = |point: String| {
        let count: &mut u32 = passed.entry(point.clone()).or_default();
        *count += 1;
        format!("{point}#{count}")
    };
    points.into_iter().map(number).collect()
}

/// The name of a numbered failpoint.
fn failpoint_name(point: &str) -> &str {
    point.split('#').next().unwrap_or_default()
}

/// Failpoints inside of an attempt.
const INSIDE: [&str; 10] =
    ["checkpoint.", "chunk.", "csv.", "delivery.", "effect.", "file.", "link.", "progress.", "statement.", "step."];
/// Failpoints around an attempt that every path passes in the same code.
const AROUND: [&str; 3] = ["claim.", "end.", "sweep."];
/// Where the attempt of a sample's own step begins. Steps before it are other kinds, with samples of their own.
const OWN_STEP: &str = "step.start sample";
/// In the short form, each subject tries one in this many of the failpoints that all subjects share.
const SHARES: usize = 4;

/// Selects the failpoints. The full form crashes at each pass of each.
///
/// The short form crashes once, on both databases, at each failpoint that belongs to the subject: to the attempt of a
/// kind's own step, or to the way by which a path starts, stops or deletes runs. The code around an attempt is the same
/// for all, so its failpoints are dealt out over the subjects.
fn chosen(play: &Play, database: Database, points: Vec<String>) -> Vec<String> {
    if full() {
        return points;
    }
    let begins = |point: &str, prefixes: &[&str]| prefixes.iter().any(|prefix| point.starts_with(prefix));
    let shared = |point: &str| match play {
        Play::Sample(_) => !begins(point, &INSIDE),
        Play::Path(_) => begins(point, &AROUND),
    };
    let first_passes = points.iter().filter(|point| point.ends_with("#1") && shared(point));
    let dealt: BTreeSet<String> = first_passes.cloned().collect();
    let dealt = dealt.into_iter().enumerate().filter(|(at, _)| is_dealt(*at, play.number(), database));
    let own: Vec<String> = match play {
        Play::Sample(_) => {
            let mut known = BTreeSet::new();
            let attempt = points.iter().skip_while(|point| failpoint_name(point) != OWN_STEP);
            attempt.filter(|point| begins(point, &INSIDE) && known.insert(failpoint_name(point))).cloned().collect()
        }
        Play::Path(_) => {
            let own = |point: &&String| point.ends_with("#1") && !shared(point) && !begins(point, &INSIDE);
            points.iter().filter(own).cloned().collect()
        }
    };
    own.into_iter().chain(dealt.map(|(_, point)| point)).collect()
}

/// True if the subject with this number tries the shared failpoint at this position. The other database has another
/// share.
fn is_dealt(position: usize, subject: usize, database: Database) -> bool {
    let shift = if database == Database::Sqlite { 0 } else { SHARES / 2 };
    (position + subject + shift).is_multiple_of(SHARES)
}

#[test]
fn shared_failpoints_are_dealt_to_some_subject_on_each_database() {
    for database in [Database::Sqlite, Database::Postgres] {
        for position in 0..20 {
            let tried = (0..SHARES).filter(|subject| is_dealt(position, *subject, database)).count();
            assert_eq!(tried, 1, "failpoint {position} on {database:?}");
        }
    }
}

/// Runs it undisturbed, and then once with a crash at each failpoint.
async fn sweep(stages: &mut [Stage], play: &Play) {
    let name = play.name(&stages[0]);
    stages[0].deaths = 0;
    let before = stages[0].passed();
    // The first run may pass failpoints that later runs do not, such as the creation of a bucket.
    let first = play.play(&mut stages[0], &format!("{name}/first")).await;
    let from = stages[0].passed();
    let expected = play.play(&mut stages[0], &format!("{name}/undisturbed")).await;
    let points = numbered(stages[0].points(from));
    assert!(points.len() > 3, "{name} passes hardly any point: {points:?}");
    assert_eq!(first.0, expected.0, "{name} does not end the same way twice");
    assert_eq!(stages[0].deaths, 0, "it dies by itself\n{}", stages[0].log());
    let first = numbered(stages[0].points(before).into_iter().take(from - before).collect());
    assert!(expected.1.iter().all(|done| done.again == 0), "{name}: {:?}", expected.1);
    println!("sweep {name}: {} points, {} in its first run: {points:?}", points.len(), first.len());
    let points = chosen(play, stages[0].database, points);
    let names_of =
        |points: &[String]| points.iter().map(|point| failpoint_name(point).to_owned()).collect::<BTreeSet<String>>();
    // What only one of the two undisturbed runs passes is not its own: cleaning up after an earlier path falls where it may.
    let mut own = &names_of(&points) & &names_of(&first);
    own.retain(|name| !name.starts_with(BY_CHANCE));
    let left = Mutex::new(points.iter().cloned().collect::<VecDeque<_>>());
    let met = Mutex::new(BTreeSet::new());
    let (left, died, own, name, expected) = (&left, &met, &own, &name, &expected);
    let lanes = stages.iter_mut().map(|stage| async move {
        loop {
            let Some(point) = left.lock().expect("the points").pop_front() else { break };
            let attempts = if own.contains(failpoint_name(&point)) { MAX_ATTEMPTS } else { MAX_ATTEMPTS_BY_CHANCE };
            if crash_at(stage, play, name, (point.as_str(), attempts), expected).await {
                died.lock().expect("the points").insert(failpoint_name(&point).to_owned());
            }
        }
    });
    futures::future::join_all(lanes).await;
    let met = met.into_inner().expect("the points");
    let missed: Vec<_> = own.difference(&met).cloned().collect();
    let what = format!("{name}: {} crashes; points at which nobody died", points.len());
    figure("2", stages[0].database, &what, &Vec::new(), &missed);
}

/// Runs it with a crash at a failpoint, until it is passed or was missed this often. Returns false if it was not passed.
async fn crash_at(
    stage: &mut Stage,
    play: &Play,
    name: &str,
    (point, attempts): (&str, usize),
    expected: &(Value, [Done; 2]),
) -> bool {
    for attempt in 1..=attempts {
        stage.deaths = 0;
        stage.arm(point);
        let (seen, done) = play.play(stage, &format!("{name}/{point}/{attempt}").replace(' ', "-")).await;
        let missed = stage.disarm();
        if !missed {
            stage.revive_after_death().await;
        }
        let told = || format!("{name} with a crash at {point}\n{}", stage.log());
        pretty(&expected.0, &seen, &told);
        for (expected, done) in expected.1.iter().zip(&done) {
            assert_eq!(expected.things, done.things, "{}", told());
            let most = stage.deaths * play.at_once();
            assert!(done.again <= most, "{} repetitions for {} crashes: {}", done.again, stage.deaths, told());
        }
        assert_eq!(stage.deaths, usize::from(!missed), "{}", told());
        if !missed {
            return true;
        }
    }
    false
}

/// Compares two JSON values, and prints the lines that differ.
fn pretty(expected: &Value, seen: &Value, told: &impl Fn() -> String) {
    if expected != seen {
        let lines = |value: &Value| -> BTreeSet<String> { format!("{value:#}").lines().map(str::to_owned).collect() };
        let (wanted, found) = (lines(expected), lines(seen));
        let lost: Vec<_> = wanted.difference(&found).collect();
        let new: Vec<_> = found.difference(&wanted).collect();
        panic!("{}\nexpected {lost:#?}\nfound {new:#?}\n", told());
    }
}
