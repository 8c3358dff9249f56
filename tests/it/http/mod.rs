//! HTTP requests of steps, notifications at the end of runs, and incoming webhooks.

mod hostile;
mod incoming_webhooks;
mod notify;
pub(crate) mod receiver;
mod request;

use std::io::Write;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{TestApp, python};
use receiver::Call;

/// The reference implementation of the standard, as receivers of webhooks use it.
const VERIFY: &str = "
import json, sys
from standardwebhooks import Webhook, WebhookVerificationError
given = json.load(sys.stdin)
webhook = Webhook(given['secret'])
webhook.verify(given['body'], given['headers'])
for other in [dict(given, body=given['body'] + ' '), dict(given, headers=dict(given['headers'], **{'webhook-id': 'x'}))]:
    try:
        webhook.verify(other['body'], other['headers'])
    except WebhookVerificationError:
        continue
    sys.exit('a forged message was taken')
";

/// Fails unless the reference implementation accepts the signature of the call.
pub(crate) fn verify(secret: &str, call: &Call) {
    let mut child = Command::new(python()).args(["-c", VERIFY]).stdin(Stdio::piped()).spawn().expect("Python starts");
    let given = json!({ "secret": secret, "body": call.body, "headers": call.headers });
    child.stdin.take().unwrap().write_all(given.to_string().as_bytes()).unwrap();
    assert!(child.wait().unwrap().success(), "{call:?}");
}

/// Returns the webhook secret of an application, as `afterload key webhook` prints it.
pub(crate) fn secret(app: &TestApp) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_afterload"));
    command.args(["key", "webhook"]).current_dir(app.dir.path()).env("AFTERLOAD_DATA", &app.config.data);
    if let Some(key) = &app.config.secret_key {
        command.env("AFTERLOAD_SECRET_KEY", key.expose_secret());
    }
    let output = command.output().expect("the binary runs");
    assert!(output.status.success(), "{output:?}");
    let secret = String::from_utf8(output.stdout).unwrap();
    assert!(secret.starts_with("whsec_") && secret.ends_with('\n'), "{secret}");
    secret.trim().to_owned()
}

/// Returns the error of a step.
fn error<'a>(run: &'a Value, step: &str) -> &'a Value {
    let steps = run["steps"].as_array().expect("steps");
    &steps.iter().find(|known| known["id"] == step).expect("the step")["error"]
}

/// Returns the outputs of a step.
fn outputs<'a>(run: &'a Value, step: &str) -> &'a Value {
    let steps = run["steps"].as_array().expect("steps");
    &steps.iter().find(|known| known["id"] == step).expect("the step")["outputs"]
}
