//! The crash sweep. Everything durable has a failpoint before and after it. Each registered kind runs once undisturbed.
//! Then it runs again for every failpoint that it passed: the process crashes there and is restarted. The result must
//! be the same: runs, steps, outputs, files by their bytes, and every row of the application's database. External
//! effects may repeat at most once per crash, with the same id.
#![expect(clippy::print_stdout, reason = "what it prints is the table")]

pub mod fixture;
pub mod http;
mod paths;
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
    let mut stages = futures::future::join_all((0..LANES).map(|_| Stage::new(database, &[]))).await;
    for index in (0..stages[0].samples.len()).filter(|index| index % GROUPS == group) {
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

    /// Runs it to its end and returns everything that is visible of it.
    async fn play(&self, stage: &mut Stage, key: &str) -> (Value, [Done; 2]) {
        let mark = stage.reset().await;
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
const INSIDE: [&str; 9] =
    ["checkpoint.", "chunk.", "csv.", "delivery.", "effect.", "file.", "link.", "progress.", "step."];

/// Selects the failpoints. The full form crashes at each pass. The short form crashes once per failpoint, and for paths
/// it skips failpoints inside of an attempt, because the kinds cover these.
fn chosen(play: &Play, points: Vec<String>) -> Vec<String> {
    let inside = |point: &str| INSIDE.iter().any(|name| point.starts_with(name));
    let short = |point: &str| point.ends_with("#1") && (matches!(play, Play::Sample(_)) || !inside(point));
    points.into_iter().filter(|point| full() || short(point)).collect()
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
    let points = chosen(play, points);
    let left = Mutex::new(points.iter().cloned().collect::<VecDeque<_>>());
    let met = Mutex::new(BTreeSet::new());
    let (left, died, name, expected) = (&left, &met, &name, &expected);
    let lanes = stages.iter_mut().map(|stage| async move {
        loop {
            let Some(point) = left.lock().expect("the points").pop_front() else { break };
            if crash_at(stage, play, name, &point, expected).await {
                died.lock().expect("the points").insert(failpoint_name(&point).to_owned());
            }
        }
    });
    futures::future::join_all(lanes).await;
    let met = met.into_inner().expect("the points");
    let names_of =
        |points: &[String]| points.iter().map(|point| failpoint_name(point).to_owned()).collect::<BTreeSet<String>>();
    // What only one of the two undisturbed runs passes is not its own: cleaning up after an earlier path falls where it may.
    let own = &names_of(&points) & &names_of(&first);
    let missed: Vec<_> = own.difference(&met).filter(|name| !name.starts_with(BY_CHANCE)).cloned().collect();
    let what = format!("{name}: {} crashes; points at which nobody died", points.len());
    figure("2", stages[0].database, &what, &Vec::new(), &missed);
}

/// Runs it with a crash at a failpoint. Returns false if the failpoint was not passed.
async fn crash_at(stage: &mut Stage, play: &Play, name: &str, point: &str, expected: &(Value, [Done; 2])) -> bool {
    let attempts = if point.starts_with(BY_CHANCE) { MAX_ATTEMPTS_BY_CHANCE } else { MAX_ATTEMPTS };
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
