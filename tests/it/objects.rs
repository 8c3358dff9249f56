//! The object stores from outside: our client, the AWS SDK and boto3 against the embedded endpoint.

mod bodies;
mod client;
mod hostile;
mod keys;
mod logs;
mod presigned;
mod public;
mod slow_peers;
mod storage;
mod support;

use support::Store;
pub use support::sdk;

use crate::support::python;

/// The common operations, driven by a foreign client.
#[tokio::test(flavor = "multi_thread")]
async fn boto3_suite() {
    let store = Store::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/objects/boto3_suite.py");
    let output = tokio::process::Command::new(python())
        .args([script, &store.endpoint, &store.credentials.access_key, store.credentials.secret_key.expose_secret()])
        .output()
        .await
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{out}\n{err}\nits packages: pip install -r scripts/test-requirements.txt");
}
