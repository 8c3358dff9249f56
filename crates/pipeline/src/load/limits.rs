//! Checks and settles `concurrency` and `rate_limit`.

use super::super::expr::check::Known;
use super::super::plan::{Concurrency, RateLimit};
use super::super::raw::{self, RawStep};
use super::steps::File;
use super::{Faults, expressions};
use afterload_spanned_yaml::Node;

/// What `per_second` may be: from one start in 11 days to one in each millisecond.
const RATES: std::ops::RangeInclusive<f64> = 0.000_001..=1000.0;

/// The settled `concurrency` of a pipeline.
pub fn concurrency(file: &File<'_>, raw: Option<&raw::Concurrency>, faults: &mut Faults) -> Option<Concurrency> {
    if let Some(key) = file.root.get("concurrency").and_then(|node| node.get("key")) {
        let secrets = file.around.secrets.as_ref();
        let known = Known { params: file.params, event: file.event, secrets, ..Known::default() };
        expressions::check_all(key, &known, faults);
    }
    let raw::Concurrency { key, limit, on_conflict } = raw?;
    if *limit == Some(0) {
        faults.invalid(file.root.nearest(&["concurrency", "limit"]).span, "`limit` must be at least 1", "");
    }
    let on_conflict = on_conflict.unwrap_or_default();
    Some(Concurrency { key: key.clone(), limit: limit.unwrap_or(1), on_conflict })
}

/// The settled `rate_limit` of a step.
pub fn rate(node: &Node, raw: &RawStep, known: &Known<'_>, faults: &mut Faults) -> Option<RateLimit> {
    if let Some(key) = node.get("rate_limit").and_then(|node| node.get("key")) {
        expressions::check_all(key, known, faults);
    }
    let raw::RateLimit { key, per_second } = raw.rate_limit.as_ref()?;
    if !RATES.contains(per_second) {
        let hint = "0.2 is one start in 5 seconds";
        let span = node.nearest(&["rate_limit", "per_second"]).span;
        faults.invalid(span, "`per_second` must be from 0.000001 to 1000", hint);
    }
    Some(RateLimit { key: key.clone(), interval_ms: interval(*per_second) })
}

/// What lies between two starts. Rounded up, so that there are never more.
fn interval(per_second: f64) -> i64 {
    (1000.0 / per_second).ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::interval;

    #[test]
    fn there_are_never_more_starts_than_were_said() {
        let intervals = [1000.0, 300.0, 10.0, 3.0, 0.2, 0.001].map(interval);
        assert_eq!(intervals, [1, 4, 100, 334, 5_000, 1_000_000]);
    }
}
