//! The chart of the last day, drawn by the server.

use crate::day_counts::{CountsBySpan, SPAN_MS, SPANS};
use crate::numbers::{counted, grouped};
use crate::times::time_of_day;
use afterload_core::clock::UnixMillis;
use afterload_server::api::Caller;

/// The height of the tallest bar, in units of the picture.
const HEIGHT: i64 = 100;
/// The width of a bar with the gap behind it.
const STEP: i64 = 10;
const BAR_WIDTH: i64 = 8;
/// A label stands under each of these spans: every six hours.
const SPANS_PER_LABEL: i64 = 24;

/// The chart, and what it counts in all.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct DayChart {
    pub bars: Vec<Bar>,
    pub labels: Vec<String>,
    /// The chart in a sentence.
    pub summary: String,
    pub ended: i64,
    pub failed: i64,
}

/// The runs that ended in a quarter of an hour.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Bar {
    pub x: i64,
    pub width: i64,
    pub y: i64,
    pub height: i64,
    /// The part for failed runs, at the bottom.
    pub failed_y: i64,
    pub failed_height: i64,
    pub title: String,
}

/// Draws the runs that this caller may read.
pub(crate) fn day_chart(counts: &CountsBySpan, caller: &Caller, now: UnixMillis) -> DayChart {
    let first = now.div_euclid(SPAN_MS) - SPANS + 1;
    let totals: Vec<(i64, i64)> = (first..first + SPANS)
        .map(|span| {
            let readable = counts.get(&span).into_iter().flatten().filter(|count| caller.can_read(&count.pipeline));
            readable.fold((0, 0), |(ended, failed), count| {
                let failures = if count.status == "failed" { count.number } else { 0 };
                (ended + count.number, failed + failures)
            })
        })
        .collect();
    draw(&totals, first)
}

fn draw(totals: &[(i64, i64)], first: i64) -> DayChart {
    let most = totals.iter().map(|(ended, _)| *ended).max().unwrap_or_default().max(1);
    // What is there is seen, however small its share is.
    let scale = |number: i64| if number == 0 { 0 } else { (number * HEIGHT / most).max(2) };
    let (mut ended, mut failed) = (0_i64, 0_i64);
    let mut bars = Vec::new();
    for ((all, failures), index) in totals.iter().zip(0_i64..) {
        ended += all;
        failed += failures;
        let (height, failed_height) = (scale(*all), scale(*failures));
        let from = (first + index) * SPAN_MS;
        if *all > 0 {
            bars.push(Bar {
                x: index * STEP,
                width: BAR_WIDTH,
                y: HEIGHT - height,
                height,
                failed_y: HEIGHT - failed_height,
                failed_height,
                title: format!("{} UTC: {}, {} failed", time_of_day(from), counted(*all, "run"), grouped(*failures)),
            });
        }
    }
    let labels = (0..SPANS).step_by(SPANS_PER_LABEL as usize).map(|index| time_of_day((first + index) * SPAN_MS));
    let summary = format!("{} ended in the last 24 hours, {} of them failed", counted(ended, "run"), grouped(failed));
    DayChart { bars, labels: labels.collect(), summary, ended, failed }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_share_one_scale_and_failures_are_seen() {
        let mut totals = vec![(0, 0); SPANS as usize];
        (totals[0], totals[95]) = ((100, 0), (10_000, 1));
        let chart = draw(&totals, 0);
        assert_eq!((chart.ended, chart.failed, chart.bars.len()), (10_100, 1, 2));
        let heights: Vec<_> = chart.bars.iter().map(|bar| (bar.height, bar.failed_height)).collect();
        assert_eq!(heights, [(2, 0), (HEIGHT, 2)]);
        assert_eq!(chart.bars[1].title, "23:45 UTC: 10,000 runs, 1 failed");
        assert_eq!(chart.labels, ["00:00", "06:00", "12:00", "18:00"]);
        assert_eq!(chart.summary, "10,100 runs ended in the last 24 hours, 1 of them failed");
        assert!(draw(&[], 0).bars.is_empty());
    }
}
