//! The links of the tests of `email.send`.

use serde_json::{Value, json};

use afterload_core::file::FileIdentity;
use afterload_core::file_seals::FileSeals;
use afterload_core::keyring::Keyring;
use afterload_step_api::{BoxFuture, FileLinks, FileVerifier, VerifiedFile};

/// Creates links without recording them. The artifact `gone` does not exist.
pub(super) struct Addresses;

impl FileLinks for Addresses {
    fn create_link(&self, file: &VerifiedFile, lives: std::time::Duration) -> BoxFuture<Option<String>> {
        let artifact = file.artifact_id.clone().filter(|artifact| artifact != "gone");
        let link = artifact.map(|artifact| format!("http://x/files/{artifact}/{}d", lives.as_secs() / 86_400));
        Box::pin(async move { Ok(link) })
    }
}

/// Verifies the files that the step links to.
pub(super) fn verifier_of_links(run: &str, with: &Value) -> FileVerifier {
    let keyring = Keyring::new("a secret for tests", []);
    let mut seals = FileSeals::default();
    for fields in with["links"].as_object().into_iter().flatten().filter_map(|(_, file)| file.as_object()) {
        let file = FileIdentity::from_fields(fields).unwrap();
        let seal = keyring.create_file_seal(&file, run);
        seals.insert(file, seal);
    }
    FileVerifier::new(keyring, run.to_owned(), seals)
}

pub(super) fn file(artifact: Option<&str>) -> Value {
    json!({ "artifact_id": artifact, "bucket": "artifacts", "key": "k", "name": "rejected.csv" })
}
