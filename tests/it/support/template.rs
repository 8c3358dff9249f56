//! Databases that have the tables of the service already. Migrating takes longer than most tests, so it is done once and
//! copied. The service still looks whether something is to be migrated, and `schema.rs` migrates empty databases.

use std::path::{Path, PathBuf};
use std::time::Duration;

use afterload_core::clock::Clock;
use afterload_core::secrets::create_private_dir;
use afterload_state::Db;
use afterload_state::queue::JobQueue;
use sha2::{Digest, Sha256};

/// Makes the tables as the service does at its start.
pub async fn migrate(url: &str) {
    let db = Db::open(url, Clock::system()).await.expect("the tables of the service");
    drop(JobQueue::open(db.clone(), Duration::from_secs(60)).await.expect("the tables of the queue"));
    db.close().await;
}

/// Copies a SQLite database with the tables to this path.
pub async fn copy_sqlite(path: &Path) {
    let template = sqlite_template().await;
    create_private_dir(path.parent().expect("a folder")).expect("the folder of the data");
    std::fs::copy(template, path).expect("a copy of the tables");
}

async fn sqlite_template() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let template = folder.join(format!("afterload-{}.db", schema_key()));
    if !template.exists() {
        std::fs::create_dir_all(folder).expect("a folder for the template");
        // Other tests look for it at the same time, so it comes to its place whole.
        let making = tempfile::tempdir_in(folder).expect("a temporary folder");
        let made = making.path().join("afterload.db");
        migrate(&format!("sqlite://{}", made.display())).await;
        assert!(!making.path().join("afterload.db-wal").exists(), "a part of the template is in another file");
        std::fs::rename(made, &template).expect("the template");
    }
    template
}

/// Differs when the tables may differ: our migrations are files, those of the queue come with its version.
fn schema_key() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let entries = std::fs::read_dir(root.join("crates/state/src/migrations")).expect("the migrations");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("a migration").path()).collect();
    files.sort();
    files.push(root.join("Cargo.lock"));
    let mut digest = Sha256::new();
    for file in files {
        digest.update(std::fs::read(file).expect("a file"));
    }
    hex::encode(&digest.finalize()[..8])
}
