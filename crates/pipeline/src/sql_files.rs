//! Replaces `sql_file` by the text of the file when a definition is loaded. The stored and digested definition is
//! therefore complete.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::plan::Section;
use super::step_kind::{StepCatalog, ValidationContext};
use super::{Pipeline, compile_definition};
use crate::codes;
use afterload_core::text::decode_utf8;
use afterload_spanned_yaml::{self as yaml, Diagnostic, SourceSpan, Verbatim, YamlNode, YamlValue};

/// The field with the file name, and the field with its text.
const SQL_FILE_FIELD: &str = "sql_file";
const SQL_FIELD: &str = "sql";
/// The field with several blocks that may name a file.
const SHEETS_FIELD: &str = "sheets";
/// A definition as a whole may hold little more.
const MAX_SQL_FILE_BYTES: u64 = 128 << 10;

/// Compiles the text of a pipeline file together with its SQL files in `folder`. Returns the text with the SQL
/// inserted.
///
/// # Errors
/// All diagnostics, with spans in the original text.
pub fn compile_with_sql_files(
    file_name: Option<&str>,
    text: &str,
    folder: &Path,
    kinds: &StepCatalog,
    around: &ValidationContext,
) -> Result<(Pipeline, String), Vec<Diagnostic>> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let Ok(root) = yaml::parse(text) else {
        return compile_definition(file_name, text, kinds, around).map(|pipeline| (pipeline, text.to_owned()));
    };
    let (mut whole, mut cuts, mut missing, mut taken) = (String::new(), Vec::new(), Vec::new(), 0);
    for place in find_sql_file_refs(&root, kinds) {
        match place.read_sql(folder) {
            Ok(sql) => {
                whole.push_str(&text[taken..place.key.offset]);
                // Pad the field so that the SQL starts in the column of the file name.
                let key = text[place.key.offset..place.value.offset].chars().count() - 2;
                whole.push_str(&format!("{SQL_FIELD:key$}: "));
                let (start, value) = (whole.len(), serde_json::Value::from(sql).to_string());
                whole.push_str(&value);
                let old = &text[place.value.offset..place.value.offset + place.value.len];
                let wider = value.chars().count() as isize - old.chars().count() as isize;
                cuts.push(TextSplice { range: start..whole.len(), added_columns: wider, original: place.value });
                taken = place.value.offset + place.value.len;
            }
            Err(problem) => missing.push(*problem),
        }
    }
    whole.push_str(&text[taken..]);
    let placed = |mut problem: Diagnostic| {
        problem.span = original_span(problem.span, &cuts);
        problem
    };
    match compile_definition(file_name, &whole, kinds, around) {
        Ok(mut pipeline) if missing.is_empty() => {
            pipeline.warnings = pipeline.warnings.into_iter().map(placed).collect();
            pipeline.effects.iter_mut().for_each(|effect| effect.span = original_span(effect.span, &cuts));
            Ok((pipeline, whole))
        }
        loaded => {
            let found = loaded.err().unwrap_or_default().into_iter().map(placed);
            Err(yaml::sort_diagnostics(found.chain(missing).collect()))
        }
    }
}

/// True if the file is next to the pipelines, or in a folder there.
fn is_allowed_path(name: &str) -> bool {
    let sound = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.contains(['\\', '\0']);
    let parts: Vec<&str> = name.split('/').collect();
    parts.len() <= 2 && parts.iter().all(|part| sound(part)) && name.ends_with(".sql")
}

/// Lists the SQL files next to the pipelines, and in the folders there.
pub fn list_sql_files(folder: &Path) -> Vec<PathBuf> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
    };
    let (folders, mut files): (Vec<_>, Vec<_>) = list(folder).into_iter().partition(|path| path.is_dir());
    files.extend(folders.iter().flat_map(|folder| list(folder)));
    files.retain(|path| path.extension().is_some_and(|extension| extension == "sql"));
    files
}

/// A field that names a file.
struct SqlFileRef<'a> {
    key: SourceSpan,
    value: SourceSpan,
    node: &'a YamlNode,
}

/// Returns the references in text order.
fn find_sql_file_refs<'a>(root: &'a YamlNode, kinds: &StepCatalog) -> Vec<SqlFileRef<'a>> {
    let steps = Section::ALL.into_iter().filter_map(|section| root.get(section.field_name()));
    let steps = steps.flat_map(|steps| match &steps.value {
        YamlValue::Seq(steps) => steps.as_slice(),
        _ => &[],
    });
    let mut places: Vec<SqlFileRef<'a>> = steps.flat_map(|step| step_sql_file_refs(step, kinds)).collect();
    places.sort_by_key(|place| place.key.offset);
    places
}

/// The references of a step: in its `with`, and in each of its `sheets`.
fn step_sql_file_refs<'a>(step: &'a YamlNode, kinds: &StepCatalog) -> Vec<SqlFileRef<'a>> {
    let kind = step.get("uses").and_then(YamlNode::as_str).and_then(|name| kinds.get(name));
    let (Some(kind), Some(with)) = (kind, step.get("with")) else { return Vec::new() };
    let schema = kind.input_schema();
    let known = |field| schema.as_value()["properties"].get(field).is_some();
    let own = Some(with).filter(|_| known(SQL_FILE_FIELD) && known(SQL_FIELD));
    let sheets = match with.get(SHEETS_FIELD).filter(|_| known(SHEETS_FIELD)).map(|sheets| &sheets.value) {
        Some(YamlValue::Seq(sheets)) => sheets.as_slice(),
        _ => &[],
    };
    own.into_iter().chain(sheets).filter_map(sql_file_ref).collect()
}

/// The reference in a block that may name SQL or a file of it.
fn sql_file_ref(block: &YamlNode) -> Option<SqlFileRef<'_>> {
    let (key, node) = (block.key(SQL_FILE_FIELD)?, block.get(SQL_FILE_FIELD)?);
    // If both fields are set, the kind itself reports the error.
    block.get(SQL_FIELD).is_none().then_some(SqlFileRef { key: key.span, value: node.span, node })
}

impl SqlFileRef<'_> {
    fn read_sql(&self, folder: &Path) -> Result<String, Box<Diagnostic>> {
        let problem = |message: String| Diagnostic::new(codes::DEFINITION_INVALID, self.value, message);
        let (Some(name), Some(Verbatim::Line(_)), true) =
            (self.node.as_str(), self.node.verbatim, self.key.line == self.value.line)
        else {
            return Err(Box::new(problem(format!("`{SQL_FILE_FIELD}` must be the name of a file, on one line"))));
        };
        if !is_allowed_path(name) {
            let hint = "expected `NAME.sql` beside the pipeline, or `FOLDER/NAME.sql`; it cannot hold an expression";
            let message = format!("`{name}` is not a file that `{SQL_FILE_FIELD}` may name");
            return Err(Box::new(problem(message).with_hint(hint)));
        }
        let path = folder.join(name);
        let unreadable = |error: std::io::Error| Box::new(problem(format!("`{name}` cannot be read: {error}")));
        let meta = std::fs::metadata(&path).map_err(unreadable)?;
        if !meta.is_file() || meta.len() > MAX_SQL_FILE_BYTES {
            return Err(Box::new(problem(format!("`{name}` is not a file of at most {MAX_SQL_FILE_BYTES} bytes"))));
        }
        let mut bytes = Vec::new();
        let file = std::fs::File::open(&path).map_err(unreadable)?;
        file.take(MAX_SQL_FILE_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
        let text = decode_utf8(bytes)
            .map_err(|fault| Box::new(problem(format!("`{name}`: {fault}")).with_hint(fault.hint())))?;
        Ok(text.strip_prefix('\u{feff}').unwrap_or(&text).to_owned())
    }
}

/// A place where the SQL was inserted.
struct TextSplice {
    /// The range of the inserted value in the expanded text.
    range: std::ops::Range<usize>,
    /// How many columns longer than the original it is.
    added_columns: isize,
    /// The span of the original value.
    original: SourceSpan,
}

/// Maps a span of the expanded text to the original text.
fn original_span(span: SourceSpan, cuts: &[TextSplice]) -> SourceSpan {
    let Some(last) = cuts.iter().rev().find(|cut| cut.range.start <= span.offset) else { return span };
    if span.offset < last.range.end {
        // A span inside the SQL maps to the file name, because the SQL is not in this file.
        return last.original;
    }
    let before = cuts.iter().filter(|cut| cut.range.end <= span.offset && cut.original.line == span.line);
    let wider: isize = before.map(|cut| cut.added_columns).sum();
    let offset = span.offset - last.range.end + last.original.offset + last.original.len;
    SourceSpan { col: span.col.saturating_add_signed(-wider), offset, ..span }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sql_file_must_be_next_to_the_pipelines() {
        for name in ["a.sql", "reports/a-b.sql"] {
            assert!(is_allowed_path(name), "{name}");
        }
        for name in
            ["../a.sql", "/etc/a.sql", "a/b/c.sql", ".a.sql", "a", "a//b.sql", "${{ x }}", "a/../b.sql", "a\\b.sql"]
        {
            assert!(!is_allowed_path(name), "{name}");
        }
    }
}
