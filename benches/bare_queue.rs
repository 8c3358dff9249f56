//! The peer of the engine: the same queue, which keeps no other record.

use apalis::layers::WorkerBuilderExt;
use apalis::prelude::{Attempt, BoxDynError, Data, Monitor, ParallelizeExt, Task, TaskBuilder, TaskId};
use apalis::prelude::{WorkerBuilder, WorkerContext};
use apalis_core::backend::ext::BackendExt;
use apalis_postgres::PostgresStorage;
use apalis_sqlite::SqliteStorage;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{PgPool, SqlitePool};

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
    steps: usize,
    begun: Arc<AtomicUsize>,
    ended: Arc<AtomicUsize>,
    /// Each chain that ends before then is followed by another one.
    until: Arc<Mutex<Option<Instant>>>,
    wake: Arc<Notify>,
}

impl Shared {
    fn new(pool: Pool, steps: usize) -> Self {
        let (begun, ended) = (Arc::default(), Arc::default());
        Self { pool, steps, begun, ended, until: Arc::default(), wake: Arc::default() }
    }

    /// Puts chains into the queue.
    async fn begin(&self, chains: usize) {
        self.begun.fetch_add(chains, Ordering::Relaxed);
        let tasks: Vec<_> = (0..chains).map(|_| task(&Job { left: self.steps })).collect();
        for tasks in tasks.chunks(500) {
            match &self.pool {
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
        self.wake.notify_one();
    }

    /// Returns once all chains have ended.
    async fn drained(&self) {
        while self.ended.load(Ordering::Relaxed) < self.begun.load(Ordering::Relaxed) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
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
        let goes_on = shared.until.lock().unwrap().is_some_and(|until| Instant::now() < until);
        if goes_on {
            shared.begin(1).await;
        }
        shared.ended.fetch_add(1, Ordering::Relaxed);
    }
    shared.wake.notify_one();
    Ok(())
}

/// The queue's poller loses an event that comes while it is busy; this one asks again after each.
struct Again<S>(S);

impl<S: futures::Stream<Item = ()> + Unpin> futures::Stream for Again<S> {
    type Item = ();

    fn poll_next(mut self: std::pin::Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<Option<()>> {
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

/// Works a queue that has these chains, and gives the seconds.
pub async fn run(url: &str, runs: usize, steps: usize, concurrency: usize, batch: usize) -> f64 {
    let (pool, takers) = open(url).await;
    let shared = Shared::new(pool, steps);
    shared.begin(runs).await;
    let seconds = Arc::new(Mutex::new(0.0));
    let (taken, watched) = (seconds.clone(), shared.clone());
    let begun = Instant::now();
    let signal = async move {
        watched.drained().await;
        *taken.lock().unwrap() = begun.elapsed().as_secs_f64();
        Ok(())
    };
    work_until(signal, &shared, takers, concurrency, batch).await;
    *seconds.lock().unwrap()
}

/// Keeps so many chains open for some seconds. Gives their number, and the seconds until all have ended.
pub async fn keep_open(
    url: &str,
    seconds: usize,
    steps: usize,
    concurrency: usize,
    open_chains: usize,
) -> (usize, f64) {
    let (pool, takers) = open(url).await;
    let shared = Shared::new(pool, steps);
    shared.begin(open_chains).await;
    let result = Arc::new(Mutex::new((0, 0.0)));
    let (taken, watched) = (result.clone(), shared.clone());
    let signal = async move {
        watched.drained().await;
        println!("ready");
        wait_for_line();
        let begun = Instant::now();
        *watched.until.lock().unwrap() = Some(begun + Duration::from_secs(seconds as u64));
        watched.begin(open_chains).await;
        watched.drained().await;
        let chains = watched.begun.load(Ordering::Relaxed) - open_chains;
        *taken.lock().unwrap() = (chains, begun.elapsed().as_secs_f64());
        Ok(())
    };
    work_until(signal, &shared, takers, concurrency, 1).await;
    *result.lock().unwrap()
}

async fn work_until(
    signal: impl Future<Output = std::io::Result<()>> + Send,
    shared: &Shared,
    takers: Option<PgPool>,
    concurrency: usize,
    batch: usize,
) {
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
    monitor.shutdown_timeout(Duration::from_secs(1)).run_with_signal(signal).await.unwrap();
}
