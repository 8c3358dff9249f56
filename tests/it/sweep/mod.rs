//! The crash sweep: everything that lasts has a point on either side at which a process may die (`crash_point!`). Each kind
//! of the list runs once undisturbed; then it runs anew for every point that it passed, the process dies there and is
//! started again, and the end must be the same: runs, steps, outputs, files by their bytes, every row of the application's
//! database. What was done to the outside may be repeated at most once for each crash, under the same id.
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

both!(every_kind_1, every_kind_2, every_kind_3, every_kind_4);

/// The kinds are shared out over so many tests, each of which has its own processes.
const GROUPS: usize = 4;
/// Stages side by side in each of them.
const LANES: usize = 2;
/// How often a failpoint is tried that is passed in one run and not in the next: whether a sweep or a commit comes first
/// depends on the machine, so a few misses in a row prove nothing.
const MAX_ATTEMPTS: usize = 12;
/// Points that depend on time: progress is stored while a step goes on, and a quick one may be faster than its progress.
const BY_CHANCE: &str = "progress.";

async fn every_kind_1(database: Database) {
    kinds_of(database, 0).await;
}

async fn every_kind_2(database: Database) {
    kinds_of(database, 1).await;
}

async fn every_kind_3(database: Database) {
    kinds_of(database, 2).await;
}

async fn every_kind_4(database: Database) {
    kinds_of(database, 3).await;
}

async fn kinds_of(database: Database, group: usize) {
    let mut stages = futures::future::join_all((0..LANES).map(|_| Stage::new(database, &[]))).await;
    for index in (0..stages[0].samples.len()).filter(|index| index % GROUPS == group) {
        sweep(&mut stages, &Play::Sample(index)).await;
    }
    futures::future::join_all(stages.into_iter().map(Stage::finish)).await;
}

/// What is swept.
pub enum Play {
    /// A run of the sample of this number.
    Sample(usize),
    /// A way by which runs start, stop or are let go.
    Path(paths::Path),
}

impl Play {
    fn name(&self, stage: &Stage) -> String {
        match self {
            Self::Sample(index) => stage.samples[*index].name.clone(),
            Self::Path(path) => format!("{path:?}"),
        }
    }

    /// How much may be under way to the outside at the same time.
    fn at_once(&self) -> usize {
        match self {
            Self::Sample(_) => 1,
            Self::Path(path) => path.at_once(),
        }
    }

    /// Plays it to its end and gives all that can be seen of it.
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
        // What comes right after the end may still be ahead.
        for _ in 0..20 {
            if !stage.is_armed() {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        stage.seen(&ids, &mark).await
    }
}

/// Each point with how often it has been passed up to there, such as `store.after_commit#2`.
fn numbered(points: Vec<String>) -> Vec<String> {
    let mut passed = BTreeMap::new();
    let number = |point: String| {
        let count: &mut u32 = passed.entry(point.clone()).or_default();
        *count += 1;
        format!("{point}#{count}")
    };
    points.into_iter().map(number).collect()
}

/// Points inside of an attempt.
const INSIDE: [&str; 9] =
    ["checkpoint.", "chunk.", "csv.", "delivery.", "effect.", "file.", "link.", "progress.", "step."];

/// The full form crashes each time that a point is passed. The short one crashes once at each, and leaves out the ways on
/// which runs come and go what is inside of an attempt: the kinds have passed it already.
fn chosen(play: &Play, points: Vec<String>) -> Vec<String> {
    let inside = |point: &str| INSIDE.iter().any(|name| point.starts_with(name));
    let short = |point: &str| point.ends_with("#1") && (matches!(play, Play::Sample(_)) || !inside(point));
    points.into_iter().filter(|point| full() || short(point)).collect()
}

/// Plays it undisturbed, and then once with a crash at each point.
async fn sweep(stages: &mut [Stage], play: &Play) {
    let name = play.name(&stages[0]);
    stages[0].deaths = 0;
    let before = stages[0].passed();
    // The first run may pass points that later ones do not, such as making a bucket.
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
                died.lock().expect("the points").insert(point.split('#').next().unwrap_or_default().to_owned());
            }
        }
    });
    futures::future::join_all(lanes).await;
    let met = met.into_inner().expect("the points");
    let names: BTreeSet<_> =
        points.iter().map(|point| point.split('#').next().unwrap_or_default().to_owned()).collect();
    let missed: Vec<_> = names.difference(&met).filter(|name| !name.starts_with(BY_CHANCE)).cloned().collect();
    let what = format!("{name}: {} crashes; points at which nobody died", points.len());
    figure("2", stages[0].database, &what, &Vec::new(), &missed);
}

/// Plays it with a crash at a point. False if it was not passed this time.
async fn crash_at(stage: &mut Stage, play: &Play, name: &str, point: &str, expected: &(Value, [Done; 2])) -> bool {
    for attempt in 1..=MAX_ATTEMPTS {
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

/// Two JSON values have to be the same; shows the lines that differ.
fn pretty(expected: &Value, seen: &Value, told: &impl Fn() -> String) {
    if expected != seen {
        let lines = |value: &Value| -> BTreeSet<String> { format!("{value:#}").lines().map(str::to_owned).collect() };
        let (wanted, found) = (lines(expected), lines(seen));
        let lost: Vec<_> = wanted.difference(&found).collect();
        let new: Vec<_> = found.difference(&wanted).collect();
        panic!("{}\nexpected {lost:#?}\nfound {new:#?}\n", told());
    }
}
