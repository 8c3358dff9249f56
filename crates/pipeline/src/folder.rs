//! Reads the pipeline files of a folder. Invalid files are returned with their diagnostics.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read};
use std::path::Path;

use super::{Pipeline, StepCatalog, TriggerFlow, TriggerGraph, ValidationContext, compile_with_sql_files};
use crate::codes;
use afterload_core::error::ErrorCode;
use afterload_core::error::{Error, Result};
use afterload_core::text::{NotUtf8, decode_utf8};
use afterload_spanned_yaml::{Diagnostic, SourceSpan};

/// Reads at most this many bytes of a file. A larger file exceeds the definition limit anyway.
const MAX_DEFINITION_BYTES: u64 = 1 << 20;

/// The compiled pipelines of a folder.
#[derive(Clone, Default)]
pub struct PipelineFolder {
    /// The valid pipelines with their text, by name.
    pub pipelines: Vec<(Pipeline, String)>,
    /// The invalid files.
    pub refused: Vec<RefusedDefinition>,
    /// The paths of the valid pipelines, by name.
    files: BTreeMap<String, String>,
}

/// A live definition, as far as it concerns the loops of triggers.
#[derive(Clone, Debug)]
pub struct LiveFlow {
    /// The digest of the definition.
    pub digest: String,
    /// What starts the pipeline, and what its runs do.
    pub flow: TriggerFlow,
}

/// A file that does not compile.
#[derive(Clone)]
pub struct RefusedDefinition {
    /// The path.
    pub file: String,
    /// The name that the file should contain.
    pub name: String,
    /// The content.
    pub text: String,
    /// The diagnostics.
    pub problems: Vec<Diagnostic>,
}

impl RefusedDefinition {
    /// Returns all diagnostics in one line.
    pub fn summary_line(&self) -> String {
        let problem = |problem: &Diagnostic| {
            format!("{}:{}:{}: {}", self.file, problem.span.line, problem.span.col, problem.message)
        };
        self.problems.iter().map(problem).collect::<Vec<_>>().join("; ")
    }
}

/// Lists the `*.yaml` and `*.yml` files of a folder, by name. A missing folder is empty.
///
/// # Errors
/// `io_error`
pub fn list_pipeline_files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
    let entries = match std::fs::read_dir(folder) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| Error::from(error).context(format!("reading `{}`", folder.display())))?,
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Reads and compiles all pipelines of a folder. Of pipelines that start each other without end, the last is refused.
///
/// # Errors
/// `io_error`. An invalid pipeline is not an error; see [`PipelineFolder::refused`].
pub fn read_folder(folder: &Path, kinds: &StepCatalog, around: &ValidationContext) -> Result<PipelineFolder> {
    let files = list_pipeline_files(folder)?;
    let folder = PipelineFolder::from_results(
        files.iter().map(|path| (path.as_path(), compile_file(path, read_definition(path), kinds, around))),
    );
    Ok(folder.refuse_loops(&BTreeMap::new()))
}

/// Why a file gives no text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnreadableDefinition {
    /// The reason, as a sentence.
    Io(String),
    /// The file is not UTF-8.
    NotUtf8(NotUtf8),
}

impl UnreadableDefinition {
    /// Describes an error of the file system.
    pub fn from_io(error: &std::io::Error) -> Self {
        Self::Io(format!("the file cannot be read: {error}"))
    }

    /// The problem, at the start of the file.
    pub fn into_diagnostic(self) -> Diagnostic {
        match self {
            Self::Io(why) => diagnostic_at_start(codes::IO_ERROR, why),
            Self::NotUtf8(fault) => {
                diagnostic_at_start(codes::DEFINITION_INVALID, fault.to_string()).with_hint(fault.hint())
            }
        }
    }
}

/// Reads the text of a file.
///
/// # Errors
/// Why the file gives no text.
pub fn read_definition(path: &Path) -> std::result::Result<String, UnreadableDefinition> {
    let unreadable = |error: std::io::Error| UnreadableDefinition::from_io(&error);
    // Opening a FIFO would block until a writer opens it.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(UnreadableDefinition::Io("it is not a file".into()));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_DEFINITION_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    if bytes.len() as u64 == MAX_DEFINITION_BYTES {
        remove_split_character(&mut bytes);
    }
    decode_definition(bytes)
}

/// Decodes the bytes of a file.
///
/// # Errors
/// The file is not UTF-8.
pub fn decode_definition(bytes: Vec<u8>) -> std::result::Result<String, UnreadableDefinition> {
    decode_utf8(bytes).map_err(UnreadableDefinition::NotUtf8)
}

/// Removes the start of a character whose rest was not read.
fn remove_split_character(bytes: &mut Vec<u8>) {
    if let Err(error) = std::str::from_utf8(bytes)
        && error.error_len().is_none()
    {
        let end = error.valid_up_to();
        bytes.truncate(end);
    }
}

/// Compiles one file.
///
/// # Errors
/// The refusal with its diagnostics.
pub fn compile_file(
    path: &Path,
    text: std::result::Result<String, UnreadableDefinition>,
    kinds: &StepCatalog,
    around: &ValidationContext,
) -> CompileResult {
    let file = path.display().to_string();
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = match text {
        Ok(text) => text,
        Err(unreadable) => {
            let problems = vec![unreadable.into_diagnostic()];
            return Err(RefusedDefinition { file, name, text: String::new(), problems });
        }
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    match compile_with_sql_files(Some(&file), &text, folder, kinds, around) {
        Ok(whole) => Ok(whole),
        Err(problems) => Err(RefusedDefinition { file, name, text, problems }),
    }
}

/// A pipeline with its text (including its SQL files), or the refusal of its file.
pub type CompileResult = std::result::Result<(Pipeline, String), RefusedDefinition>;

fn diagnostic_at_start(code: ErrorCode, message: String) -> Diagnostic {
    Diagnostic::new(code, SourceSpan { line: 1, col: 1, offset: 0, len: 0 }, message)
}

impl PipelineFolder {
    /// Collects the results in order. Of two files with the same name, `a.yaml` and `a.yml`, the second is refused.
    pub fn from_results<'a>(judged: impl IntoIterator<Item = (&'a Path, CompileResult)>) -> Self {
        let mut folder = Self::default();
        for (path, judged) in judged {
            match judged {
                Ok((pipeline, text))
                    if folder.pipelines.iter().any(|(known, _)| known.plan.name == pipeline.plan.name) =>
                {
                    let name = pipeline.plan.name;
                    let problem = diagnostic_at_start(
                        codes::DEFINITION_INVALID,
                        format!("another file holds the pipeline `{name}` already"),
                    );
                    let problems = vec![problem.with_hint(format!("keep one of `{name}.yaml` and `{name}.yml`"))];
                    folder.refused.push(RefusedDefinition { file: path.display().to_string(), name, text, problems });
                }
                Ok(good) => {
                    folder.files.insert(good.0.plan.name.clone(), path.display().to_string());
                    folder.pipelines.push(good);
                }
                Err(refused) => folder.refused.push(refused),
            }
        }
        folder
    }

    /// Refuses the pipelines that would close a loop of triggers. `live` holds what is live now under each name that stays
    /// live. It comes first: a file that arrives later is the one that closes a loop.
    #[must_use]
    pub fn refuse_loops(self, live: &BTreeMap<String, LiveFlow>) -> Self {
        let Self { pipelines, mut refused, files } = self;
        let is_live = |pipeline: &Pipeline| {
            live.get(&pipeline.plan.name).is_some_and(|known| known.digest == pipeline.plan.digest)
        };
        let (kept, new): (Vec<_>, Vec<_>) = pipelines.into_iter().partition(|(pipeline, _)| is_live(pipeline));
        let mut graph = TriggerGraph::default();
        let kept_names: BTreeSet<&str> = kept.iter().map(|(pipeline, _)| pipeline.plan.name.as_str()).collect();
        for (_, known) in live.iter().filter(|(name, _)| !kept_names.contains(name.as_str())) {
            graph.insert(known.flow.clone());
        }
        let (mut accepted, mut waiting) = (Vec::new(), kept);
        waiting.extend(new);
        // A pipeline that is accepted may replace one that closed a loop. So those that were not are tried again.
        let closing = loop {
            let mut closing = Vec::new();
            let count = waiting.len();
            for loaded in waiting {
                match graph.insert_unless_loop(TriggerFlow::from(&loaded.0)) {
                    None => accepted.push(loaded),
                    Some(problem) => closing.push((loaded, problem)),
                }
            }
            if closing.is_empty() || closing.len() == count {
                break closing;
            }
            waiting = closing.into_iter().map(|(loaded, _)| loaded).collect();
        };
        accepted.sort_by(|(a, _), (b, _)| a.plan.name.cmp(&b.plan.name));
        refused.extend(closing.into_iter().map(|((pipeline, text), problem)| {
            let name = pipeline.plan.name;
            let file = files.get(&name).cloned().unwrap_or_default();
            RefusedDefinition { file, name, text, problems: vec![problem] }
        }));
        refused.sort_by(|a, b| a.file.cmp(&b.file));
        Self { pipelines: accepted, refused, files }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    #[test]
    fn unreadable_file_is_refused_without_blocking() {
        let folder = tempfile::tempdir().expect("a folder");
        let kinds = StepCatalog(Vec::new());
        std::fs::create_dir(folder.path().join("folder.yaml")).expect("a folder");
        std::os::unix::fs::symlink("nowhere", folder.path().join("dangling.yml")).expect("a link");
        let pipe = std::process::Command::new("mkfifo").arg(folder.path().join("pipe.yaml")).status().expect("mkfifo");
        assert!(pipe.success());
        let found = read_folder(folder.path(), &kinds, &ValidationContext::default()).expect("the folder can be read");
        let told: Vec<_> =
            found.refused.iter().map(|file| (file.name.as_str(), file.problems[0].code.name())).collect();
        assert_eq!(told, [("dangling", "io_error"), ("folder", "io_error"), ("pipe", "io_error")]);
    }

    #[test]
    fn file_that_is_not_utf8_is_refused_with_its_first_wrong_byte() {
        let folder = tempfile::tempdir().expect("a folder");
        let kinds = StepCatalog(Vec::new());
        std::fs::write(folder.path().join("latin.yaml"), b"name: latin # caf\xe9\nsteps: []\n").expect("a file");
        let utf16 = "name: wide\n".encode_utf16().flat_map(u16::to_le_bytes);
        let utf16: Vec<u8> = [0xff, 0xfe].into_iter().chain(utf16).collect();
        std::fs::write(folder.path().join("wide.yaml"), utf16).expect("a file");
        let found = read_folder(folder.path(), &kinds, &ValidationContext::default()).expect("the folder can be read");
        let told: Vec<_> = found.refused.iter().map(|file| (file.name.as_str(), file.problems[0].clone())).collect();
        let [("latin", latin), ("wide", wide)] = told.as_slice() else { panic!("two refusals: {told:?}") };
        assert_eq!((latin.code.name(), wide.code.name()), ("definition_invalid", "definition_invalid"));
        assert_eq!(latin.message, "the file is not UTF-8; byte 17 is the first that is wrong");
        assert_eq!(latin.hint.as_deref(), Some("save it as UTF-8"));
        assert_eq!(wide.message, "the file is not UTF-8; byte 0 is the first that is wrong");
        assert!(wide.hint.as_deref().is_some_and(|hint| hint.contains("UTF-16")), "{wide:?}");
        assert!(found.refused[0].summary_line().contains("latin.yaml:1:1: the file is not UTF-8"));
    }

    #[test]
    fn too_large_file_is_refused_for_its_size_where_reading_splits_a_character() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("large.yaml");
        std::fs::write(&path, format!("#{}", "é".repeat(1 << 20))).expect("a file");
        let text = read_definition(&path).expect("UTF-8");
        assert_eq!(text.len() as u64, MAX_DEFINITION_BYTES - 1);
    }

    /// A kind that accepts any `with:`.
    struct AnyWith;

    impl crate::StepKind for AnyWith {
        fn name(&self) -> &'static str {
            "test.any"
        }

        fn input_schema(&self) -> &schemars::Schema {
            static ANY: LazyLock<schemars::Schema> = LazyLock::new(|| schemars::json_schema!({ "type": "object" }));
            &ANY
        }

        fn output_schema(&self) -> &schemars::Schema {
            crate::StepKind::input_schema(self)
        }

        fn example_input(&self) -> &'static str {
            "{}"
        }

        fn makes_files(&self) -> bool {
            true
        }

        fn always_makes_files(&self, _: &afterload_spanned_yaml::YamlNode) -> bool {
            true
        }

        fn validate(&self, _: &afterload_spanned_yaml::YamlNode, _: &ValidationContext) -> Vec<Diagnostic> {
            Vec::new()
        }
    }

    #[test]
    fn second_file_of_same_name_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let kinds = StepCatalog(vec![std::sync::Arc::new(AnyWith)]);
        let text = "name: a\nsteps:\n  - { id: a, uses: test.any }\n";
        for name in ["a.yaml", "a.yml"] {
            std::fs::write(folder.path().join(name), text).expect("a file");
        }
        let found = read_folder(folder.path(), &kinds, &ValidationContext::default()).expect("the folder can be read");
        assert_eq!((found.pipelines.len(), found.refused.len()), (1, 1));
        assert!(found.refused[0].summary_line().contains("another file holds"), "{}", found.refused[0].summary_line());
    }

    /// A folder of pipelines, each with the folder of the bucket that it takes and the one that it writes.
    fn flows<const N: usize>(parts: [(&str, &str, &str); N]) -> PipelineFolder {
        let kinds = StepCatalog(vec![std::sync::Arc::new(AnyWith)]);
        let files = parts.map(|(name, from, to)| {
            let text = format!(
                "name: {name}\ntriggers: [{{ type: s3, bucket: uploads, prefix: {from}/ }}]\nsteps:\n  \
                 - {{ id: a, uses: test.any, with: {{}}, output: {{ bucket: uploads, key: \"{to}/x\" }} }}\n"
            );
            (std::path::PathBuf::from(format!("{name}.yaml")), text)
        });
        PipelineFolder::from_results(files.iter().map(|(path, text)| {
            (path.as_path(), compile_file(path, Ok(text.clone()), &kinds, &ValidationContext::default()))
        }))
    }

    fn live(folder: &PipelineFolder) -> BTreeMap<String, LiveFlow> {
        let flow = |(pipeline, _): &(Pipeline, String)| {
            let flow = LiveFlow { digest: pipeline.plan.digest.clone(), flow: TriggerFlow::from(pipeline) };
            (pipeline.plan.name.clone(), flow)
        };
        folder.pipelines.iter().map(flow).collect()
    }

    fn names(folder: &PipelineFolder) -> (Vec<&str>, Vec<&str>) {
        let accepted = folder.pipelines.iter().map(|(pipeline, _)| pipeline.plan.name.as_str()).collect();
        (accepted, folder.refused.iter().map(|refused| refused.name.as_str()).collect())
    }

    #[test]
    fn file_that_closes_a_loop_is_refused_and_the_others_go_on() {
        let both = || flows([("a", "in", "out"), ("b", "out", "in")]);
        let found = both().refuse_loops(&BTreeMap::new());
        assert_eq!(names(&found), (vec!["a"], vec!["b"]));
        let refused = &found.refused[0];
        assert_eq!((refused.file.as_str(), refused.problems[0].code), ("b.yaml", codes::TRIGGER_LOOP));
        assert_eq!((refused.problems[0].span.line, refused.problems[0].span.col), (4, 72));
        // What is live was there before.
        let found = both().refuse_loops(&live(&flows([("b", "out", "in")])));
        assert_eq!(names(&found), (vec!["b"], vec!["a"]));
        // What is live counts without a file here, too.
        let found = flows([("a", "in", "out")]).refuse_loops(&live(&flows([("b", "out", "in")])));
        assert_eq!(names(&found), (vec![], vec!["a"]));
    }

    #[test]
    fn files_that_change_together_are_judged_together() {
        let before = live(&flows([("a", "x", "y"), ("b", "y", "z")]));
        let found = flows([("a", "z", "y"), ("b", "y", "w")]).refuse_loops(&before);
        assert_eq!(names(&found), (vec!["a", "b"], vec![]), "`a` alone would close a loop with the old `b`");
    }
}
