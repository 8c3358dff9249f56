//! Figure 10: rows for many followers despite kills.

use serde_json::json;

use super::{figure, killed, size};
use crate::notify::table::{FOLLOWS, TIMELINE, WHOLE, yaml};
use crate::notify::{counts, id};
use crate::support::{Database, Place, both};

both!(figure_10_fan_out_is_exact_despite_kills);

/// Makes inserts slow, and logs them, so that a row that is written twice is visible.
fn slow(database: Database, chunk: usize, rows: i64) -> String {
    let slow = match database {
        Database::Sqlite => format!(
            "CREATE TRIGGER note AFTER INSERT ON timeline BEGIN INSERT INTO made VALUES (NEW.person); END;
             CREATE TRIGGER slow AFTER INSERT ON timeline WHEN NEW.person % {chunk} = 0 BEGIN
             SELECT COUNT(*) FROM (WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < 200000) SELECT x FROM c);
             END"
        ),
        Database::Postgres => format!(
            "CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             INSERT INTO made VALUES (NEW.person); IF NEW.person % {chunk} = 0 THEN PERFORM pg_sleep(0.1); END IF; RETURN NEW; END $$;
             CREATE TRIGGER note AFTER INSERT ON timeline FOR EACH ROW EXECUTE FUNCTION note()"
        ),
    };
    format!(
        "{FOLLOWS};
         DELETE FROM follows;
         INSERT INTO follows WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c WHERE x < {rows}) SELECT 1, x, 'en' FROM c;
         CREATE TABLE made (person BIGINT NOT NULL);
         {slow}"
    )
}

async fn figure_10_fan_out_is_exact_despite_kills(database: Database) {
    // More kills need smaller chunks between them.
    let (kills, chunk, rows) = (size(3, 50), size(500, 100), size(20_000, 50_000) as i64);
    let place = Place::new(database).await;
    place.sql(&slow(database, chunk, rows)).await;
    place.pipeline("p", &yaml(&format!("chunk: {chunk}"), WHOLE));
    let process = place.start().await;
    let run = process.start_run("p", json!({ "post": 1, "text": "@ann @stranger" })).await;
    let (in_time, process) = killed(&place, process, kills, "SELECT COUNT(*) FROM made", rows as usize).await;
    let run = process.until("the end", id(&run), |run| (!run["finished_at"].is_null()).then(|| run.clone())).await;
    assert_eq!(run["status"], "succeeded", "{run}\n{}", place.log());
    // Both mentioned people also follow.
    assert_eq!(counts(&run), [2, rows, rows, 2, 0], "{run}");
    assert_eq!(run["steps"][0]["progress"]["done"], rows + 2);
    assert_eq!(place.numbers(&format!("{TIMELINE} 1")).await, [rows, rows, 2, rows - 2]);
    let made = place.numbers("SELECT COUNT(*), COUNT(DISTINCT person) FROM made").await;
    let what = format!("{rows} followers through kills: kills before the end, rows written, people");
    figure("10", database, &what, &[kills as i64, rows, rows], &[in_time as i64, made[0], made[1]]);
    assert!(process.terminate().await.success());
}
