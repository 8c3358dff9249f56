//! The soak: measures the promises of `ARCHITECTURE.md`. Each test prints a line for the table of `scripts/soak.sh`,
//! and fails if its figure does not hold. Ordinary test runs use the short form; `AFTERLOAD_TEST_SOAK=full` selects the
//! full one.
#![expect(clippy::print_stdout, reason = "what it prints is the table")]

mod events;
mod fan_out;
mod import;
mod keys;
mod kills;
mod leases;
mod outage;
mod poison;
mod progress;

use std::fmt::Debug;

use crate::support::{Database, Place, Process, eventually};

/// True in the full form.
pub fn full() -> bool {
    std::env::var("AFTERLOAD_TEST_SOAK").is_ok_and(|size| size == "full")
}

/// Returns the first value in the short form, the second in the full form.
pub fn size(short: usize, long: usize) -> usize {
    if full() { long } else { short }
}

/// The lease in seconds. The full form uses the default.
fn lease() -> usize {
    size(6, 15)
}

/// Prints a line of the table. The figure must equal its expected value.
pub fn figure<T: PartialEq + Debug>(number: &str, database: Database, what: &str, expected: &T, found: &T) {
    let holds = if expected == found { "holds" } else { "FAILS" };
    println!("FIGURE|{number}|{database:?}|{what}|{expected:?}|{found:?}|{holds}");
    assert_eq!(found, expected, "figure {number} on {database:?}: {what}");
}

/// Prints a line of the table for a value with an upper limit.
pub fn at_most(number: &str, database: Database, what: &str, most: usize, found: usize) {
    let holds = if found <= most { "holds" } else { "FAILS" };
    println!("FIGURE|{number}|{database:?}|{what}|at most {most}|{found}|{holds}");
    assert!(found <= most, "figure {number} on {database:?}: {what}: {found}, more than {most}");
}

/// Kills the service while rows are written, each time after new rows have appeared. `rows` is the SQL that counts them
/// in the application's database, and `total` is the final count. Returns the number of kills that were in time, and
/// the last process.
async fn killed(place: &Place, mut process: Process, kills: usize, rows: &str, total: usize) -> (usize, Process) {
    let (mut in_time, mut before) = (0, 0);
    for kill in 1..=kills {
        let wanted = total * kill / (kills + 2);
        before = eventually("more rows", async || {
            let now = place.numbers(rows).await[0] as usize;
            (now >= total || now >= wanted && now > before).then_some(now)
        })
        .await;
        in_time += usize::from(before < total);
        process.kill().await;
        place.forget_the_dead().await;
        process = place.start().await;
    }
    (in_time, process)
}
