//! Kills during uploads: each object is imported once.

use bytes::Bytes;

use crate::support::{Database, Place, both, eventually};

both!(kill_between_upload_and_run_loses_no_object);

const PIPELINE: &str = r#"
name: rows
triggers: [{ type: s3, bucket: uploads, prefix: in/ }]
params:
  file: { type: file }
steps:
  - id: import
    uses: csv.import
    with:
      source: "${{ params.file }}"
      into: { table: rows_of }
      columns:
        id: { type: integer, required: true }
"#;
/// The number of objects before each kill.
const BEFORE: [usize; 4] = [3, 11, 1, 20];

async fn kill_between_upload_and_run_loses_no_object(database: Database) {
    let place = Place::new(database).await;
    place.pipeline("rows", PIPELINE);
    // Without a unique key, a file that is imported twice is visible.
    place.sql("CREATE TABLE rows_of (id BIGINT NOT NULL)").await;
    let mut process = place.start().await;
    let mut written = 0;
    for count in BEFORE {
        let client = place.s3();
        for _ in 0..count {
            written += 1;
            let body = Bytes::from(format!("id\n{written}\n"));
            let put = client.put_object().bucket("uploads").key(format!("in/{written}.csv"));
            put.content_type("text/csv").body(body.into()).send().await.expect("the object is written");
        }
        process.kill().await;
        place.forget_the_dead().await;
        process = place.start().await;
    }
    let found = eventually("all imports", async || {
        let found = place.numbers("SELECT COUNT(*), COUNT(DISTINCT id) FROM rows_of").await;
        (found[1] == written).then_some(found)
    });
    assert_eq!(found.await, [written, written]);
    let runs = eventually("the ends of all runs", async || {
        let runs = process.get("/v1/runs?limit=100").await["runs"].as_array().expect("runs").clone();
        runs.iter().all(|run| run["status"] == "succeeded").then_some(runs)
    });
    assert_eq!(runs.await.len() as i64, written);
    assert_eq!(place.numbers("SELECT COUNT(*) FROM rows_of").await[0], written);
    assert!(process.terminate().await.success());
}
