//! Uploads the files of a report while they are written.

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::{mpsc, oneshot};

use afterload_core::error::Result;
use afterload_core::file::File;
use afterload_core::object_names::resolve_content_type;
use afterload_step_api::{FileSink, StepFiles};

/// Uploads at a time. One file is written at a time; the others wait for the store to complete them.
const MAX_PARALLEL_UPLOADS: usize = 4;

/// A file that a writer has begun.
pub struct NewFile {
    /// The name.
    pub name: String,
    /// The value of the group, for a report in groups.
    pub key: Option<String>,
    /// The bytes of the file.
    pub pieces: mpsc::Receiver<Bytes>,
    /// The number of rows once the file is whole. A writer that gives the file up drops its side.
    pub rows: oneshot::Receiver<u64>,
}

/// A file that has been uploaded.
pub struct UploadedFile {
    /// The value of the group, for a report in groups.
    pub key: Option<String>,
    /// The file.
    pub file: File,
    /// The number of rows, without the header.
    pub rows: u64,
}

/// Uploads all files and returns them in the order in which they were begun. Files that are not whole are left out.
pub async fn upload_files(files: StepFiles, mut incoming: mpsc::Receiver<NewFile>) -> Result<Vec<UploadedFile>> {
    let begun = stream::poll_fn(move |context| incoming.poll_recv(context));
    let uploads = begun.map(move |file| upload_file(files.clone(), file)).buffered(MAX_PARALLEL_UPLOADS);
    let uploaded: Vec<Option<UploadedFile>> = uploads.try_collect().await?;
    Ok(uploaded.into_iter().flatten().collect())
}

async fn upload_file(files: StepFiles, file: NewFile) -> Result<Option<UploadedFile>> {
    let NewFile { name, key, mut pieces, rows } = file;
    let content_type = resolve_content_type(None, &name);
    let mut sink: Option<FileSink> = None;
    while let Some(piece) = pieces.recv().await {
        let sink = match &mut sink {
            Some(sink) => sink,
            none => none.insert(files.create(&name, &content_type).await?),
        };
        sink.write(piece).await?;
    }
    let Ok(rows) = rows.await else { return Ok(None) };
    let sink = match sink {
        Some(sink) => sink,
        // The file is empty.
        None => files.create(&name, &content_type).await?,
    };
    Ok(Some(UploadedFile { key, rows, file: sink.finish().await? }))
}
