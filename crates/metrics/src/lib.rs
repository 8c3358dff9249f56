//! The metrics of a process, in the text format of OpenMetrics.
//!
//! Labels are bounded: a label with an unbounded set of values, such as the pipeline name, ends in `other`.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

/// The media type of [`Metrics::encode_openmetrics`].
pub const OPENMETRICS_MEDIA_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// How many pipelines, step kinds and queues have a label value of their own; the rest share `other`.
const MAX_LABEL_VALUES: usize = 1000;
/// The last bucket ends at two hours; longer steps share the overflow bucket.
const STEP_BUCKETS: [f64; 13] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 300.0, 900.0, 1800.0, 3600.0, 7200.0];
const REQUEST_BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Label names and values, in their order.
type MetricLabels<const N: usize> = [(&'static str, String); N];
type CounterFamily<const N: usize> = Family<MetricLabels<N>, Counter>;
type HistogramFamily<const N: usize> = Family<MetricLabels<N>, Histogram, fn() -> Histogram>;

/// The metrics of a process. Cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<MetricFamilies>);

struct MetricFamilies {
    registry: Mutex<Registry>,
    label_values: Mutex<HashSet<String>>,
    runs_accepted: CounterFamily<2>,
    runs_ended: CounterFamily<2>,
    chains_stopped: CounterFamily<1>,
    event_batches_dropped: CounterFamily<1>,
    step_attempts: CounterFamily<2>,
    step_durations: HistogramFamily<1>,
    requests: CounterFamily<3>,
    request_durations: HistogramFamily<1>,
    mails: CounterFamily<1>,
    mail_bounces: CounterFamily<1>,
    queue_jobs: Family<MetricLabels<2>, Gauge>,
    resident_memory: Gauge,
    open_files: Gauge,
}

/// The number of jobs in one queue.
#[derive(Clone, Debug)]
pub struct QueueDepth {
    /// The name of the queue.
    pub queue: String,
    /// Jobs without a lease.
    pub waiting: i64,
    /// Jobs with a lease.
    pub running: i64,
}

impl Default for Metrics {
    fn default() -> Self {
        let inner = MetricFamilies {
            registry: Mutex::default(),
            label_values: Mutex::default(),
            runs_accepted: Family::default(),
            runs_ended: Family::default(),
            chains_stopped: Family::default(),
            event_batches_dropped: Family::default(),
            step_attempts: Family::default(),
            step_durations: Family::new_with_constructor(|| Histogram::new(STEP_BUCKETS)),
            requests: Family::default(),
            request_durations: Family::new_with_constructor(|| Histogram::new(REQUEST_BUCKETS)),
            mails: Family::default(),
            mail_bounces: Family::default(),
            queue_jobs: Family::default(),
            resident_memory: Gauge::default(),
            open_files: Gauge::default(),
        };
        inner.register_metrics();
        Self(Arc::new(inner))
    }
}

impl MetricFamilies {
    fn register_metrics(&self) {
        let mut registry = lock_unpoisoned(&self.registry);
        let ours = registry.sub_registry_with_prefix("afterload");
        ours.register("runs_accepted", "Runs that were accepted", self.runs_accepted.clone());
        ours.register("runs_ended", "Runs that ended, also again after a retry", self.runs_ended.clone());
        let help = "Runs that were refused because too many runs came before them in their chain";
        ours.register("chains_stopped", help, self.chains_stopped.clone());
        let help = "Batches of events that were dropped, because their pipeline was gone for days";
        ours.register("event_batches_dropped", help, self.event_batches_dropped.clone());
        ours.register("step_attempts", "Attempts of steps that ended, and how", self.step_attempts.clone());
        let help = "How long attempts of steps took";
        ours.register_with_unit("step_attempt_duration", help, Unit::Seconds, self.step_durations.clone());
        ours.register("http_requests", "Requests, by the template of their route", self.requests.clone());
        let help = "How long requests took to the head of their answer";
        ours.register_with_unit("http_request_duration", help, Unit::Seconds, self.request_durations.clone());
        ours.register(
            "mails",
            "Mails that were handed over, or not, or skipped, one for each recipient",
            self.mails.clone(),
        );
        ours.register("mail_bounces", "Mails that came back, and complaints, as reported", self.mail_bounces.clone());
        ours.register("queue_jobs", "Jobs in the database, of all processes", self.queue_jobs.clone());
        if process::resident_memory_bytes().is_some() {
            let ours = registry.sub_registry_with_prefix("process");
            let help = "Memory of the process";
            ours.register_with_unit("resident_memory", help, Unit::Bytes, self.resident_memory.clone());
            ours.register("open_fds", "Files and sockets that the process has open", self.open_files.clone());
        }
    }
}

impl Metrics {
    /// Counts an accepted run.
    pub fn count_accepted_run(&self, pipeline: &str, origin: &str) {
        let labels = [("pipeline", self.bounded_label(pipeline)), ("origin", origin.to_owned())];
        self.0.runs_accepted.get_or_create(&labels).inc();
    }

    /// Counts a run that ended.
    pub fn count_ended_run(&self, pipeline: &str, status: &str) {
        let labels = [("pipeline", self.bounded_label(pipeline)), ("status", status.to_owned())];
        self.0.runs_ended.get_or_create(&labels).inc();
    }

    /// Counts a run that was refused because too many runs came before it.
    pub fn count_stopped_chain(&self, pipeline: &str) {
        self.0.chains_stopped.get_or_create(&[("pipeline", self.bounded_label(pipeline))]).inc();
    }

    /// Counts a batch of events that was dropped without a run.
    pub fn count_dropped_event_batch(&self, pipeline: &str) {
        self.0.event_batches_dropped.get_or_create(&[("pipeline", self.bounded_label(pipeline))]).inc();
    }

    /// Records an attempt of a step that ended.
    pub fn record_step_attempt(&self, uses: &str, outcome: &str, took: Duration) {
        let uses = self.bounded_label(uses);
        self.0.step_attempts.get_or_create(&[("uses", uses.clone()), ("outcome", outcome.to_owned())]).inc();
        self.0.step_durations.get_or_create(&[("uses", uses)]).observe(took.as_secs_f64());
    }

    /// Records a served request. `route` is the route template, never a path: paths are unbounded.
    pub fn record_request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let (method, route) = (("method", method.to_owned()), ("route", route.to_owned()));
        let class = ("status", format!("{}xx", status / 100));
        self.0.requests.get_or_create(&[method, route.clone(), class]).inc();
        self.0.request_durations.get_or_create(&[route]).observe(took.as_secs_f64());
    }

    /// Counts a mail by its outcome.
    pub fn count_mail(&self, outcome: &str) {
        self.0.mails.get_or_create(&[("outcome", outcome.to_owned())]).inc();
    }

    /// Counts a reported bounce or complaint.
    pub fn count_bounce(&self, kind: &str) {
        self.0.mail_bounces.get_or_create(&[("kind", kind.to_owned())]).inc();
    }

    /// Encodes all metrics as OpenMetrics text. `queues` is the current state of the database.
    pub fn encode_openmetrics(&self, queues: &[QueueDepth]) -> String {
        let registry = lock_unpoisoned(&self.0.registry);
        self.0.queue_jobs.clear();
        for depth in queues {
            let labels = |state: &str| [("queue", self.bounded_label(&depth.queue)), ("state", state.to_owned())];
            self.0.queue_jobs.get_or_create(&labels("waiting")).inc_by(depth.waiting);
            self.0.queue_jobs.get_or_create(&labels("running")).inc_by(depth.running);
        }
        self.0.resident_memory.set(process::resident_memory_bytes().unwrap_or_default());
        self.0.open_files.set(process::count_open_files().unwrap_or_default());
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &registry);
        text
    }

    fn bounded_label(&self, name: &str) -> String {
        let mut names = lock_unpoisoned(&self.0.label_values);
        if !names.contains(name) {
            if names.len() >= MAX_LABEL_VALUES {
                return "other".to_owned();
            }
            names.insert(name.to_owned());
        }
        name.to_owned()
    }
}

fn lock_unpoisoned<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Figures of this process from `/proc`; `None` on systems other than Linux.
mod process {
    /// The resident memory in bytes.
    pub fn resident_memory_bytes() -> Option<i64> {
        let status = std::fs::read_to_string("/proc/self/status").ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        let kilobytes: i64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kilobytes * 1024)
    }

    /// The number of open files, without the one that lists them.
    pub fn count_open_files() -> Option<i64> {
        let open = std::fs::read_dir("/proc/self/fd").ok()?.count();
        i64::try_from(open).ok().map(|open| open - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_bounded() {
        let metrics = Metrics::default();
        for number in 0..MAX_LABEL_VALUES + 50 {
            metrics.count_ended_run(&format!("pipeline-{number}"), "succeeded");
        }
        let text = metrics.encode_openmetrics(&[]);
        let series = text.lines().filter(|line| line.starts_with("afterload_runs_ended_total{")).count();
        assert_eq!(series, MAX_LABEL_VALUES + 1);
        assert!(text.contains("afterload_runs_ended_total{pipeline=\"other\",status=\"succeeded\"} 50\n"), "{text}");
    }

    #[test]
    fn queue_depths_show_the_last_state_only() {
        let metrics = Metrics::default();
        let depth = |queue: &str, waiting| QueueDepth { queue: queue.into(), waiting, running: 1 };
        assert!(
            metrics
                .encode_openmetrics(&[depth("a\"b", 3)])
                .contains("afterload_queue_jobs{queue=\"a\\\"b\",state=\"waiting\"} 3\n")
        );
        let text = metrics.encode_openmetrics(&[depth("c", 7)]);
        assert!(text.contains("{queue=\"c\",state=\"waiting\"} 7\n") && !text.contains("a\\\"b"), "{text}");
    }
}
