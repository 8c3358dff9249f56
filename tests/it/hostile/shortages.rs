//! What the machine lacks: steps wait for it, and no attempt is counted.

use serde_json::{Value, json};

use crate::support::{Database, TestApp, both, eventually, log_of};

both!(steps_wait_for_what_the_machine_lacks);

async fn steps_wait_for_what_the_machine_lacks(database: Database) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    // EMFILE, ENOSPC and ENOMEM. One counted attempt would fail the run.
    let step = |id: &str, number: i32| {
        format!(
            "  - {{ id: {id}, uses: test.step, needs: [], with: {{ os_error: [{number}, {}] }} }}\n",
            gate.display()
        )
    };
    let steps = [step("files", 24), step("disk", 28), step("memory", 12)].concat();
    let yaml = format!("name: p\ndefaults: {{ retry: {{ attempts: 1 }} }}\nsteps:\n{steps}");
    let app = builder.pipeline("p", &yaml).start().await;
    let run = app.run("p", json!({})).await;
    let id = run["id"].as_str().unwrap();
    let parked = eventually("three parked steps", async || {
        let again = |step: &str| log_of(id).iter().filter(|line| **line == format!("{step}#1")).count() > 2;
        let run = app.show(id).await;
        let steps = run["steps"].as_array().unwrap();
        let parked = steps.iter().all(|step| step["status"] == "queued" && again(step["id"].as_str().unwrap()));
        parked.then_some(run)
    })
    .await;
    let codes: Vec<&Value> = parked["steps"].as_array().unwrap().iter().map(|step| &step["error"]["code"]).collect();
    assert_eq!(codes, ["too_many_open_files", "disk_full", "out_of_memory"], "{parked}");
    std::fs::write(&gate, "").unwrap();
    let ended = app.ended(&run).await;
    assert_eq!(ended["status"], "succeeded", "{ended}");
    assert!(ended["steps"].as_array().unwrap().iter().all(|step| step["error"].is_null() && step["attempt"] == 1));
    app.finish().await;
}
