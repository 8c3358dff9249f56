//! Counts the steps of parsers and matchers, so that tests can prove that their work grows with the input and no
//! faster. Time cannot prove that on a shared machine.
//!
//! Code that reads outside input searches with [`search_text`] and counts each round of its loops with [`count_steps`]. A
//! search that starts over at each place then counts the same bytes again and again, and [`assert_linear`] fails.
//! Builds without debug assertions count nothing.

use std::cell::Cell;

/// The sizes of the hostile inputs, in repetitions. Each is twice the one before.
const REPETITIONS: [usize; 4] = [1_000, 2_000, 4_000, 8_000];
/// How much more work the doubled input may take. Linear work takes 2 times as much, quadratic work 4 times.
const MAX_GROWTH: f64 = 2.5;

thread_local! {
    static STEPS: Cell<u64> = const { Cell::new(0) };
}

/// Counts the bytes or rounds that a loop has just handled.
pub fn count_steps(steps: usize) {
    if cfg!(debug_assertions) {
        STEPS.with(|counted| counted.set(counted.get() + steps as u64));
    }
}

/// The same as [`str::find`], with the bytes that it passes counted.
pub fn search_text(text: &str, needle: &str) -> Option<usize> {
    let found = text.find(needle);
    count_steps(found.map_or(text.len(), |at| at + needle.len()));
    found
}

/// Runs `work` and returns the steps that it has counted on this thread.
pub fn measure_steps(work: impl FnOnce()) -> u64 {
    let before = STEPS.with(Cell::get);
    work();
    STEPS.with(Cell::get) - before
}

/// For tests: checks that the work of `parse` grows no faster than its input, which `shape` makes of a number of
/// repetitions.
///
/// # Panics
/// If doubled input takes more than 2.5 times the steps, or if `parse` counts none.
pub fn assert_linear(name: &str, shape: impl Fn(usize) -> String, parse: impl Fn(&str)) {
    if !cfg!(debug_assertions) {
        return;
    }
    let steps = REPETITIONS.map(|repetitions| {
        let input = shape(repetitions);
        measure_steps(|| parse(&input))
    });
    assert!(steps[0] > 0, "{name}: the parser counts no steps");
    for pair in steps.windows(2) {
        let growth = pair[1] as f64 / pair[0] as f64;
        assert!(growth <= MAX_GROWTH, "{name}: doubled input takes {growth:.1} times the steps: {steps:?}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Searches from every place to the end.
    fn parse_quadratically(text: &str) {
        for (at, _) in text.char_indices() {
            search_text(&text[at..], "]");
        }
    }

    #[test]
    fn linear_work_passes() {
        assert_linear(
            "linear",
            |count| "[".repeat(count),
            |text| {
                search_text(text, "]");
            },
        );
    }

    #[test]
    #[cfg_attr(debug_assertions, should_panic(expected = "doubled input takes"))]
    fn quadratic_work_fails() {
        assert_linear("quadratic", |count| "[".repeat(count), parse_quadratically);
    }
}
