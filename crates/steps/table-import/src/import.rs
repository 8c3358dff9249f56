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
use super::chunk_commit::build_chunk_commit;
use super::chunk_reader::ChunkReader;
use super::column_codec::{CodecContext, ColumnCodec};
use super::columns::ImportColumn;
use super::csv_format::{ColumnSource, CsvFormat, FileFormat};
use super::cursor::ImportCursor;
use super::file_input::{CsvSource, OpenedFile, TablePlace, open_file};
use super::reader_input::{ByteChunk, ReaderInput};
use super::record_parser::RecordParser;
use super::rejects::{ErrorFile, FileStore, RejectFormat, cut_message, omitted_message};
use super::{CsvImport, CsvImportOutputs, ImportMode, ImportSummary, KeyConflictAction};
use afterload_core::dialect::Dialect;
use afterload_core::error::{Error, Result};
use afterload_step_api::{ProgressReporter, StepContext};
use afterload_tabular::read::utf8_decoder::Utf8Decoder;
use afterload_tabular::read::xlsx::RowShape;
use afterload_target_db::{self as connections, BulkLoader, ChunkCommit, Connection, Fence, LoadOutcome};

/// Bytes per message to the reader. A socket delivers only a few tens of kilobytes at a time.
const MIN_FEED_BYTES: usize = 256 << 10;

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
    let OpenedFile { layout, size, place } = open_file(source, spec).await?;
    let columns = spec.columns.iter().map(|(name, column)| (name.as_str(), column)).collect::<Vec<_>>();
    let sources = layout.map_columns(&columns)?;
    let table = target.describe_table(&spec.into.table).await?;
    let context = CodecContext {
        number: spec.number.as_ref(),
        has_triggers: table.has_triggers,
        rounds_decimals: target.dialect() == Dialect::Sqlite,
        // A sheet stores dates themselves, and an error file may stem from a sheet.
        iso_dates: matches!(layout.format, FileFormat::Xlsx) || layout.is_corrected(),
    };
    let rules = bind_columns(spec, &table, &sources, context)?;
    let shapes = rules.iter().map(|ruled| (ruled.codec.name.clone(), ruled.codec.shape)).collect::<Vec<_>>();
    let conflict = conflict_rule(spec, &rules, &sources);
    let loader = prepare_loader(spec, target, &table, &shapes, conflict).await?;
    let claimed = if durable { target.claim_checkpoint(&job.fence).await? } else { None };
    let fresh = ImportCursor { offset: layout.offset, line: layout.line, ..ImportCursor::default() };
    let cursor = claimed.map_or(Ok(fresh), |text| read_cursor(&text))?;
    let format = RejectFormat {
        dialect: layout.dialect,
        run: job.run.clone(),
        header: layout.header.clone(),
        // Who sends a workbook opens the error file in the same program, which needs the mark.
        write_bom: layout.encoding.bom_len > 0
            || !layout.encoding.encoding.is_utf8()
            || matches!(layout.format, FileFormat::Xlsx),
        marked_bytes: !layout.encoding.encoding.is_utf8(),
    };
    let shared = in_one_transaction(spec) && !cursor.finished;
    let file = ErrorFile::new(shelf, &spec.errors.file, &format);
    let mut importer = Importer { spec, job, durable, shared, loader, cursor, file, format: &format, size };
    importer.report_progress();
    importer.check_tolerance()?;
    if !importer.cursor.finished {
        let marks = layout.number_marks(spec, &sources);
        let used = Some(layout.used_fields(&sources));
        let shape = RowShape { width: layout.width, marks, used, limits: layout.limits };
        importer.import_rows(source, place, &layout, rules, shape).await?;
        importer.end_shared().await?;
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

/// Whether all rows are committed together, or none.
fn in_one_transaction(spec: &CsvImport) -> bool {
    spec.dry_run || spec.mode == ImportMode::AllOrNothing
}

/// Prepares the table. `None` for a dry run on a connection that must not be written: only the rules of the columns can be
/// checked then.
async fn prepare_loader(
    spec: &CsvImport,
    target: &Connection,
    table: &connections::TableInfo,
    shapes: &[(String, connections::BatchColumnType)],
    conflict: Option<connections::ConflictRule>,
) -> Result<Option<BulkLoader>> {
    if spec.dry_run && target.ensure_writable().is_err() {
        return Ok(None);
    }
    let loader = target.prepare_bulk_load(table, shapes, conflict).await?;
    Ok(Some(if in_one_transaction(spec) { loader.in_one_transaction() } else { loader }))
}

fn bind_columns(
    spec: &CsvImport,
    table: &connections::TableInfo,
    sources: &[ColumnSource],
    context: CodecContext<'_>,
) -> Result<Vec<BoundColumn>> {
    let compile = |((name, column), source): ((&String, &ImportColumn), &ColumnSource)| {
        let codec = ColumnCodec::new(column, table.find_column(name)?, context)
            .map_err(|(_, message)| Error::new(codes::WITH_INVALID, format!("column `{name}`: {message}")))?;
        let field = match source {
            ColumnSource::Field(field) => Some(*field),
            ColumnSource::Constant | ColumnSource::Missing => None,
        };
        Ok(BoundColumn { codec, field })
    };
    spec.columns.iter().zip(sources).map(compile).collect()
}

/// The rule for keys that are already there. An update writes only what the file and the pipeline bring.
fn conflict_rule(
    spec: &CsvImport,
    rules: &[BoundColumn],
    sources: &[ColumnSource],
) -> Option<connections::ConflictRule> {
    let conflict = spec.into.on_conflict.as_ref()?;
    let brought = spec.columns.iter().zip(rules).zip(sources).filter(|(((name, column), _), source)| {
        let listed = conflict.update.as_ref().is_none_or(|columns| columns.contains(name));
        listed && !column.insert_only && **source != ColumnSource::Missing && !conflict.keys.contains(name)
    });
    let brought = brought.map(|((_, bound), _)| &bound.codec).collect::<Vec<_>>();
    let names = |codec: &&ColumnCodec| codec.name.clone();
    Some(connections::ConflictRule {
        keys: conflict.keys.clone(),
        action: conflict.action.into(),
        update: Some(brought.iter().map(names).collect()),
        keep_on_null: brought.iter().filter(|codec| codec.keeps_on_blank()).map(names).collect(),
    })
}

fn read_cursor(text: &str) -> Result<ImportCursor> {
    serde_json::from_str(text)
        .map_err(|error| Error::new(codes::CHECKPOINT_INVALID, format!("the checkpoint cannot be read: {error}")))
}

struct Importer<'a, H: FileStore> {
    spec: &'a CsvImport,
    job: &'a ImportContext,
    durable: bool,
    /// Whether all rows share one transaction: they are committed together, or not at all.
    shared: bool,
    /// `None` in a dry run on a connection that must not be written.
    loader: Option<BulkLoader>,
    cursor: ImportCursor,
    /// If each chunk commits with a checkpoint, it is written at the end, from the stored rejects. Otherwise it is written
    /// with each chunk.
    file: ErrorFile<'a, H>,
    format: &'a RejectFormat,
    size: u64,
}

impl<H: FileStore> Importer<'_, H> {
    fn report_progress(&self) {
        self.job.progress.report_committed(self.visible_cursor().to_progress_update(self.size));
    }

    /// The cursor with what others can see of it. Rows of a shared transaction are not counted before its commit.
    fn visible_cursor(&self) -> ImportCursor {
        match self.shared {
            true => ImportCursor { inserted: 0, updated: 0, skipped: 0, ..self.cursor.clone() },
            false => self.cursor.clone(),
        }
    }

    /// Whether rejected rows are committed with their chunk.
    fn stores_rejects(&self) -> bool {
        self.durable && !self.shared
    }

    /// Commits what shares one transaction, or undoes it if a row was rejected or nothing shall be written.
    async fn end_shared(&mut self) -> Result<()> {
        if !std::mem::take(&mut self.shared) {
            return Ok(());
        }
        let fence = self.durable.then_some(&self.job.fence);
        match &mut self.loader {
            Some(loader) if !self.spec.dry_run && self.cursor.rejected == 0 => {
                let cursor = serde_json::to_string(&self.cursor).unwrap_or_default();
                loader.commit_shared(fence, &ChunkCommit { cursor, rejects: Vec::new(), finished: true }).await?;
            }
            Some(loader) => {
                loader.undo_shared().await?;
                self.cursor.undo_writes();
            }
            None => {}
        }
        self.report_progress();
        Ok(())
    }

    /// Fails if more rows were rejected than `tolerate` allows.
    fn check_tolerance(&self) -> Result<()> {
        let ImportCursor { rows, inserted, updated, skipped, rejected, .. } = self.visible_cursor();
        if !self.cursor.too_many_rejects(self.spec.tolerate.0) {
            return Ok(());
        }
        let message =
            format!("{rejected} of {rows} rows were rejected, more than the {} of `tolerate`", self.spec.tolerate);
        let counts = serde_json::json!({
            "rows": rows, "inserted": inserted, "updated": updated, "skipped": skipped, "rejected": rejected,
            "faults": self.cursor.faults,
        });
        let error = Error::new(codes::CSV_TOO_MANY_REJECTS, message).with_details(counts);
        Err(match self.shared {
            true => error.with_hint("nothing was imported; correct the file or the rules of the columns"),
            false => error,
        })
    }

    /// Imports the file to its end. Reading, checking and writing run concurrently.
    async fn import_rows<S: CsvSource>(
        &mut self,
        source: &S,
        place: TablePlace,
        layout: &CsvFormat,
        rules: Vec<BoundColumn>,
        shape: RowShape,
    ) -> Result<()> {
        let (decode, from) = Utf8Decoder::new(layout.encoding, self.cursor.offset);
        let reader = ChunkReader {
            layout: layout.clone(),
            rules,
            format: self.format.clone(),
            chunk: self.spec.chunk,
            max_rows: self.spec.max_rows.unwrap_or(u64::MAX),
            skip_footer: self.spec.skip_footer as usize,
            row: self.cursor.rows,
            decode,
            parser: RecordParser::new(layout, shape.marks.clone(), self.cursor.offset, self.cursor.line),
            from: (self.cursor.offset, self.cursor.line),
            read: from,
            size: self.size,
            packed: !matches!(place, TablePlace::Plain),
        };
        let mut stream = match place {
            TablePlace::Plain => Some(source.open(from).await?.1),
            TablePlace::Gzip => Some(source.open(0).await?.1),
            TablePlace::ZipEntry(..) | TablePlace::Sheet(_) => None,
        };
        let (feed, fed) = mpsc::channel::<ByteChunk>(4);
        let input = reader_input(self.spec, place, fed, shape);
        let (sender, mut chunks) = mpsc::channel(1);
        let (give_back, spare) = std_mpsc::channel();
        // The thread ends when either channel closes.
        let reading = tokio::task::spawn_blocking(move || reader.run(input, &sender, &spare));
        let feeding = async {
            if let Some(stream) = &mut stream {
                pump_bytes(stream, &feed).await;
            }
        };
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
                let fence = (self.durable && !self.shared).then_some(&self.job.fence);
                loader.load(rows, fence, seal).await?.1
            }
            None => {
                let outcome = LoadOutcome { skipped: chunk.accepted.len() as u64, ..LoadOutcome::default() };
                build_chunk_commit(&self.cursor, &chunk, &outcome, self.format, self.spec.errors.max)
            }
        };
        self.cursor = read_cursor(&sealed.cursor)?;
        if !self.stores_rejects() {
            for reject in &sealed.rejects {
                self.file.write_line(&reject.line).await?;
            }
        }
        Ok(Arc::into_inner(chunk))
    }

    async fn finish(mut self, target: &Connection, layout: &CsvFormat) -> Result<CsvImportOutputs> {
        let mut after = 0;
        while self.durable && self.spec.mode == ImportMode::RowByRow {
            let page = target.list_rejects(&self.job.fence.checkpoint_key, after, 500).await?;
            let Some(last) = page.last() else { break };
            after = last.seq;
            for reject in &page {
                self.file.write_line(&reject.line).await?;
            }
        }
        self.write_notes().await?;
        failpoint!("csv.before_errors_file");
        let errors_omitted = self.errors_omitted();
        let errors_file = self.file.finish().await?;
        let ImportCursor { rows, inserted, updated, skipped, rejected, faults, blank, cut, .. } = self.cursor;
        Ok(CsvImportOutputs {
            rows,
            inserted,
            updated,
            skipped,
            rejected,
            blank,
            cut,
            errors_omitted,
            errors_file,
            detected: layout.to_detected(),
            report: ImportSummary { faults },
        })
    }

    /// The number of rejected rows that the error file lacks.
    fn errors_omitted(&self) -> u64 {
        self.cursor.rejected.saturating_sub(self.spec.errors.max)
    }

    /// Ends the error file with what it does not hold.
    async fn write_notes(&mut self) -> Result<()> {
        let ImportCursor { rows, line, cut, .. } = self.cursor;
        let omitted = self.errors_omitted();
        if !self.file.has_rows() {
            return Ok(());
        }
        if omitted > 0 {
            let message = omitted_message(omitted, self.spec.errors.max);
            self.file.write_line(&self.format.note_line(rows, line, codes::CSV_ERRORS_OMITTED, &message)).await?;
        }
        if let (true, Some(max)) = (cut, self.spec.max_rows) {
            let message = cut_message(max);
            self.file.write_line(&self.format.note_line(rows, line, codes::CSV_ROWS_CUT, &message)).await?;
        }
        Ok(())
    }
}

/// What the reader reads. `fed` receives the bytes of the file.
fn reader_input(spec: &CsvImport, place: TablePlace, fed: mpsc::Receiver<ByteChunk>, shape: RowShape) -> ReaderInput {
    let limits = spec.unpack_limits();
    match place {
        TablePlace::Plain => ReaderInput::Plain(fed),
        TablePlace::Gzip => ReaderInput::Gzip(fed, limits),
        TablePlace::ZipEntry(archive, index) => ReaderInput::ZipEntry(archive, index, limits),
        TablePlace::Sheet(book) => ReaderInput::Sheet(book, shape),
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
