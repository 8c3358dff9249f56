//! How many runs ended in the last day, by quarter of an hour.
//!
//! The first reading counts the whole day by an index. Later ones count again only the quarters in which something may
//! have ended since, and one older quarter in turn, because retries and retention take runs out of it. So a page costs
//! the same with a million runs as with ten.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::Mutex;

use afterload_core::clock::UnixMillis;
use afterload_core::error::Result;
use afterload_state::{Db, EndedRunCount};

/// The length of a span.
pub(crate) const SPAN_MS: i64 = 15 * 60 * 1000;
/// The number of spans: a day.
pub(crate) const SPANS: i64 = 96;
/// The counts are read again after this time.
const REFRESH_MS: i64 = 2_000;

/// The counts of a day by the number of their span.
pub(crate) type CountsBySpan = BTreeMap<i64, Vec<EndedRunCount>>;

/// Reads the counts and keeps them.
pub(crate) struct DayCounts {
    db: Db,
    kept: Mutex<Option<KeptCounts>>,
}

struct KeptCounts {
    read_at: UnixMillis,
    /// The last span of the reading.
    last_span: i64,
    /// The older span that is counted again next.
    next_span: i64,
    counts: Arc<CountsBySpan>,
}

impl DayCounts {
    pub(crate) fn new(db: Db) -> Self {
        Self { db, kept: Mutex::default() }
    }

    /// The counts, at most two seconds old.
    ///
    /// # Errors
    /// An error of the database.
    pub(crate) async fn read(&self, now: UnixMillis) -> Result<Arc<CountsBySpan>> {
        let mut kept = self.kept.lock().await;
        if let Some(kept) = kept.as_ref().filter(|kept| (kept.read_at..kept.read_at + REFRESH_MS).contains(&now)) {
            return Ok(kept.counts.clone());
        }
        let span = now.div_euclid(SPAN_MS);
        let oldest = span - SPANS + 1;
        let (mut counts, first, again) = match kept.as_ref() {
            Some(kept) if kept.last_span >= oldest => {
                let again = if (oldest..kept.last_span).contains(&kept.next_span) { kept.next_span } else { oldest };
                // The span before may still have grown after its last reading.
                (CountsBySpan::clone(&kept.counts), (kept.last_span - 1).max(oldest), again)
            }
            _ => (CountsBySpan::new(), oldest, oldest),
        };
        counts.retain(|known, _| (oldest..first).contains(known) && *known != again);
        let mut found = self.db.runs().count_ended(first * SPAN_MS, i64::MAX, SPAN_MS).await?;
        if again < first {
            found.extend(self.db.runs().count_ended(again * SPAN_MS, (again + 1) * SPAN_MS, SPAN_MS).await?);
        }
        for count in found {
            counts.entry(count.span).or_default().push(count);
        }
        let counts = Arc::new(counts);
        *kept = Some(KeptCounts { read_at: now, last_span: span, next_span: again + 1, counts: counts.clone() });
        Ok(counts)
    }
}

#[cfg(test)]
mod tests {
    use afterload_core::clock::Clock;

    use super::*;

    /// The number of runs in all spans, and in that of `now`.
    fn totals(counts: &CountsBySpan, now: UnixMillis) -> (i64, i64) {
        let of = |counts: &Vec<EndedRunCount>| counts.iter().map(|count| count.number).sum::<i64>();
        (counts.values().map(of).sum(), counts.get(&now.div_euclid(SPAN_MS)).map_or(0, of))
    }

    #[tokio::test]
    async fn later_readings_count_what_has_changed() {
        let folder = tempfile::tempdir().unwrap();
        let url = format!("sqlite://{}", folder.path().join("a.db").display());
        let db = Db::open(&url, Clock::system()).await.unwrap();
        let definition = "INSERT INTO definitions (digest, name, source, created_at) VALUES ('d', 'a', '', 0)";
        db.execute(definition, &[]).await.unwrap();
        let end_run = async |id: &str, at: UnixMillis| {
            let sql = format!(
                "INSERT INTO runs (id, pipeline, digest, status, origin, params, revision, created_at, finished_at)
                 VALUES ('{id}', 'a', 'd', 'succeeded', 'api', '{{}}', 1, 0, {at})"
            );
            db.execute(&sql, &[]).await.unwrap();
        };
        let (counts, start) = (DayCounts::new(db.clone()), 1_000 * SPAN_MS);
        let read = async |now: UnixMillis| totals(&counts.read(now).await.unwrap(), now);
        end_run("too-old", start - SPANS * SPAN_MS).await;
        end_run("old", start - 50 * SPAN_MS).await;
        end_run("new", start).await;
        assert_eq!(read(start).await, (2, 1));
        end_run("newer", start + 1).await;
        assert_eq!(read(start + 1).await, (2, 1), "at most two seconds old");
        assert_eq!(read(start + REFRESH_MS).await, (3, 2));
        // The span before is counted again, for what ended after its last reading.
        end_run("late", start + SPAN_MS - 1).await;
        end_run("newest", start + SPAN_MS).await;
        assert_eq!(read(start + SPAN_MS).await, (5, 1));
        // A deleted run leaves its span once it has had its turn.
        db.execute("DELETE FROM runs WHERE id = 'old'", &[]).await.unwrap();
        let mut now = start + SPAN_MS;
        for _ in 0..SPANS {
            now += REFRESH_MS;
            read(now).await;
        }
        assert_eq!(read(now).await, (4, 1));
        // After a day without a look, all is counted again.
        assert_eq!(read(now + 2 * SPANS * SPAN_MS).await, (0, 0));
    }
}
