//! `afterload check`: reports every problem of every file with its position.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet, normalize_untrusted_str};
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_pipeline::folder::{self, UnreadableDefinition};
use afterload_pipeline::{StepCatalog, TriggerFlow, TriggerGraph, ValidationContext, compile_with_sql_files};
use afterload_spanned_yaml::{Diagnostic, SourceSpan};

/// How many problems with the same message are shown per file.
const MAX_SAME_MESSAGE: usize = 10;

/// Checks pipeline files and shows every problem at its position.
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Files, or folders with `*.yaml` and `*.yml` files; default: the pipelines folder.
    pub files: Vec<PathBuf>,
    /// The output format.
    #[arg(long, value_enum, default_value_t = CheckFormat::Text)]
    pub format: CheckFormat,
    /// Also ask the databases of the connections whether the SQL of reports, recipients and look-ups only reads.
    #[arg(long)]
    pub connect: bool,
}

/// How to show problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CheckFormat {
    /// Text for people.
    Text,
    /// A JSON array of `{file, line, col, code, message, hint}`.
    Json,
}

/// A problem of a file, for `--format json`.
#[derive(Debug, Serialize)]
struct DiagnosticJson<'a> {
    file: &'a str,
    line: usize,
    col: usize,
    code: &'a str,
    message: &'a str,
    hint: Option<&'a str>,
}

struct CheckedFile {
    file: String,
    text: String,
    problems: Vec<Diagnostic>,
    warnings: Vec<Diagnostic>,
    /// What starts a valid pipeline, and what its runs do.
    flow: Option<TriggerFlow>,
}

/// Checks the files and writes all diagnostics to `out`; `renderer` draws those of the text format. The exit status is a
/// failure if there is an error; warnings do not count.
pub fn run(
    args: &CheckArgs,
    folder: &Path,
    kinds: &StepCatalog,
    around: &ValidationContext,
    renderer: &Renderer,
    out: &mut impl Write,
) -> io::Result<ExitCode> {
    let files = match resolve_files(&args.files, folder) {
        Ok(files) => files,
        Err(error) => {
            eprintln!("error: {error}");
            return Ok(ExitCode::FAILURE);
        }
    };
    let mut checked: Vec<CheckedFile> = files.iter().map(|file| check_file(file, kinds, around)).collect();
    check_loops(&mut checked);
    match args.format {
        CheckFormat::Text => write_text(&checked, renderer, out)?,
        CheckFormat::Json => write_json(&checked, out)?,
    }
    Ok(match checked.iter().any(|file| !file.problems.is_empty()) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    })
}

/// The named files and the files of the named folders; by default, those of the pipelines folder. At least one.
fn resolve_files(named: &[PathBuf], folder: &Path) -> Result<Vec<PathBuf>> {
    let named = if named.is_empty() { vec![folder.to_owned()] } else { named.to_vec() };
    let mut files = Vec::new();
    for path in named {
        if path != folder && !path.is_dir() {
            files.push(path);
            continue;
        }
        let inside = folder::list_pipeline_files(&path)?;
        if inside.is_empty() {
            let message = format!("there is no pipeline file (`*.yaml` or `*.yml`) in `{}`", path.display());
            let hint = "name files or folders, or set `pipelines` in the configuration";
            return Err(Error::new(codes::PIPELINES_NOT_FOUND, message).with_hint(hint));
        }
        files.extend(inside);
    }
    Ok(files)
}

fn check_file(path: &Path, kinds: &StepCatalog, around: &ValidationContext) -> CheckedFile {
    let file = path.display().to_string();
    let bytes = std::fs::read(path).map_err(|error| UnreadableDefinition::from_io(&error));
    let mut flow = None;
    let (text, problems, warnings) = match bytes.and_then(folder::decode_definition) {
        Err(unreadable) => (String::new(), vec![unreadable.into_diagnostic()], Vec::new()),
        Ok(text) => {
            let (name, folder) = (path.file_name().and_then(|name| name.to_str()), path.parent());
            match compile_with_sql_files(name, &text, folder.unwrap_or(Path::new("")), kinds, around) {
                Ok((pipeline, _)) => {
                    flow = Some(TriggerFlow::from(&pipeline));
                    (text, Vec::new(), pipeline.warnings)
                }
                Err(problems) => (text, problems, Vec::new()),
            }
        }
    };
    CheckedFile { file, text, problems, warnings, flow }
}

/// Reports the loops of triggers, each at the last of its files.
fn check_loops(checked: &mut [CheckedFile]) {
    let mut graph = TriggerGraph::default();
    for file in checked {
        let problem = file.flow.take().and_then(|flow| graph.insert_unless_loop(flow));
        file.problems.extend(problem);
    }
}

fn write_text(checked: &[CheckedFile], renderer: &Renderer, out: &mut impl Write) -> io::Result<()> {
    for CheckedFile { file, text, problems, warnings, .. } in checked {
        write_diagnostics(file, text, problems, renderer, out)?;
        for warning in warnings {
            writeln!(out, "{}\n", render_diagnostic(file, text, Level::WARNING, warning, renderer))?;
        }
    }
    let faults: usize = checked.iter().map(|file| file.problems.len()).sum();
    let bad = checked.iter().filter(|file| !file.problems.is_empty()).count();
    match faults {
        0 => writeln!(out, "checked {}: no problems", count_noun(checked.len(), "file")),
        _ => writeln!(out, "checked {}: {} in {bad}", count_noun(checked.len(), "file"), count_noun(faults, "problem")),
    }
}

/// Writes the problems of a file. Of many with the same message, writes the first ones and the number of the others.
pub(super) fn write_diagnostics(
    file: &str,
    text: &str,
    problems: &[Diagnostic],
    renderer: &Renderer,
    out: &mut impl Write,
) -> io::Result<()> {
    let mut alike: BTreeMap<&str, usize> = BTreeMap::new();
    for problem in problems {
        let seen = alike.entry(&problem.message).or_default();
        *seen += 1;
        if *seen <= MAX_SAME_MESSAGE {
            writeln!(out, "{}\n", render_diagnostic(file, text, Level::ERROR, problem, renderer))?;
        }
    }
    for (message, count) in alike.into_iter().filter(|(_, count)| *count > MAX_SAME_MESSAGE) {
        let message = normalize_untrusted_str(message);
        writeln!(out, "{file}: {message}: … and {} more like it\n", count - MAX_SAME_MESSAGE)?;
    }
    Ok(())
}

fn render_diagnostic(file: &str, text: &str, level: Level<'_>, problem: &Diagnostic, renderer: &Renderer) -> String {
    let Diagnostic { code, span, message, hint, .. } = problem;
    let title = level.primary_title(message).id(code.name());
    // One line is enough, and drawing it costs the same in a large file.
    let group = match text.trim_start_matches('\u{feff}').lines().nth(span.line.saturating_sub(1)) {
        Some(line) => {
            let marked = AnnotationKind::Primary.span(marked_bytes(line, *span));
            title.element(Snippet::source(line).line_start(span.line).path(file).annotation(marked))
        }
        None => title.element(Origin::path(file).line(span.line).char_column(span.col)),
    };
    let hint = hint.as_deref().map(|hint| Level::HELP.with_name("hint").message(normalize_untrusted_str(hint)));
    renderer.render(&[group.elements(hint)])
}

/// The bytes of the line to mark: at least one, and none past the end of its text.
fn marked_bytes(line: &str, span: SourceSpan) -> Range<usize> {
    let start = line.char_indices().nth(span.col.saturating_sub(1)).map_or(line.len(), |(at, _)| at);
    let end = (start + span.len).min(line.trim_end().len()).max(start + 1);
    start..line.ceil_char_boundary(end)
}

pub(super) fn count_noun(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

fn write_json(checked: &[CheckedFile], out: &mut impl Write) -> io::Result<()> {
    let faults: Vec<DiagnosticJson<'_>> = checked
        .iter()
        .flat_map(|checked| checked.problems.iter().map(|problem| (checked.file.as_str(), problem)))
        .map(|(file, problem)| DiagnosticJson {
            file,
            line: problem.span.line,
            col: problem.span.col,
            code: problem.code.name(),
            message: &problem.message,
            hint: problem.hint.as_deref(),
        })
        .collect();
    serde_json::to_writer_pretty(&mut *out, &faults)?;
    writeln!(out)
}
