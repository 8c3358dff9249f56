//! The pipelines of a folder: those that are good, and those that are refused with what is wrong.

use std::io::{ErrorKind, Read};
use std::path::Path;

use super::{Pipeline, StepCatalog, ValidationContext, compile_with_sql_files};
use crate::codes;
use afterload_core::error::ErrorCode;
use afterload_core::error::{Error, Result};
use afterload_spanned_yaml::{Diagnostic, SourceSpan};

/// The largest text that is read of a file; what is larger than a definition may be is refused all the same.
const MAX_DEFINITION_BYTES: u64 = 1 << 20;

/// What a folder holds.
#[derive(Clone, Default)]
pub struct PipelineFolder {
    /// The good ones with their texts, by name.
    pub pipelines: Vec<(Pipeline, String)>,
    /// The refused ones.
    pub refused: Vec<RefusedDefinition>,
}

/// A file that is refused.
#[derive(Clone)]
pub struct RefusedDefinition {
    /// Its path.
    pub file: String,
    /// The name that it should have had.
    pub name: String,
    /// What it holds.
    pub text: String,
    /// What is wrong with it.
    pub problems: Vec<Diagnostic>,
}

impl RefusedDefinition {
    /// All problems in one line.
    pub fn summary_line(&self) -> String {
        let problem = |problem: &Diagnostic| {
            format!("{}:{}:{}: {}", self.file, problem.span.line, problem.span.col, problem.message)
        };
        self.problems.iter().map(problem).collect::<Vec<_>>().join("; ")
    }
}

/// The `*.yaml` and `*.yml` files of a folder, by name; a folder that is not there holds none.
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

/// Reads and checks all pipelines of a folder.
///
/// # Errors
/// `io_error`; faults of pipelines are no error but [`Folder::refused`].
pub fn read_folder(folder: &Path, kinds: &StepCatalog, around: &ValidationContext) -> Result<PipelineFolder> {
    let files = list_pipeline_files(folder)?;
    Ok(PipelineFolder::from_results(
        files.iter().map(|path| (path.as_path(), compile_file(path, read_definition(path), kinds, around))),
    ))
}

/// The text of a file, or why there is none.
///
/// # Errors
/// A sentence for people.
pub fn read_definition(path: &Path) -> std::result::Result<String, String> {
    let unreadable = |error: std::io::Error| format!("the file cannot be read: {error}");
    // Opening a pipe would wait for somebody who writes.
    if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err("it is not a file".into());
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(MAX_DEFINITION_BYTES).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Checks one file.
///
/// # Errors
/// Why it is refused.
pub fn compile_file(
    path: &Path,
    text: std::result::Result<String, String>,
    kinds: &StepCatalog,
    around: &ValidationContext,
) -> CompileResult {
    let file = path.display().to_string();
    let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let text = match text {
        Ok(text) => text,
        Err(why) => {
            return Err(RefusedDefinition {
                file,
                name,
                text: String::new(),
                problems: vec![diagnostic_at_start(codes::IO_ERROR, why)],
            });
        }
    };
    let folder = path.parent().unwrap_or(Path::new(""));
    match compile_with_sql_files(Some(&file), &text, folder, kinds, around) {
        Ok(whole) => Ok(whole),
        Err(problems) => Err(RefusedDefinition { file, name, text, problems }),
    }
}

/// A pipeline with its text, which holds what it names by `sql_file`, or the refusal of its file.
pub type CompileResult = std::result::Result<(Pipeline, String), RefusedDefinition>;

fn diagnostic_at_start(code: ErrorCode, message: String) -> Diagnostic {
    Diagnostic::new(code, SourceSpan { line: 1, col: 1, offset: 0, len: 0 }, message)
}

impl PipelineFolder {
    /// The files of a folder, in their order. Of two with the same name, `a.yaml` and `a.yml`, the second is refused.
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
                Ok(good) => folder.pipelines.push(good),
                Err(refused) => folder.refused.push(refused),
            }
        }
        folder
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_refused_and_not_waited_for() {
        let folder = tempfile::tempdir().expect("a folder");
        let kinds = StepCatalog(Vec::new());
        std::fs::create_dir(folder.path().join("folder.yaml")).expect("a folder");
        std::os::unix::fs::symlink("nowhere", folder.path().join("dangling.yml")).expect("a link");
        let pipe = std::process::Command::new("mkfifo").arg(folder.path().join("pipe.yaml")).status().expect("mkfifo");
        assert!(pipe.success());
        let found = read_folder(folder.path(), &kinds, &ValidationContext::default()).expect("the folder can be read");
        let told: Vec<_> = found.refused.iter().map(|file| (file.name.as_str(), file.problems[0].code)).collect();
        assert_eq!(told, [("dangling", "io_error"), ("folder", "io_error"), ("pipe", "io_error")]);
    }

    /// A kind that takes whatever stands in `with:`.
    struct AnyWith;

    impl crate::StepKind for AnyWith {
        fn name(&self) -> &'static str {
            "test.any"
        }

        fn input_schema(&self) -> schemars::Schema {
            schemars::json_schema!({ "type": "object" })
        }

        fn output_schema(&self) -> schemars::Schema {
            schemars::json_schema!({ "type": "object" })
        }

        fn example_input(&self) -> &'static str {
            "{}"
        }

        fn validate(&self, _: &afterload_spanned_yaml::YamlNode, _: &ValidationContext) -> Vec<Diagnostic> {
            Vec::new()
        }
    }

    #[test]
    fn of_two_files_of_one_name_the_second_is_refused() {
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
}
