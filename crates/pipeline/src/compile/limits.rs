//! Compiles `concurrency` and `rate_limit`.

use super::super::ast::{self, StepAst};
use super::super::expr::check::NameScope;
use super::super::plan::{Concurrency, RateLimit};
use super::context::CompileContext;
use super::{Diagnostics, expressions};
use afterload_spanned_yaml::YamlNode;

/// From one start in 11 days to one start per millisecond.
const PER_SECOND_RANGE: std::ops::RangeInclusive<f64> = 0.000_001..=1000.0;

pub fn compile_concurrency(
    file: &CompileContext<'_>,
    raw: Option<&ast::ConcurrencyAst>,
    faults: &mut Diagnostics,
) -> Option<Concurrency> {
    if let Some(key) = file.root.get("concurrency").and_then(|node| node.get("key")) {
        let secrets = file.ctx.secrets.as_ref();
        let known = NameScope { params: file.param_fields, event: file.event, secrets, ..NameScope::default() };
        expressions::check_expressions(key, &known, faults);
    }
    let ast::ConcurrencyAst { key, limit, on_conflict } = raw?;
    if *limit == Some(0) {
        faults.report_invalid(file.root.closest_node(&["concurrency", "limit"]).span, "`limit` must be at least 1", "");
    }
    let on_conflict = on_conflict.unwrap_or_default();
    Some(Concurrency { key: key.clone(), limit: limit.unwrap_or(1), on_conflict })
}

pub fn compile_rate_limit(
    node: &YamlNode,
    raw: &StepAst,
    known: &NameScope<'_>,
    faults: &mut Diagnostics,
) -> Option<RateLimit> {
    if let Some(key) = node.get("rate_limit").and_then(|node| node.get("key")) {
        expressions::check_expressions(key, known, faults);
    }
    let ast::RateLimitAst { key, per_second } = raw.rate_limit.as_ref()?;
    if !PER_SECOND_RANGE.contains(per_second) {
        let hint = "0.2 is one start in 5 seconds";
        let span = node.closest_node(&["rate_limit", "per_second"]).span;
        faults.report_invalid(span, "`per_second` must be from 0.000001 to 1000", hint);
    }
    Some(RateLimit { key: key.clone(), interval_ms: start_interval_ms(*per_second) })
}

/// Rounds the interval up, so that the rate never exceeds `per_second`.
fn start_interval_ms(per_second: f64) -> i64 {
    (1000.0 / per_second).ceil() as i64
}

#[cfg(test)]
mod tests {
    use super::start_interval_ms;

    #[test]
    fn rate_limit_interval_is_rounded_up() {
        let intervals = [1000.0, 300.0, 10.0, 3.0, 0.2, 0.001].map(start_interval_ms);
        assert_eq!(intervals, [1, 4, 100, 334, 5_000, 1_000_000]);
    }
}
