//! Figure 10: rows for many followers through kills.

use serde_json::{Value, json};

use super::{figure, size};
use crate::notify::table::{FOLLOWS, TIMELINE, WHOLE, yaml};
use crate::notify::{counts, id};
use crate::support::{Database, Place, both};

both!(figure_10_a_fan_out_through_kills);

const ROWS: i64 = 50_000;

/// Rows that take a while, and a log in which a row that was written twice would be there twice.
fn slow(database: Database) -> String {
    let slow = match database {
        Database::Sqlite => {
            "CREATE TRIGGER note AFTER INSERT ON timeline BEGIN INSERT INTO made VALUES (NEW.person); END;
             CREATE TRIGGER slow AFTER INSERT ON timeline WHEN NEW.person % 500 = 0 BEGIN
             SELECT COUNT(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 200000) SELECT x FROM c);
             END"
        }
        Database::Postgres => {
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO made VALUES (NEW.person); IF NEW.person % 500 = 0 THEN PERFORM pg_sleep(0.08); END IF; RETURN NEW; END $$;
             CREATE TRIGGER note AFTER INSERT ON timeline FOR EACH ROW EXECUTE FUNCTION note()"
        }
    };
    format!(
        "{FOLLOWS};
         DELETE FROM follows;
         INSERT INTO follows WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {ROWS}) SELECT 1, x, 'en' FROM c;
         CREATE TABLE made (person BIGINT NOT NULL);
         {slow}"
    )
}

async fn figure_10_a_fan_out_through_kills(database: Database) {
    let kills = size(3, 50);
    let done = |run: &Value| run["steps"][0]["progress"]["done"].as_i64().unwrap_or(0);
    let place = Place::new(database).await;
    place.sql(&slow(database)).await;
    place.pipeline("p", &yaml("chunk: 500", WHOLE));
    let mut process = place.start().await;
    let run = process.start_run("p", json!({ "post": 1, "text": "@ann @stranger" })).await;
    let mut in_time = 0;
    for kill in 1..=kills {
        let wanted = ROWS * kill as i64 / (kills as i64 + 2);
        let look = |run: &Value| {
            let ended = !run["finished_at"].is_null();
            (ended || done(run) >= wanted).then_some(ended)
        };
        in_time += usize::from(!process.until("progress", id(&run), look).await);
        process.kill().await;
        place.forget_the_dead().await;
        process = place.start().await;
    }
    let run = process.until("the end", id(&run), |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!(run["status"], "succeeded", "{run}\n{}", place.log());
    // Both who are named follow.
    assert_eq!(counts(&run), [2, ROWS, ROWS, 2, 0], "{run}");
    assert_eq!(done(&run), ROWS + 2);
    assert_eq!(place.numbers(&format!("{TIMELINE} 1")).await, [ROWS, ROWS, 2, ROWS - 2]);
    let made = place.numbers("SELECT COUNT(*), COUNT(DISTINCT person) FROM made").await;
    let what = format!("{ROWS} followers through kills: kills before the end, rows written, people");
    figure("10", database, &what, &[kills as i64, ROWS, ROWS], &[in_time as i64, made[0], made[1]]);
    assert!(process.terminate().await.success());
}
