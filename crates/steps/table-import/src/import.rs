//! The import pipeline: a byte stream, a blocking reader, one transaction per chunk, and the error file.

use crate::codes;
use afterload_core::failpoint;
use std::sync::{Arc, mpsc as std_mpsc};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::chunk::{BoundColumn, ImportChunk};
use super::chunk_reader::{ByteChunk, ChunkReader};
use super::column_codec::ColumnCodec;
use super::columns::ImportColumn;
use super::csv_format::{CsvFormat, HEADER_SAMPLE_SIZE};
use super::cursor::ImportCursor;
use super::rejects::{ErrorFile, FileStore, RejectFormat, RejectInfo};
use super::{CsvImport, CsvImportOutputs, ImportSummary, KeyConflictAction};
use afterload_core::error::{Error, Result};
use afterload_step_api::{ProgressReporter, StepContext};
use afterload_tabular::read::csv_parser::CsvParser;
use afterload_tabular::read::utf8_decoder::Utf8Decoder;
use afterload_target_db::{self as connections, BulkLoader, ChunkCommit, Connection, Fence, LoadOutcome, RejectedRow};

/// Bytes per message to the reader. A socket delivers only a few tens of kilobytes at a time.
const MIN_FEED_BYTES: usize = 256 << 10;

/// A file that can be read from any offset.
pub trait CsvSource: Send + Sync {
    /// Opens a stream of the bytes from `from` on, and returns it with the total size.
    fn open(&self, from: u64) -> impl Future<Output = Result<(u64, BoxStream<'static, Result<Bytes>>)>> + Send;
}

/// The parts of the step context that an import needs.
#[derive(Clone)]
pub struct ImportContext {
    /// The ID of the run.
    pub run: String,
    /// The fence of the attempt. It rejects writes of older attempts.
    pub fence: Fence,
    /// Reports progress.
    pub progress: ProgressReporter,
    /// Cancelled when the step should stop.
    pub stop: CancellationToken,
}

impl ImportContext {
    /// Takes the parts from the context of a step.
    pub fn from_step(ctx: &StepContext) -> Self {
        let fence = Fence { checkpoint_key: ctx.step.key.clone(), epoch: ctx.step.epoch };
        Self { run: ctx.run.id.clone(), fence, progress: ctx.progress.clone(), stop: ctx.stop.clone() }
    }
}

/// Runs an import from the last checkpoint.
///
/// # Errors
/// Errors of the file (`csv_…`), of the table (`table_not_found`, `column_not_found`, …), of the source and of the
/// database. Committed rows stay.
pub async fn run_import<S: CsvSource, H: FileStore>(
    spec: &CsvImport,
    job: &ImportContext,
    source: &S,
    shelf: &H,
    target: &Connection,
) -> Result<CsvImportOutputs> {
    let durable = target.keeps_checkpoints() && !spec.dry_run;
    check_import_target(spec, target)?;
    let (layout, size) = sniff_format(source, spec).await?;
    let columns = spec.columns.iter().map(|(name, column)| (name.as_str(), column)).collect::<Vec<_>>();
    let fields = layout.map_columns(&columns)?;
    let table = target.describe_table(&spec.into.table).await?;
    let rules = bind_columns(spec, &table, fields)?;
    let shapes = rules.iter().map(|ruled| (ruled.codec.name.clone(), ruled.codec.shape)).collect::<Vec<_>>();
    let conflict = spec
        .into
        .on_conflict
        .as_ref()
        .map(|conflict| connections::ConflictRule { keys: conflict.keys.clone(), action: conflict.action.into() });
    let loader = if spec.dry_run { None } else { Some(target.prepare_bulk_load(&table, &shapes, conflict).await?) };
    let claimed = if durable { target.claim_checkpoint(&job.fence).await? } else { None };
    let fresh = ImportCursor { offset: layout.offset, line: layout.line, ..ImportCursor::default() };
    let cursor = claimed.map_or(Ok(fresh), |text| read_cursor(&text))?;
    let format = RejectFormat {
        dialect: layout.dialect,
        run: job.run.clone(),
        header: layout.header.clone(),
        write_bom: layout.encoding.bom_len > 0 || layout.encoding.encoding != encoding_rs::UTF_8,
    };
    let file = ErrorFile::new(shelf, &spec.errors.file, &format);
    let mut importer = Importer { spec, job, durable, loader, cursor, file, format: &format, size };
    importer.report_progress();
    importer.check_tolerance()?;
    if !importer.cursor.finished {
        importer.import_rows(source, &layout, rules).await?;
    }
    importer.finish(target, &layout).await
}

/// Without checkpoints an attempt starts over, so only repeatable writes are allowed.
fn check_import_target(spec: &CsvImport, target: &Connection) -> Result<()> {
    if spec.dry_run {
        return Ok(());
    }
    target.ensure_writable()?;
    let repeatable =
        spec.into.on_conflict.as_ref().is_some_and(|conflict| conflict.action != KeyConflictAction::Reject);
    if target.keeps_checkpoints() || repeatable {
        return Ok(());
    }
    let message = format!("connection `{}` keeps no checkpoints, so rows could be imported twice", target.name());
    Err(Error::new(codes::CONNECTION_NEEDS_CHECKPOINTS, message))
}

/// Detects the format from the beginning of the file.
async fn sniff_format<S: CsvSource>(source: &S, spec: &CsvImport) -> Result<(CsvFormat, u64)> {
    let (size, mut stream) = source.open(0).await?;
    let mut sample = Vec::new();
    let mut whole = true;
    while let Some(bytes) = stream.next().await {
        sample.extend_from_slice(&bytes?);
        if sample.len() > HEADER_SAMPLE_SIZE {
            whole = false;
            break;
        }
    }
    if whole && (sample.len() as u64) < size {
        return Err(Error::new(codes::SOURCE_TRUNCATED, format!("the source ended before its {size} bytes")));
    }
    Ok((CsvFormat::from_sample(&sample, whole, spec)?, size))
}

fn bind_columns(
    spec: &CsvImport,
    table: &connections::TableInfo,
    fields: Vec<Option<usize>>,
) -> Result<Vec<BoundColumn>> {
    let compile = |((name, column), field): ((&String, &ImportColumn), Option<usize>)| {
        let target = table.find_column(name)?;
        let rule = ColumnCodec::new(column, target, table.has_triggers)
            .map_err(|(_, message)| Error::new(codes::WITH_INVALID, format!("column `{name}`: {message}")))?;
        Ok(BoundColumn { codec: rule, field })
    };
    spec.columns.iter().zip(fields).map(compile).collect()
}

fn read_cursor(text: &str) -> Result<ImportCursor> {
    serde_json::from_str(text)
        .map_err(|error| Error::new(codes::CHECKPOINT_INVALID, format!("the checkpoint cannot be read: {error}")))
}

struct Importer<'a, H: FileStore> {
    spec: &'a CsvImport,
    job: &'a ImportContext,
    durable: bool,
    /// `None` in a dry run.
    loader: Option<BulkLoader>,
    cursor: ImportCursor,
    /// With checkpoints it is written at the end, from the stored rejects. Without them, it is written with each chunk.
    file: ErrorFile<'a, H>,
    format: &'a RejectFormat,
    size: u64,
}

impl<H: FileStore> Importer<'_, H> {
    fn report_progress(&self) {
        self.job.progress.report_committed(self.cursor.to_progress_update(self.size));
    }

    /// Fails if more rows were rejected than `tolerate` allows.
    fn check_tolerance(&self) -> Result<()> {
        let ImportCursor { rows, inserted, updated, skipped, rejected, .. } = self.cursor;
        if !self.cursor.too_many_rejects(self.spec.tolerate.0) {
            return Ok(());
        }
        let message =
            format!("{rejected} of {rows} rows were rejected, more than the {} of `tolerate`", self.spec.tolerate);
        let counts = serde_json::json!({
            "rows": rows, "inserted": inserted, "updated": updated, "skipped": skipped, "rejected": rejected,
            "faults": self.cursor.faults,
        });
        Err(Error::new(codes::CSV_TOO_MANY_REJECTS, message).with_details(counts))
    }

    /// Imports the file to its end. Reading, checking and writing run concurrently.
    async fn import_rows<S: CsvSource>(
        &mut self,
        source: &S,
        layout: &CsvFormat,
        rules: Vec<BoundColumn>,
    ) -> Result<()> {
        let (decode, from) = Utf8Decoder::new(layout.encoding, self.cursor.offset);
        let reader = ChunkReader {
            layout: layout.clone(),
            rules,
            format: self.format.clone(),
            chunk: self.spec.chunk,
            max_rows: self.spec.max_rows.unwrap_or(u64::MAX),
            row: self.cursor.rows,
            decode,
            parser: CsvParser::new(layout.dialect, self.cursor.offset, self.cursor.line),
            from: (self.cursor.offset, self.cursor.line),
            read: from,
            size: self.size,
        };
        let (_, mut stream) = source.open(from).await?;
        let (feed, fed) = mpsc::channel::<ByteChunk>(4);
        let (sender, mut chunks) = mpsc::channel(1);
        let (give_back, spare) = std_mpsc::channel();
        // The thread ends when either channel closes.
        let reading = tokio::task::spawn_blocking(move || reader.run(fed, &sender, &spare));
        let feeding = pump_bytes(&mut stream, &feed);
        let writing = async {
            loop {
                let chunk = tokio::select! {
                    chunk = chunks.recv() => chunk,
                    () = self.job.stop.cancelled() => None,
                };
                if self.job.stop.is_cancelled() {
                    return Err(Error::new(codes::STEP_STOPPED, "the step was asked to stop"));
                }
                let Some(chunk) = chunk else {
                    return Err(Error::new(codes::INTERNAL_ERROR, "the reader of the file ended early"));
                };
                let chunk = self.write_chunk(chunk?).await?;
                let last = chunk.as_ref().is_some_and(|chunk| chunk.last) || self.cursor.finished;
                if let Some(chunk) = chunk {
                    // The reader may have ended already.
                    let _ = give_back.send(chunk);
                }
                self.report_progress();
                self.check_tolerance()?;
                if last {
                    return Ok(());
                }
            }
        };
        let done = {
            tokio::pin!(feeding, writing);
            let mut fed = false;
            loop {
                tokio::select! {
                    done = &mut writing => break done,
                    () = &mut feeding, if !fed => fed = true,
                }
            }
        };
        drop((chunks, feed));
        reading
            .await
            .map_err(|error| Error::new(codes::INTERNAL_ERROR, format!("reading the file panicked: {error}")))?;
        done
    }

    /// Commits a chunk, and returns it for reuse.
    async fn write_chunk(&mut self, chunk: ImportChunk) -> Result<Option<ImportChunk>> {
        let chunk = Arc::new(chunk);
        let sealed = match &mut self.loader {
            Some(loader) => {
                let (before, chunk, format) = (self.cursor.clone(), Arc::clone(&chunk), self.format.clone());
                let max = self.spec.errors.max;
                let rows = Arc::clone(&chunk);
                let seal =
                    Box::new(move |outcome: &LoadOutcome| build_chunk_commit(&before, &chunk, outcome, &format, max));
                let fence = self.durable.then_some(&self.job.fence);
                loader.load(rows, fence, seal).await?.1
            }
            None => {
                let outcome = LoadOutcome { skipped: chunk.accepted.len() as u64, ..LoadOutcome::default() };
                build_chunk_commit(&self.cursor, &chunk, &outcome, self.format, self.spec.errors.max)
            }
        };
        self.cursor = read_cursor(&sealed.cursor)?;
        if !self.durable {
            for reject in &sealed.rejects {
                self.file.write_line(&reject.line).await?;
            }
        }
        Ok(Arc::into_inner(chunk))
    }

    async fn finish(mut self, target: &Connection, layout: &CsvFormat) -> Result<CsvImportOutputs> {
        let mut after = 0;
        while self.durable {
            let page = target.list_rejects(&self.job.fence.checkpoint_key, after, 500).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for reject in &page {
                self.file.write_line(&reject.line).await?;
            }
        }
        failpoint!("csv.before_errors_file");
        let errors_file = self.file.finish().await?;
        let ImportCursor { rows, inserted, updated, skipped, rejected, faults, .. } = self.cursor;
        let report = ImportSummary {
            encoding: layout.encoding.encoding.name().to_ascii_lowercase(),
            delimiter: (layout.dialect.delimiter as char).to_string(),
            faults,
        };
        Ok(CsvImportOutputs { rows, inserted, updated, skipped, rejected, errors_file, report })
    }
}

/// Sends the bytes of the stream to the reader until either ends.
async fn pump_bytes(stream: &mut BoxStream<'static, Result<Bytes>>, reader: &mpsc::Sender<ByteChunk>) {
    let (mut gathered, mut size) = (Vec::new(), 0);
    while let Some(bytes) = stream.next().await {
        match bytes {
            Ok(bytes) => {
                size += bytes.len();
                gathered.push(bytes);
            }
            Err(error) => {
                let _ = reader.send(Ok(Some(gathered))).await;
                let _ = reader.send(Err(error)).await;
                return;
            }
        }
        if size >= MIN_FEED_BYTES {
            size = 0;
            if reader.send(Ok(Some(std::mem::take(&mut gathered)))).await.is_err() {
                return;
            }
        }
    }
    if reader.send(Ok(Some(gathered))).await.is_ok() {
        let _ = reader.send(Ok(None)).await;
    }
}

/// Builds the data that is committed with a chunk: the new cursor, and the rejects in the order of the file.
fn build_chunk_commit(
    before: &ImportCursor,
    chunk: &ImportChunk,
    outcome: &LoadOutcome,
    format: &RejectFormat,
    max: u64,
) -> ChunkCommit {
    let cursor = before.advance_past(chunk, outcome);
    let room = max.saturating_sub(before.rejected) as usize;
    let mut refused = outcome.refused.iter().map(|refusal| (&chunk.accepted[refusal.row], refusal)).peekable();
    let mut broken = chunk.rejects.iter().peekable();
    let mut rejects = Vec::new();
    while rejects.len() < room {
        let from_rules = match (broken.peek(), refused.peek()) {
            (None, None) => break,
            (Some(broken), Some((origin, _))) => broken.row < origin.row,
            (broken, _) => broken.is_some(),
        };
        let line = if from_rules {
            broken.next().map(|rejected| rejected.text.clone())
        } else {
            refused.next().map(|(origin, refusal)| {
                let (code, message) = (refusal.code, refusal.message.as_str());
                let place = RejectInfo { row: origin.row, line: origin.line, column: "", code, message };
                format.reject_line(chunk.original_fields(origin), &place)
            })
        };
        let seq = before.rejected as i64 + rejects.len() as i64 + 1;
        rejects.extend(line.map(|line| RejectedRow { seq, line }));
    }
    let text = serde_json::to_string(&cursor).unwrap_or_default();
    ChunkCommit { cursor: text, rejects, finished: cursor.finished }
}
