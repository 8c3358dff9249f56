//! The folder of the demo: pipelines, sample files, and the database of an application.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use sqlx::Connection;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};

use crate::codes;
use crate::config::{BucketConfig, Config};
use afterload_core::error::{Error, Result};

const APP_SCHEMA_SQL: &str = include_str!("../../../examples/app.sql");
const APP_ROWS_SQL: &str = include_str!("../../../examples/demo/rows.sql");
const CITY_DATABASE: &[u8] = include_bytes!("../../../examples/demo/city.mmdb");
const SAMPLE_FILES: [(&str, &[u8]); 3] = [
    ("airports.csv", include_bytes!("../../../examples/airports.csv")),
    ("contacts.csv", include_bytes!("../../../examples/contacts.csv")),
    ("photo.jpg", include_bytes!("../../../examples/photo.jpg")),
];
const DEMO_PIPELINES: [(&str, &str); 9] = [
    ("airports-import.yaml", include_str!("../../../pipelines/airports-import.yaml")),
    ("avatar.yaml", include_str!("../../../pipelines/avatar.yaml")),
    ("contacts-import.yaml", include_str!("../../../pipelines/contacts-import.yaml")),
    ("country-sales.yaml", include_str!("../../../pipelines/country-sales.yaml")),
    ("order-auto-reject.yaml", include_str!("../../../pipelines/order-auto-reject.yaml")),
    ("purge-account.yaml", include_str!("../../../pipelines/purge-account.yaml")),
    ("sales-report.yaml", include_str!("../../../pipelines/sales-report.yaml")),
    ("sign-in-geo.yaml", include_str!("../../../pipelines/sign-in-geo.yaml")),
    ("tweet-notify.yaml", include_str!("../../../pipelines/tweet-notify.yaml")),
];

/// Writes all files that the demo needs and returns the configuration. Of `configured` it takes the listen addresses alone: the demo
/// must never write to the databases and stores of a real service.
///
/// # Errors
/// `demo_folder_in_use` if the folder holds files that no demo has written.
pub async fn prepare_folder(dir: &Path, configured: &Config) -> Result<Config> {
    claim_folder(dir).await?;
    let mut config = Config { data: dir.join("data"), pipelines: dir.join("pipelines"), ..Config::default() };
    config.listen = configured.listen;
    config.objects.listen = configured.objects.listen;
    config.templates = dir.join("templates");
    // The public bucket of a website.
    config.objects.buckets.insert("thumbnails".into(), BucketConfig { public: true, ..BucketConfig::default() });
    config.add_default_connection();
    for folder in [&config.pipelines, &config.geo_dir()] {
        tokio::fs::create_dir_all(folder).await?;
    }
    for (name, bytes) in SAMPLE_FILES {
        tokio::fs::write(dir.join(name), bytes).await?;
    }
    for (name, text) in DEMO_PIPELINES {
        tokio::fs::write(config.pipelines.join(name), text).await?;
    }
    tokio::fs::write(config.geo_dir().join("city.mmdb"), CITY_DATABASE).await?;
    let options = SqliteConnectOptions::new().filename(app_database(&config)).create_if_missing(true);
    let mut app = SqliteConnection::connect_with(&options).await?;
    sqlx::raw_sql(APP_SCHEMA_SQL).execute(&mut app).await?;
    let mut rows = app.begin().await?;
    sqlx::raw_sql(APP_ROWS_SQL).execute(&mut *rows).await?;
    rows.commit().await?;
    app.close().await?;
    // If the ports are taken by another demo or service, use free ones. Any other fault is for the service to report.
    if TcpListener::bind(config.listen).is_err_and(|error| error.kind() == ErrorKind::AddrInUse) {
        config.listen.set_port(0);
    }
    Ok(config)
}

/// Claims the folder for the demo, which deletes rows and overwrites files there.
async fn claim_folder(dir: &Path) -> Result<()> {
    let key = key_file(dir);
    if tokio::fs::try_exists(&key).await? {
        return Ok(());
    }
    tokio::fs::create_dir_all(dir).await?;
    if tokio::fs::read_dir(dir).await?.next_entry().await?.is_some() {
        let why = format!("`{}` holds files that no demo has made", dir.display());
        return Err(Error::new(codes::DEMO_FOLDER_IN_USE, why));
    }
    afterload_core::secrets::write_secret(&key, "").await
}

/// The file of the admin key. It also marks a folder as a demo's.
pub fn key_file(dir: &Path) -> PathBuf {
    dir.join("demo.key")
}

/// The database of the application.
pub fn app_database(config: &Config) -> PathBuf {
    config.data.join("app.db")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[tokio::test]
    async fn demo_takes_only_the_listen_addresses_of_the_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let api = TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = api.local_addr().unwrap();
        let mut configured =
            Config { listen: taken, database: Some(Secret::new("postgres://real/db")), ..Config::default() };
        configured.objects.listen = "127.0.0.1:9123".parse().unwrap();
        let config = prepare_folder(&folder.path().join("demo"), &configured).await.unwrap();
        assert_eq!((config.listen.ip(), config.listen.port()), (taken.ip(), 0), "a taken port becomes a free one");
        assert_eq!(config.objects.listen, configured.objects.listen);
        assert!(config.database.is_none());
        drop(api);
        let config = prepare_folder(&folder.path().join("demo"), &configured).await.unwrap();
        assert_eq!(config.listen, taken);
    }
}
