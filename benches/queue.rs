//! The measured side of `benches/throughput.py`: chains of steps that do nothing, through the engine or on the bare queue.
//!
//! `queue engine|bare URL RUNS STEPS CONCURRENCY BATCH` puts RUNS chains of STEPS steps into an empty database, then works
//! them and prints the seconds that took. `bare` is the peer: the same queue with the same settings, that deletes each job
//! and pushes the next one in one transaction and keeps no other record.
//! `queue paced URL RUNS STEPS CONCURRENCY` starts one chain after the other, each when the one before has ended, and prints
//! `START OVERHEAD`, milliseconds at the median: from the accepted run to the start of its first step, and from the
//! readiness of a step to its end.
//! `queue fill URL RUNS STEPS` puts RUNS runs with STEPS steps that have ended into the database.
#![allow(clippy::print_stdout, clippy::unwrap_used, clippy::disallowed_methods, reason = "a program of its own")]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
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
use futures::future::BoxFuture;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio_util::sync::CancellationToken;

/// When each step of the paced chains ran.
static STARTED: LazyLock<Mutex<Vec<Instant>>> = LazyLock::new(Mutex::default);

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

    async fn run(self, _: StepContext, (): ()) -> Result<Outputs> {
        STARTED.lock().unwrap().push(Instant::now());
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

async fn engine(url: &str, steps: usize, concurrency: usize) -> Engine {
    let folder = std::env::temp_dir();
    let mut config = Config { data: folder, database: Some(Secret::new(url)), ..Config::default() };
    config.secret_key = Some(Secret::new("a-secret-key-for-benchmarks-of-40-characters"));
    config.queues.insert("default".into(), QueueConfig { concurrency });
    config.add_default_connection();
    let db = Db::open(url, Clock::system()).await.unwrap();
    let chain: String = (0..steps).map(|step| format!("  - {{ id: s{step}, uses: bench.nothing }}\n")).collect();
    let source = format!("name: chain\nsteps:\n{chain}");
    db.definitions()
        .replace_live(
            &[DefinitionRecord { name: "chain".into(), digest: plan::definition_digest(&source), source }],
            &[],
        )
        .await
        .unwrap();
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

async fn start(engine: &Engine) -> String {
    let id = ulid::Ulid::generate().to_string();
    let new = NewRun { id: id.clone(), pipeline: "chain".into(), origin: "api", ..NewRun::default() };
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

async fn paced(url: &str, runs: usize, steps: usize, concurrency: usize) {
    let engine = engine(url, steps, concurrency).await;
    let stop = CancellationToken::new();
    let (worker, stopped) = (engine.clone(), stop.clone());
    let work = tokio::spawn(async move { worker.run_workers(QueueSelection::All, stopped).await.unwrap() });
    let (mut starts, mut overheads) = (Vec::new(), Vec::new());
    for run in 0..runs + 5 {
        STARTED.lock().unwrap().clear();
        let id = start(&engine).await;
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
            overheads.push(ended.as_secs_f64() * 1000.0 / steps as f64);
        }
    }
    stop.cancel();
    work.await.unwrap();
    println!("{:.3} {:.3}", median(&mut starts), median(&mut overheads));
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

/// The peer.
mod bare {
    use apalis::layers::WorkerBuilderExt;
    use apalis::prelude::{Attempt, BoxDynError, Data, Monitor, ParallelizeExt, Task, TaskBuilder, TaskId};
    use apalis::prelude::{WorkerBuilder, WorkerContext};
    use apalis_core::backend::ext::BackendExt;
    use apalis_postgres::PostgresStorage;
    use apalis_sqlite::SqliteStorage;
    use futures::StreamExt;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
    use sqlx::{PgPool, SqlitePool};
    use tokio::sync::Notify;

    use super::*;

    #[derive(Clone, Serialize, Deserialize)]
    struct Job {
        left: usize,
    }

    #[derive(Clone)]
    enum Pool {
        Sqlite(SqlitePool),
        Postgres(PgPool),
    }

    #[derive(Clone)]
    struct Shared {
        pool: Pool,
        ended: Arc<AtomicUsize>,
        wake: Arc<Notify>,
    }

    fn task(job: &Job) -> Task<Vec<u8>> {
        TaskBuilder::new(serde_json::to_vec(job).unwrap()).build()
    }

    macro_rules! end {
        ($tx:expr, $sql:literal, $id:expr, $worker:expr, $attempts:expr, $push:expr) => {{
            let deleted = sqlx::query($sql).bind($id).bind($worker).bind($attempts).execute(&mut *$tx).await?;
            if deleted.rows_affected() == 1 {
                $push;
                $tx.commit().await?;
            }
            deleted.rows_affected() == 1
        }};
    }

    async fn work(
        job: Job,
        id: TaskId,
        attempt: Attempt,
        worker: WorkerContext,
        shared: Data<Shared>,
    ) -> std::result::Result<(), BoxDynError> {
        let (id, worker, attempts) = (id.to_string(), worker.name().to_owned(), attempt.current() as i32 - 1);
        let next = (job.left > 1).then(|| task(&Job { left: job.left - 1 }));
        let last = next.is_none();
        let ended = match &shared.pool {
            Pool::Sqlite(pool) => {
                let mut tx = pool.begin_with("BEGIN IMMEDIATE").await?;
                end!(tx, "DELETE FROM Jobs WHERE id = $1 AND lock_by = $2 AND attempts = $3", id, worker, attempts, {
                    if let Some(task) = next {
                        apalis_sqlite::queries::push_tasks(&mut *tx, "default", &[task]).await?;
                    }
                })
            }
            Pool::Postgres(pool) => {
                let mut tx = pool.begin().await?;
                end!(
                    tx,
                    "DELETE FROM apalis.jobs WHERE id = $1 AND lock_by = $2 AND attempts = $3",
                    id,
                    worker,
                    attempts,
                    {
                        if let Some(task) = next {
                            apalis_postgres::queries::push_tasks(&mut *tx, "default", vec![task]).await?;
                        }
                    }
                )
            }
        };
        if ended && last {
            shared.ended.fetch_add(1, Ordering::Relaxed);
        }
        shared.wake.notify_one();
        Ok(())
    }

    /// The queue's poller loses an event that comes while it is busy; this one asks again after each.
    struct Again<S>(S);

    impl<S: futures::Stream<Item = ()> + Unpin> futures::Stream for Again<S> {
        type Item = ();

        fn poll_next(
            mut self: std::pin::Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<()>> {
            let polled = self.0.poll_next_unpin(cx);
            if polled.is_ready() {
                cx.waker().wake_by_ref();
            }
            polled
        }
    }

    fn wakes(wake: Arc<Notify>) -> Again<futures::stream::BoxStream<'static, ()>> {
        let tick = futures::stream::unfold(tokio::time::interval(Duration::from_secs(1)), |mut tick| async move {
            tick.tick().await;
            Some(((), tick))
        });
        let signal = futures::stream::unfold(wake, |wake| async move {
            wake.notified().await;
            Some(((), wake))
        });
        Again(futures::stream::select(tick, signal).boxed())
    }

    /// The database, and where jobs are taken from on PostgreSQL, as the engine does it.
    async fn open(url: &str) -> (Pool, Option<PgPool>) {
        match url.strip_prefix("sqlite://") {
            Some(path) => {
                let options = SqliteConnectOptions::new()
                    .filename(path)
                    .create_if_missing(true)
                    .journal_mode(SqliteJournalMode::Wal)
                    .synchronous(SqliteSynchronous::Full)
                    .busy_timeout(Duration::from_secs(10));
                let pool = SqlitePoolOptions::new().max_connections(1).connect_with(options).await.unwrap();
                let mut migrator = SqliteStorage::migrations();
                migrator.set_ignore_missing(true);
                migrator.run(&pool).await.unwrap();
                (Pool::Sqlite(pool), None)
            }
            None => {
                let options = sqlx::postgres::PgPoolOptions::new().max_connections(16);
                let pool = options.connect(url).await.unwrap();
                PostgresStorage::setup(&pool).await.unwrap();
                let takers = afterload_state::fetch_pool_options().connect(url).await.unwrap();
                (Pool::Postgres(pool), Some(takers))
            }
        }
    }

    pub async fn run(url: &str, runs: usize, steps: usize, concurrency: usize, batch: usize) -> f64 {
        let (pool, takers) = open(url).await;
        let tasks: Vec<_> = (0..runs).map(|_| task(&Job { left: steps })).collect();
        for tasks in tasks.chunks(500) {
            match &pool {
                Pool::Sqlite(pool) => {
                    let mut tx = pool.begin().await.unwrap();
                    apalis_sqlite::queries::push_tasks(&mut *tx, "default", tasks).await.unwrap();
                    tx.commit().await.unwrap();
                }
                Pool::Postgres(pool) => {
                    let mut connection = pool.acquire().await.unwrap();
                    apalis_postgres::queries::push_tasks(&mut *connection, "default", tasks.to_vec()).await.unwrap();
                }
            }
        }
        let shared = Shared { pool, ended: Arc::default(), wake: Arc::default() };
        let begun = Instant::now();
        macro_rules! worker {
            ($storage:ident, $config:ty, $pool:expr) => {{
                let (pool, shared) = ($pool.clone(), shared.clone());
                move |_| {
                    let config = <$config>::default()
                        .queue("default")
                        .batch_size(batch as _)
                        .heartbeat_interval(Duration::from_secs(5))
                        .missed_heartbeats(3)
                        .lock_tasks(false)
                        .persist_results(false);
                    let backend =
                        $storage::<Job>::new(&pool).with_config(config).poll_with_stream(wakes(shared.wake.clone()));
                    WorkerBuilder::new("bare")
                        .backend(backend)
                        .data(shared.clone())
                        .concurrency(concurrency)
                        .parallelize(tokio::spawn)
                        .build(work)
                }
            }};
        }
        let monitor = match &shared.pool {
            Pool::Sqlite(pool) => Monitor::new().register(worker!(SqliteStorage, apalis_sqlite::Config, pool)),
            Pool::Postgres(_) => {
                Monitor::new().register(worker!(PostgresStorage, apalis_postgres::Config, takers.unwrap()))
            }
        };
        let ended = shared.ended.clone();
        let seconds = Arc::new(Mutex::new(0.0));
        let taken = seconds.clone();
        let signal = async move {
            while ended.load(Ordering::Relaxed) < runs {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            *taken.lock().unwrap() = begun.elapsed().as_secs_f64();
            Ok(())
        };
        monitor.shutdown_timeout(Duration::from_secs(1)).run_with_signal(signal).await.unwrap();
        *seconds.lock().unwrap()
    }
}

#[tokio::main]
async fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let [mode, url, numbers @ ..] = &args[..] else {
        panic!("queue engine|bare|paced|fill URL RUNS STEPS CONCURRENCY BATCH")
    };
    let numbers: Vec<usize> = numbers.iter().map(|number| number.parse().unwrap()).collect();
    let (runs, steps, concurrency) = (numbers[0], numbers[1], numbers.get(2).copied().unwrap_or(1));
    match mode.as_str() {
        "engine" => {
            let engine = engine(url, steps, concurrency).await;
            for _ in 0..runs {
                start(&engine).await;
            }
            println!("{:.4}", drained(&engine, runs * steps).await);
        }
        "bare" => println!("{:.4}", bare::run(url, runs, steps, concurrency, numbers[3]).await),
        "paced" => paced(url, runs, steps, concurrency).await,
        "fill" => fill(url, runs, steps).await,
        other => panic!("unknown mode {other}"),
    }
}
