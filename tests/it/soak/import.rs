//! Figure 9: an import despite kills.

use super::{at_most, figure, killed, size};
use crate::crash;
use crate::support::{Database, both};
use crate::sweep::seen;

both!(figure_9_import_is_exact_despite_kills);

/// The rows of a chunk.
const CHUNK: usize = 2000;
/// PostgreSQL does not roll back a sequence, so it also counts rows that were rolled back.
const COUNT_TRIES: &str = "CREATE SEQUENCE tries;
    CREATE FUNCTION count_try() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM nextval('tries'); RETURN NEW; END $$;
    CREATE TRIGGER count_try BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION count_try()";

async fn figure_9_import_is_exact_despite_kills(database: Database) {
    let (rows, kills) = (size(60_000, 1_000_000), size(3, 50));
    let place = crash::place(database).await;
    if let Database::Postgres = database {
        place.sql(COUNT_TRIES).await;
    }
    let file = place.dir.path().join("people.csv");
    let facts = crash::people(&file, rows as u64);
    let process = place.start().await;
    let run = process.upload("people", &file).await;
    let id = run["id"].as_str().expect("an id").to_owned();
    let good = rows - facts.1 as usize;
    let (in_time, process) = killed(&place, process, kills, "SELECT COUNT(*) FROM people", good).await;
    let run = process.until("the end", &id, |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    let errors = crash::check(&place, &process, &run, rows as u64, facts).await;
    let what = format!("{rows} rows through kills: kills before the end, rows and their sum as in the file");
    figure("9", database, &what, &(kills, true), &(in_time, true));
    if let Database::Postgres = database {
        let tries = place.numbers("SELECT last_value FROM tries").await[0] as usize;
        let in_vain = tries - good;
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
    // The lines contain the id of their run, which differs.
    let [errors, undisturbed] = [errors, undisturbed].map(|file| seen::plain(&String::from_utf8_lossy(&file)));
    let differs = errors.lines().zip(undisturbed.lines()).find(|(one, other)| one != other);
    let what =
        "the error file is that of an undisturbed import, byte for byte but for the run's id; what differs first";
    figure("9", database, what, &(true, None), &(errors == undisturbed, differs));
    assert!(process.terminate().await.success());
}
