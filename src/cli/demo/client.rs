//! The few calls of the API that the demo makes.

use std::path::Path;
use std::time::Duration;

use futures::TryStreamExt;
use reqwest::multipart::{Form, Part};
use serde_json::Value;

use crate::error::{Error, Result};

/// How often a run is asked for its progress.
const POLL: Duration = Duration::from_millis(200);

/// A client of the API with its key.
pub(super) struct Client {
    http: reqwest::Client,
    url: String,
    key: String,
}

impl Client {
    pub(super) fn new(url: &str, key: String) -> Self {
        Self { http: reqwest::Client::new(), url: url.to_owned(), key }
    }

    /// Starts a run with a file, streamed from the disk.
    pub(super) async fn upload(&self, pipeline: &str, path: &Path) -> Result<Value> {
        let file = tokio::fs::File::open(path).await?;
        let size = file.metadata().await?.len();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let body = reqwest::Body::wrap_stream(tokio_util::io::ReaderStream::new(file));
        let part = Part::stream_with_length(body, size).file_name(name).mime_str("text/csv").map_err(failed)?;
        let url = format!("{}/v1/pipelines/{pipeline}/runs", self.url);
        let request = self.http.post(url).bearer_auth(&self.key).multipart(Form::new().part("file", part));
        json(request.send().await.map_err(failed)?).await
    }

    /// Shows a run at every look until it has ended, and gives its end.
    pub(super) async fn follow(&self, id: &str, mut show: impl FnMut(&Value)) -> Result<Value> {
        loop {
            let request = self.http.get(format!("{}/v1/runs/{id}", self.url)).bearer_auth(&self.key);
            let run = json(request.send().await.map_err(failed)?).await?;
            show(&run);
            if !run["finished_at"].is_null() {
                return Ok(run);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Saves a file.
    pub(super) async fn download(&self, url: &str, path: &Path) -> Result<()> {
        let response = self.http.get(url).bearer_auth(&self.key).send().await.map_err(failed)?;
        let response = response.error_for_status().map_err(failed)?;
        let body = response.bytes_stream().map_err(std::io::Error::other);
        let mut file = tokio::fs::File::create(path).await?;
        tokio::io::copy(&mut tokio_util::io::StreamReader::new(body), &mut file).await?;
        Ok(())
    }
}

async fn json(response: reqwest::Response) -> Result<Value> {
    let status = response.status();
    let body: Value = response.json().await.map_err(failed)?;
    match status.is_success() {
        true => Ok(body),
        false => Err(Error::permanent("demo_failed", format!("the API answered {status}: {body}"))),
    }
}

fn failed(error: reqwest::Error) -> Error {
    Error::permanent("demo_failed", error.to_string())
}
