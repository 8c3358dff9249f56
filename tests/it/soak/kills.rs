//! Figure 1: runs of all kinds at the same time, while the service is killed every two seconds.
#![expect(clippy::print_stdout, reason = "what it prints is the table")]

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{at_most, figure, size};
use crate::support::{Database, both};
use crate::sweep::fixture;
use crate::sweep::seen::{self, Done};
use crate::sweep::stage::Stage;

both!(figure_1_mixed_runs_end_once_despite_kills);

/// The time between two kills.
const KILL_INTERVAL: Duration = Duration::from_secs(2);
/// The time after which all runs must have ended.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// A limit on the open jobs, so that the speed of the machine does not matter.
const MAX_OPEN_JOBS: i64 = 60;
/// The mails that one process sends at the same time.
const MAX_PARALLEL_MAILS: usize = 4;

/// Inserts into a table without a key, so that a repeated insert is visible.
const COUNT: (&str, &str) = (
    "count",
    "name: count\nparams: { file: { type: file } }\nsteps:\n  - id: count\n    uses: csv.import\n    \
     with: { source: \"${{ params.file }}\", into: { table: counted }, chunk: 10, columns: { email: { match: [E-mail] } } }\n",
);
/// The rows of the fixture's file.
const ROWS: usize = 50;

/// Returns the parts of a run that must be equal for each run of a pipeline.
fn end(run: &Value) -> Value {
    let mut end = seen::run(run);
    // An attempt may fail because of a concurrent import of the same rows.
    for step in end["steps"].as_array_mut().into_iter().flatten() {
        step["attempt"] = Value::Null;
    }
    end
}

/// Publishes the events of suspended steps, and kills the service when it is time, up to this many kills.
async fn kill_in_time(stage: &mut Stage, kills: usize, started: &mut Instant) {
    if started.elapsed() >= KILL_INTERVAL {
        stage.publish_events().await;
        if stage.kills < kills {
            stage.kill_and_wait_for_leases().await;
        }
        *started = Instant::now();
    }
}

async fn figure_1_mixed_runs_end_once_despite_kills(database: Database) {
    let (kills, runs) = (size(6, 30), size(60, 1000));
    let lease = format!("{}s", super::lease());
    let mut stage = Stage::beside(database, |_| true, &[COUNT], &[("LIMITS__LEASE", &lease)], None).await;
    stage.place.sql("CREATE TABLE counted (email TEXT NOT NULL)").await;
    let file = json!(format!("s3://{}/contacts.csv", fixture::BUCKET));
    let mut plays: Vec<(String, Value)> =
        stage.samples.iter().map(|sample| (sample.name.clone(), sample.params.clone())).collect();
    plays.push(("count".into(), json!({ "file": file })));
    // In the second round the tables exist already, as in all later runs.
    let (mut expected, mut mails) = (Vec::new(), Vec::new());
    for round in 0..2 {
        (expected, mails) = (Vec::new(), Vec::new());
        for (name, params) in &plays {
            let mark = stage.mark();
            let id = stage.start(name, params, &format!("{round}/{name}")).await;
            expected.push(end(&stage.ended(&id).await));
            mails.push(stage.mails_since(&mark).things.len());
        }
    }
    stage.place.sql("DELETE FROM counted").await;
    let rows = seen::rows(&stage.place.app_url()).await;
    let mark = stage.mark();

    let (mut ids, mut started) = (Vec::new(), Instant::now());
    for number in 0..runs {
        let (name, params) = &plays[number % plays.len()];
        // The kills are spread over the runs. Suspended steps get their event meanwhile.
        let by_now = number * kills / runs;
        loop {
            kill_in_time(&mut stage, by_now, &mut started).await;
            if stage.kills >= by_now && stage.place.jobs().await < MAX_OPEN_JOBS {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        ids.push(stage.start(name, params, &format!("soak/{number}")).await);
    }
    while stage.kills < kills {
        kill_in_time(&mut stage, kills, &mut started).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let last = Instant::now();
    let (mut stuck, mut wrong, mut lost) = (0, Vec::new(), 0);
    for (number, id) in ids.iter().enumerate() {
        let Some(run) = stage.ended_within(id, END_TIMEOUT.saturating_sub(last.elapsed())).await else {
            let (_, run) = stage.get(&format!("/v1/runs/{id}")).await;
            println!("stuck: {run}");
            stuck += 1;
            continue;
        };
        lost += usize::from(run["id"].as_str() != Some(id));
        let (expected, found) = (&expected[number % plays.len()], end(&run));
        if *expected != found {
            let log = stage.place.log();
            let told: Vec<_> = log.lines().filter(|line| line.contains(id.as_str())).collect();
            wrong.push(format!("expected {expected:#}\nfound {found:#}\n{run}\n{}", told.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong[0]);
    let what = format!("{runs} mixed runs, a kill every 2 s, {kills} times: lost, wrong, stuck");
    figure("1", database, &what, &[0, 0, 0], &[lost, wrong.len(), stuck]);
    let counted = stage.place.numbers("SELECT COUNT(*) FROM counted").await;
    let counting = (0..runs).filter(|number| plays[number % plays.len()].0 == "count").count();
    figure("1", database, "rows in a table without a key", &vec![(counting * ROWS) as i64], &counted);
    stage.place.sql("DELETE FROM counted").await;
    let same = rows == seen::rows(&stage.place.app_url()).await;
    figure("1", database, "the application's rows are those of an undisturbed run", &true, &same);
    let mailing = (0..runs).map(|number| mails[number % plays.len()]).sum::<usize>();
    let Done { things, again } = stage.mails_since(&mark);
    figure("1", database, "mails with a Message-ID of their own", &mailing, &things.len());
    at_most("1", database, "further copies of them", kills * MAX_PARALLEL_MAILS, again);
    stage.finish().await;
}
