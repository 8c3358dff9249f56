//! `afterload demo`: the main job on real sample data, as a user of the API would run it, and thumbnails of a photo that
//! is written to the embedded S3 store.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;
use sqlx::Connection;

use super::bars::Bars;
use super::client::{Client, Given};
use super::out::say;
use super::{Stops, init_logs};
use crate::app::App;
use crate::config::{BucketConfig, Config};
use crate::engine::Engine;
use crate::error::{Error, Result};

const SAMPLE: &[u8] = include_bytes!("../../examples/airports.csv");
const PHOTO: &[u8] = include_bytes!("../../examples/photo.jpg");
const TABLES: &str = include_str!("../../examples/app.sql");
const PIPELINES: [(&str, &str); 3] = [
    ("avatar.yaml", include_str!("../../pipelines/avatar.yaml")),
    ("airports-import.yaml", include_str!("../../pipelines/airports-import.yaml")),
    ("contacts-import.yaml", include_str!("../../pipelines/contacts-import.yaml")),
];

/// How often it is looked whether the photo has started its run.
const LOOK: Duration = Duration::from_millis(50);

/// What the demo may be told.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The folder that holds everything the demo makes; it may be deleted afterwards.
    #[arg(long, default_value = "demo-data", value_name = "FOLDER")]
    dir: PathBuf,
    /// End when the runs have, with status 0 only if every one succeeded.
    #[arg(long)]
    exit: bool,
}

/// Starts the service, runs the main job through its API, and stays up.
pub(super) async fn run(args: Args) -> Result<ExitCode> {
    init_logs("warn")?;
    let mut stops = Stops::listen()?;
    let config = prepare(&args.dir).await?;
    say!(
        "afterload demo: an application database, an upload, an import, a mail, a photo; everything lies in {}/",
        args.dir.display()
    );
    let mut app = App::start(config.clone(), None).await?;
    let (url, engine) = (app.url.clone(), app.engine.clone());
    let ended = tokio::select! {
        ended = both_jobs(&url, &engine, &config, &args.dir) => ended,
        error = app.failed() => Err(error),
        () = stops.asked() => Err(Error::stopped("demo_stopped", "the demo was interrupted")),
    };
    let succeeded = match ended {
        Ok(runs) => runs.iter().all(|run| run["status"] == "succeeded"),
        Err(error) => {
            app.stop().await;
            return Err(error);
        }
    };
    if !args.exit {
        say!("\nThe API stays up at {} (Ctrl-C ends it). To run the same again:", app.url);
        say!("  curl -H \"Authorization: Bearer $(cat {})\" \\", key_file(&args.dir).display());
        say!("    -F file=@{} {}/v1/pipelines/airports-import/runs", sample_file(&args.dir).display(), app.url);
        tokio::select! {
            () = stops.asked() => {}
            error = app.failed() => eprintln!("error: {error}"),
        }
    }
    app.stop().await;
    Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The folder with the sample, the pipelines and a small application database.
async fn prepare(dir: &Path) -> Result<Config> {
    let mut config = Config { data: dir.join("data"), pipelines: dir.join("pipelines"), ..Config::default() };
    config.templates = dir.join("templates");
    // What a site serves.
    config.objects.buckets.insert("thumbnails".into(), BucketConfig { public: true, ..BucketConfig::default() });
    config.fill();
    for folder in [&config.data, &config.pipelines] {
        tokio::fs::create_dir_all(folder).await?;
    }
    tokio::fs::write(sample_file(dir), SAMPLE).await?;
    for (name, text) in PIPELINES {
        tokio::fs::write(config.pipelines.join(name), text).await?;
    }
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(app_database(&config)).create_if_missing(true);
    let mut app = sqlx::SqliteConnection::connect_with(&options).await?;
    sqlx::raw_sql(TABLES).execute(&mut app).await?;
    app.close().await?;
    // A second demo beside a first, or beside a service, takes free ports.
    if std::net::TcpListener::bind(config.listen).is_err() {
        config.listen.set_port(0);
    }
    Ok(config)
}

async fn both_jobs(url: &str, engine: &Engine, config: &Config, dir: &Path) -> Result<[Value; 2]> {
    let (stored, key) = crate::web::make_key("demo", &["admin".into()], &[])?;
    engine.db().insert_key(&stored).await?;
    crate::secrets::write(&key_file(dir), &key).await?;
    let client = Client::new(url, key)?;
    Ok([import(&client, config, dir).await?, avatar(&client, engine).await?])
}

/// Writes a photo to the store, as `aws s3 cp` does, and follows the run that this starts.
async fn avatar(client: &Client, engine: &Engine) -> Result<Value> {
    // A name of its own each time: the same bytes under the same name are no news.
    let key = format!("avatars/{}.jpg", ulid::Ulid::generate());
    engine.objects().put("uploads", &key, "image/jpeg", PHOTO.into()).await?;
    say!("\nwrote s3://uploads/{key} ({} bytes); its pipeline starts by itself", PHOTO.len());
    let id = loop {
        let newest = client.get("/v1/runs", &[("pipeline", "avatar".into()), ("limit", "1".into())]).await?;
        if let Some(id) = newest["runs"][0]["id"].as_str() {
            let run = client.get(&format!("/v1/runs/{id}"), &[]).await?;
            if run["event"]["key"] == key.as_str() {
                break id.to_owned();
            }
        }
        tokio::time::sleep(LOOK).await;
    };
    let mut bars = Bars::new();
    let run = client.follow(&id, |run| bars.show(run)).await?;
    bars.finish();
    say!("\nthe run {}", run["status"].as_str().unwrap_or_default());
    if let Some(error) = run["error"]["message"].as_str() {
        say!("  because {error}");
    }
    for step in run["steps"].as_array().into_iter().flatten() {
        for (name, style) in step["outputs"]["styles"].as_object().into_iter().flatten() {
            let size = format!("{}x{}", style["width"], style["height"]);
            say!("  {name:9} {size:9} {}", style["url"].as_str().unwrap_or_default());
        }
    }
    Ok(run)
}

/// Uploads the sample and follows its run to the end.
async fn import(client: &Client, config: &Config, dir: &Path) -> Result<Value> {
    let file = ("file".to_owned(), Given::File(sample_file(dir)));
    let run = client.start("airports-import", &[file], &[], None).await?;
    let id = run["id"].as_str().unwrap_or_default().to_owned();
    say!("uploaded {} ({} bytes); run {id}", sample_file(dir).display(), SAMPLE.len());
    let mut bars = Bars::new();
    let run = client.follow(&id, |run| bars.show(run)).await?;
    bars.finish();
    report(client, config, dir, &run).await?;
    Ok(run)
}

async fn report(client: &Client, config: &Config, dir: &Path, run: &Value) -> Result<()> {
    say!("\nthe run {}", run["status"].as_str().unwrap_or_default());
    if let Some(error) = run["error"]["message"].as_str() {
        say!("  because {error}");
    }
    let outputs = &run["steps"][0]["outputs"];
    let count = |name: &str| outputs[name].as_u64().unwrap_or_default();
    say!(
        "  rows      {} read: {} inserted, {} updated, {} skipped, {} rejected",
        count("rows"),
        count("inserted"),
        count("updated"),
        count("skipped"),
        count("rejected")
    );
    say!("  table     airports in {}", app_database(config).display());
    if let (Some(url), Some(name)) = (outputs["errors_file"]["url"].as_str(), outputs["errors_file"]["name"].as_str()) {
        let path = dir.join(name);
        client.download(url, &path).await?;
        say!("  rejected  {} (downloaded from {url})", path.display());
    }
    for id in run["steps"][1]["outputs"]["message_ids"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let name = id.trim_matches(['<', '>']).split('@').next().unwrap_or_default();
        say!("  mail      {}", config.outbox().join(format!("{name}.eml")).display());
    }
    Ok(())
}

fn sample_file(dir: &Path) -> PathBuf {
    dir.join("airports.csv")
}

fn key_file(dir: &Path) -> PathBuf {
    dir.join("demo.key")
}

fn app_database(config: &Config) -> PathBuf {
    config.data.join("app.db")
}
