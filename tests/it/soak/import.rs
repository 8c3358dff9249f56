//! Figure 9: an import through kills.

use super::{at_most, figure, size};
use crate::crash;
use crate::support::{Database, both};

both!(figure_9_an_import_through_kills);

/// Rows that are committed together.
const CHUNK: usize = 2000;
/// A sequence of PostgreSQL is not rolled back: it counts the rows that were written in vain too.
const COUNT_TRIES: &str = "CREATE SEQUENCE tries;
    CREATE FUNCTION count_try() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('tries'); RETURN NEW; END $$;
    CREATE TRIGGER count_try BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION count_try()";

async fn figure_9_an_import_through_kills(database: Database) {
    let (rows, kills) = (size(120_000, 1_000_000), size(3, 50));
    let place = crash::place(database).await;
    if let Database::Postgres = database {
        place.sql(COUNT_TRIES).await;
    }
    let file = place.dir.path().join("people.csv");
    let facts = crash::people(&file, rows as u64);
    let mut process = place.start().await;
    let run = process.upload("people", &file).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    let mut in_time = 0;
    for kill in 1..=kills {
        // The import goes on after each kill before the next one comes.
        let wanted = (rows * kill / (kills + 2)) as u64;
        let ended = process
            .until("progress", &id, |run| {
                let ended = !run["finished_at"].is_null();
                (ended || crash::rows(run) >= wanted).then_some(ended)
            })
            .await;
        in_time += usize::from(!ended);
        process.kill().await;
        place.forget_the_dead().await;
        process = place.start().await;
    }
    let run = process.until("the end", &id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    let errors = crash::check(&place, &process, &run, rows as u64, facts).await;
    let what = format!("{rows} rows through kills: kills before the end, rows and their sum as in the file");
    figure("9", database, &what, &(kills, true), &(in_time, true));
    if let Database::Postgres = database {
        let tries = place.numbers("SELECT last_value FROM tries").await[0] as usize;
        let in_vain = tries - (rows - facts.1 as usize);
        at_most("9", database, "rows written in vain, a chunk for each kill", kills * CHUNK, in_vain);
    }
    let gone = match database {
        Database::Sqlite => "DROP TRIGGER slow",
        Database::Postgres => "DROP TRIGGER slow ON people",
    };
    place.sql(&format!("{gone}; DELETE FROM people")).await;
    let run = process.upload("people", &file).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    let run = process.until("the end", &id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    let undisturbed = crash::check(&place, &process, &run, rows as u64, facts).await;
    figure(
        "9",
        database,
        "the error file is that of an undisturbed import, byte for byte",
        &true,
        &(errors == undisturbed),
    );
    assert!(process.terminate().await.success());
}
