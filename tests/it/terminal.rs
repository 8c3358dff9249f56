//! The command line, with the real binary against the service.

use std::process::Output;

use serde_json::{Value, json};
use tokio::process::Command;

use crate::support::{Database, TestApp, both, eventually};

both!(cli_starts_and_follows_a_run, cli_lists_cancels_and_retries_runs);

async fn afterload(app: &TestApp, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_afterload"));
    command.args(args).current_dir(app.dir.path()).kill_on_drop(true);
    command.env("AFTERLOAD_URL", &app.url).env("AFTERLOAD_KEY", &app.admin_key).output().await.expect("the binary runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn err(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

const PIPELINE: &str = "
name: p
params:
  file: { type: file, accept: [text/plain] }
  n: { type: integer, default: 0 }
  handle: { type: string, default: none }
steps:
  - { id: one, uses: test.step, with: { give: \"${{ params.n + 1 }}\", units: 3 } }
  - { id: two, uses: test.step, with: { file: made.txt, give: \"${{ params.handle }}\" } }
";

async fn cli_starts_and_follows_a_run(database: Database) {
    let app = TestApp::builder(database).pipeline("p", PIPELINE).start().await;
    std::fs::write(app.dir.path().join("note.txt"), "hello").unwrap();
    let run = ["run", "p", "--param", "file=@note.txt", "-p", "n=41", "-p", "handle=@@ana"];
    let followed = afterload(&app, &[&run[..], &["--follow"]].concat()).await;
    let text = out(&followed);
    assert!(followed.status.success(), "{text}{}", err(&followed));
    for line in [
        "  one: 100% succeeded",
        "of p: succeeded",
        "value              42",
        "value              @ana",
        "made.txt (15 bytes)",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    let json = afterload(&app, &[&run[..], &["--follow", "--json"]].concat()).await;
    let shown: Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!((&shown["status"], &shown["params"]["file"]["size"]), (&json!("succeeded"), &json!(5)));
    // The same request with the same key starts one run.
    let keyed = [&run[..], &["--idempotency-key", "k1", "--json"]].concat();
    let ids = [afterload(&app, &keyed).await, afterload(&app, &keyed).await]
        .map(|output| serde_json::from_slice::<Value>(&output.stdout).unwrap()["id"].clone());
    assert_eq!(ids[0], ids[1]);
    app.ended(&json!({ "id": ids[0] })).await;
    for (args, status, message) in [
        (
            &["run", "p", "--param", "n=x"][..],
            1,
            "`file`: it is required and was not given; `n`: expected a whole number, found `x` [params_invalid]",
        ),
        (&["run", "q"], 1, "[pipeline_not_found]\nhint: "),
        (&["run", "p", "--param", "file=@nothing.txt"], 1, "reading `nothing.txt`"),
        (&["run", "p", "--param", "n"], 2, "expected `NAME=VALUE` or `NAME=@FILE`"),
        (&["run", "p", "--key", ""], 1, "the service wants an API key\nhint: export AFTERLOAD_KEY="),
        (&["run", "p", "--key", "wrong"], 1, "[key_invalid]"),
        (&["run", "p", "--url", "http://127.0.0.1:1"], 1, "cannot be reached"),
        (&["run", "p", "--url", "nonsense"], 1, "`nonsense` is no address"),
        (&["runs", "show", "01ARZ3NDEKTSV4RRFFQ69G5FAV"], 1, "[run_not_found]"),
    ] {
        let output = afterload(&app, args).await;
        assert_eq!(output.status.code(), Some(status), "{args:?}: {}", err(&output));
        assert!(err(&output).contains(message), "{args:?}: {}", err(&output));
    }
    app.finish().await;
}

async fn cli_lists_cancels_and_retries_runs(database: Database) {
    let builder = TestApp::builder(database);
    let gate = builder.folder().join("gate");
    let yaml = format!("name: q\nsteps: [{{ id: one, uses: test.step, with: {{ until: \"{}\" }} }}]\n", gate.display());
    let app = builder.pipeline("q", &yaml).start().await;
    let started = afterload(&app, &["run", "q"]).await;
    let text = out(&started);
    let id = text.split_whitespace().nth(1).unwrap().to_owned();
    assert!(text.starts_with("run 01") && text.contains(" of q is "), "{text}");
    app.step_is(&json!({ "id": id }), "one", "running").await;
    let listed = out(&afterload(&app, &["runs", "--pipeline", "q", "--status", "running"]).await);
    assert!(listed.lines().count() == 2 && listed.contains(&format!("{id}  q  ")), "{listed}");
    assert!(afterload(&app, &["runs", "cancel", &id]).await.status.success());
    // Following an ended run shows its end.
    let followed = afterload(&app, &["runs", "follow", &id]).await;
    assert_eq!(followed.status.code(), Some(1));
    assert!(out(&followed).contains("one                  cancelled"), "{}", out(&followed));
    std::fs::write(&gate, "").unwrap();
    let again = afterload(&app, &["runs", "retry", &id, "--follow"]).await;
    assert!(again.status.success() && out(&again).contains("of q: succeeded"), "{}{}", out(&again), err(&again));
    let live = afterload(&app, &["runs", "retry", &id, "--definition", "live"]).await;
    assert!(err(&live).contains("[run_succeeded]"), "{}", err(&live));
    let replayed = afterload(&app, &["runs", "replay", &id, "--follow"]).await;
    assert!(replayed.status.success() && out(&replayed).contains("of q: succeeded"), "{}", err(&replayed));
    assert!(!out(&replayed).contains(&id), "it is a new run");
    let unknown = afterload(&app, &["runs", "replay", &id, "--param", "n=1"]).await;
    assert!(err(&unknown).contains("[params_invalid]"), "{}", err(&unknown));
    let file = afterload(&app, &["runs", "replay", &id, "--param", "file=@a.txt"]).await;
    assert!(err(&file).contains("a replay uploads no file"), "{}", err(&file));
    let twice = afterload(&app, &["runs", "retry", &id]).await;
    assert!(err(&twice).contains("[run_succeeded]"), "{}", err(&twice));
    eventually("an empty queue", async || (app.app.engine.count_jobs().await.unwrap() == 0).then_some(())).await;
    app.finish().await;
}
