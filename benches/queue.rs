//! The measured side of `benches/throughput.py` and `benches/engine.py`: chains of steps that do nothing, through the engine or on
//! the bare queue.
//!
//! `queue engine|bare URL RUNS STEPS CONCURRENCY BATCH` puts RUNS chains of STEPS steps into an empty database, then works
//! them and prints the seconds that took. `bare` is the peer: the same queue with the same settings, that deletes each job
//! and pushes the next one in one transaction and keeps no other record.
//! `queue paced URL RUNS STEPS CONCURRENCY` starts one chain after the other, each when the one before has ended, and prints
//! `START OVERHEAD`, milliseconds at the median: from the accepted run to the start of its first step, and from the
//! readiness of a step to its end.
//! `queue fill URL RUNS STEPS [WAITING]` puts RUNS runs with STEPS steps that have ended into the database, and WAITING runs that
//! wait: one half for a time, the other half for a queue that nobody works.
//!
//! The other modes print `ready`, wait for a line, print one line of JSON, and end when their input ends:
//! `queue open|bare-open URL SECONDS STEPS CONCURRENCY OPEN` keeps OPEN chains open for SECONDS, waits for the rest, and prints
//! `{"chains", "seconds"}`.
//! `queue latency URL RUNS STEPS CONCURRENCY` is `paced` with all its values, in `{"start", "end"}`: the milliseconds from the
//! accepted run to the start of its first step, and to its end.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, reason = "a program of its own")]

mod bare_queue;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex, OnceLock};
use std::time::{Duration, Instant};

use afterload::config::{Config, QueueConfig, Secret};
use afterload_core::clock::Clock;
use afterload_core::error::Result;
use afterload_egress::EgressClient;
use afterload_engine::{Engine, EngineDeps, NewRun, QueueSelection, RecordSource};
use afterload_metrics::Metrics;
use afterload_object_store::ObjectStore;
use afterload_pipeline::params::RecordRule;
use afterload_pipeline::plan;
use afterload_state::{Db, DefinitionRecord, SqlArg};
use afterload_step_api::{Step, StepContext, register};
use futures::StreamExt;
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// When each step of the paced chains ran.
static STARTED: LazyLock<Mutex<Vec<Instant>>> = LazyLock::new(Mutex::default);
/// The id of the last step of the chains that are kept open, how often it ran, and a signal when it runs.
static LAST_STEP: OnceLock<String> = OnceLock::new();
static LAST_STEPS: AtomicUsize = AtomicUsize::new(0);
static LAST_STEP_RUNS: Notify = Notify::const_new();

/// Does nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Serialize, JsonSchema)]
struct Outputs {}

impl Step for Nothing {
    const KIND: &'static str = "bench.nothing";
    const EXAMPLE: &'static str = "{}";
    type Outputs = Outputs;
    type Deps = ();

    async fn run(self, ctx: StepContext, (): ()) -> Result<Outputs> {
        STARTED.lock().unwrap().push(Instant::now());
        if LAST_STEP.get().is_some_and(|last| *last == ctx.step.id) {
            LAST_STEPS.fetch_add(1, Ordering::Relaxed);
            LAST_STEP_RUNS.notify_one();
        }
        Ok(Outputs {})
    }
}

/// No pipeline of this bench refers to rows.
struct NoRecords;

impl RecordSource for NoRecords {
    fn read_record<'a>(
        &'a self,
        _: &'a RecordRule,
        _: &'a Value,
        _: &'a CancellationToken,
    ) -> BoxFuture<'a, Result<Option<Map<String, Value>>>> {
        Box::pin(async { Ok(None) })
    }
}

/// The definition of a live pipeline.
fn definition(name: &str, steps: &str) -> DefinitionRecord {
    let source = format!("name: {name}\nsteps:\n{steps}");
    DefinitionRecord { name: name.into(), digest: plan::definition_digest(&source), source }
}

async fn engine(url: &str, steps: usize, concurrency: usize) -> Engine {
    let chain: String = (0..steps).map(|step| format!("  - {{ id: s{step}, uses: bench.nothing }}\n")).collect();
    engine_with(url, concurrency, &[definition("chain", &chain)]).await
}

async fn engine_with(url: &str, concurrency: usize, definitions: &[DefinitionRecord]) -> Engine {
    let folder = std::env::temp_dir();
    let mut config = Config { data: folder, database: Some(Secret::new(url)), ..Config::default() };
    config.secret_key = Some(Secret::new("a-secret-key-for-benchmarks-of-40-characters"));
    config.queues.insert("default".into(), QueueConfig { concurrency });
    config.add_default_connection();
    let db = Db::open(url, Clock::system()).await.unwrap();
    db.definitions().replace_live(definitions, &[]).await.unwrap();
    let parts = EngineDeps {
        objects: ObjectStore::connect(&config.objects, None).await.unwrap(),
        records: Arc::new(NoRecords),
        http: EgressClient::new(
            &config.http,
            &config.limits.http,
            config.webhook_signer(),
            config.redactor([]),
            db.clock().clone(),
        ),
        redactor: config.redactor([]),
        metrics: Metrics::default(),
        config: config.engine_config(),
        steps: vec![register::<Nothing>(())],
        db,
    };
    Engine::open(parts).await.unwrap()
}

async fn start(engine: &Engine, pipeline: &str) -> String {
    let id = ulid::Ulid::generate().to_string();
    let new = NewRun { id: id.clone(), pipeline: pipeline.into(), origin: "api", ..NewRun::default() };
    engine.start_run(new).await.unwrap();
    id
}

/// Works until the queue is empty, and gives the seconds.
async fn drained(engine: &Engine, chains: usize) -> f64 {
    let stop = CancellationToken::new();
    let begun = Instant::now();
    let (worker, stopped) = (engine.clone(), stop.clone());
    let work = tokio::spawn(async move { worker.run_workers(QueueSelection::All, stopped).await.unwrap() });
    // The work itself counts what it did; looking into the database meanwhile would cost it time.
    while STARTED.lock().unwrap().len() < chains || engine.count_jobs().await.unwrap() > 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let seconds = begun.elapsed().as_secs_f64();
    stop.cancel();
    work.await.unwrap();
    seconds
}

fn wait_for_line() {
    let mut line = String::new();
    std::io::stdin().read_line(&mut line).unwrap();
}

/// Keeps so many chains open until then, and works until only the jobs are left that wait. Gives the number of chains and the
/// seconds.
///
/// A chain counts as open until its last step begins: looking into the database for its end would cost time.
async fn keep_open(engine: &Engine, open: usize, waiting: i64, until: Instant) -> (usize, f64) {
    let (begun, before, mut chains) = (Instant::now(), LAST_STEPS.load(Ordering::Relaxed), 0);
    let mut accepts = JoinSet::new();
    loop {
        while chains < open + LAST_STEPS.load(Ordering::Relaxed) - before {
            chains += 1;
            let engine = engine.clone();
            accepts.spawn(async move { start(&engine, "chain").await });
        }
        while let Some(accepted) = accepts.try_join_next() {
            accepted.unwrap();
        }
        let in_time = tokio::time::timeout_at(until.into(), LAST_STEP_RUNS.notified()).await.is_ok();
        if !in_time || Instant::now() >= until {
            break;
        }
    }
    while let Some(accepted) = accepts.join_next().await {
        accepted.unwrap();
    }
    while LAST_STEPS.load(Ordering::Relaxed) - before < chains || engine.count_jobs().await.unwrap() > waiting {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    (chains, begun.elapsed().as_secs_f64())
}

async fn open(url: &str, seconds: usize, steps: usize, concurrency: usize, open: usize) {
    LAST_STEP.set(format!("s{}", steps - 1)).unwrap();
    let engine = engine(url, steps, concurrency).await;
    let waiting = engine.count_jobs().await.unwrap();
    let stop = CancellationToken::new();
    let (worker, stopped) = (engine.clone(), stop.clone());
    let selection = QueueSelection::Named(["default".to_owned()].into());
    let work = tokio::spawn(async move { worker.run_workers(selection, stopped).await.unwrap() });
    keep_open(&engine, open, waiting, Instant::now()).await;
    println!("ready");
    wait_for_line();
    let until = Instant::now() + Duration::from_secs(seconds as u64);
    let (chains, seconds) = keep_open(&engine, open, waiting, until).await;
    println!("{}", json!({ "chains": chains, "seconds": seconds }));
    wait_for_line();
    stop.cancel();
    work.await.unwrap();
}

/// Milliseconds from the accepted run to the start of its first step, and to its end, of each run.
async fn latency(url: &str, runs: usize, steps: usize, concurrency: usize) -> (Vec<f64>, Vec<f64>) {
    let engine = engine(url, steps, concurrency).await;
    let stop = CancellationToken::new();
    let (worker, stopped) = (engine.clone(), stop.clone());
    let work = tokio::spawn(async move { worker.run_workers(QueueSelection::All, stopped).await.unwrap() });
    let (mut starts, mut ends) = (Vec::new(), Vec::new());
    for run in 0..runs + 5 {
        STARTED.lock().unwrap().clear();
        let id = start(&engine, "chain").await;
        let accepted = Instant::now();
        let (mut watch, mut seen) = (engine.watch_run(&id), 0);
        // Looking into the database meanwhile would cost it time.
        while STARTED.lock().unwrap().len() < steps {
            watch.wait_past(seen).await;
            seen = watch.latest_revision();
        }
        while engine.db().runs().find(&id).await.unwrap().unwrap().finished_at.is_none() {
            watch.wait_past(seen).await;
            seen = watch.latest_revision();
        }
        let ended = accepted.elapsed();
        let started = STARTED.lock().unwrap().first().unwrap().saturating_duration_since(accepted);
        if run >= 5 {
            starts.push(started.as_secs_f64() * 1000.0);
            ends.push(ended.as_secs_f64() * 1000.0);
        }
    }
    stop.cancel();
    work.await.unwrap();
    (starts, ends)
}

/// Runs that wait for a time, and as many for a queue that nobody works.
async fn fill_waiting(url: &str, runs: usize) {
    let names = ["later", "elsewhere"];
    let definitions = [
        definition(names[0], "  - { id: s0, uses: bench.nothing, delay: 4w }\n"),
        definition(names[1], "  - { id: s0, uses: bench.nothing, queue: elsewhere }\n"),
    ];
    let engine = engine_with(url, 1, &definitions).await;
    let accept = |run: usize| {
        let engine = engine.clone();
        async move {
            start(&engine, names[run % 2]).await;
        }
    };
    futures::stream::iter(0..runs).for_each_concurrent(32, accept).await;
    engine.db().close().await;
}

/// Runs that have ended, as the engine leaves them.
async fn fill(url: &str, runs: usize, steps: usize) {
    let engine = engine(url, steps, 1).await;
    let digest = engine.db().definitions().find_live("chain").await.unwrap().unwrap().digest;
    // The ids lie before those of all runs to come, as those of earlier runs do.
    let run = "'01ARZ3NDEKTSV4' || (100000000000 + n.i)";
    let count = |name: &str, to: usize| {
        format!("{name}(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM {name} WHERE i < {})", to.max(1) - 1)
    };
    let (digest, now) = (SqlArg::from(&digest), SqlArg::from(engine.clock().now()));
    for sql in [
        format!(
            "INSERT INTO runs (id, pipeline, digest, status, origin, params, revision, created_at, started_at, finished_at)
             WITH RECURSIVE {} SELECT {run}, 'chain', $1, 'succeeded', 'api', '{{}}', 12, $2, $2, $2 FROM n",
            count("n", runs)
        ),
        format!(
            "INSERT INTO step_runs (id, run_id, section, position, step_id, uses, queue, priority, status, claims,
                outputs, started_at, finished_at)
             WITH RECURSIVE {}, {} SELECT '01BRZ3NDEKTSV4' || (100000000000 + n.i * 100 + m.i), {run}, 'steps', m.i,
                's' || m.i, 'bench.nothing', 'default', 0, 'succeeded', 1, '{{}}', $2, $2 FROM n, m WHERE $1 <> ''",
            count("n", runs),
            count("m", steps)
        ),
    ] {
        engine.db().execute(&sql, &[digest.clone(), now.clone()]).await.unwrap();
    }
    engine.db().execute("ANALYZE", &[]).await.unwrap();
    engine.db().close().await;
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [mode, url, numbers @ ..] = &args[..] else {
        panic!("queue engine|bare|paced|fill|open|bare-open|latency URL RUNS STEPS CONCURRENCY BATCH")
    };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    let (runs, steps, concurrency) = (numbers[0], numbers[1], numbers.get(2).copied().unwrap_or(1));
    match mode.as_str() {
        "engine" => {
            let engine = engine(url, steps, concurrency).await;
            for _ in 0..runs {
                start(&engine, "chain").await;
            }
            println!("{:.4}", drained(&engine, runs * steps).await);
        }
        "bare" => println!("{:.4}", bare_queue::run(url, runs, steps, concurrency, numbers[3]).await),
        "open" => open(url, runs, steps, concurrency, numbers[3]).await,
        "bare-open" => {
            let (chains, seconds) = bare_queue::keep_open(url, runs, steps, concurrency, numbers[3]).await;
            println!("{}", json!({ "chains": chains, "seconds": seconds }));
            wait_for_line();
        }
        "paced" => {
            let (mut starts, mut ends) = latency(url, runs, steps, concurrency).await;
            println!("{:.3} {:.3}", median(&mut starts), median(&mut ends) / steps as f64);
        }
        "latency" => {
            println!("ready");
            wait_for_line();
            let (starts, ends) = latency(url, runs, steps, concurrency).await;
            println!("{}", json!({ "start": starts, "end": ends }));
            wait_for_line();
        }
        "fill" => {
            fill(url, runs, steps).await;
            if let Some(waiting) = numbers.get(2) {
                fill_waiting(url, *waiting).await;
            }
        }
        other => panic!("unknown mode {other}"),
    }
}
