//! The pipelines of a folder: those that are good, and those that are refused with what is wrong.

use std::io::ErrorKind;
use std::path::Path;

use super::{Kinds, Pipeline, Surroundings, load};
use crate::error::{Error, Result};
use crate::yaml::Problem;

/// What a folder holds.
#[derive(Default)]
pub struct Folder {
    /// The good ones with their texts, by name.
    pub pipelines: Vec<(Pipeline, String)>,
    /// The refused ones.
    pub refused: Vec<Refused>,
}

/// A file that is refused.
pub struct Refused {
    /// Its path.
    pub file: String,
    /// The name that it should have had.
    pub name: String,
    /// What it holds.
    pub text: String,
    /// What is wrong with it.
    pub problems: Vec<Problem>,
}

impl Refused {
    /// All problems in one line.
    pub fn summary(&self) -> String {
        let problem = |problem: &Problem| {
            format!("{}:{}:{}: {}", self.file, problem.span.line, problem.span.col, problem.message)
        };
        self.problems.iter().map(problem).collect::<Vec<_>>().join("; ")
    }
}

/// The `*.yaml` and `*.yml` files of a folder, by name; a folder that is not there holds none.
///
/// # Errors
/// `io_error`
pub fn files(folder: &Path) -> Result<Vec<std::path::PathBuf>> {
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
pub fn read(folder: &Path, kinds: &Kinds, around: &Surroundings) -> Result<Folder> {
    let mut found = Folder::default();
    for path in files(folder)? {
        let file = path.display().to_string();
        let stem = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        let text = std::fs::read(&path).map_err(|error| Error::from(error).context(format!("reading `{file}`")))?;
        let text = String::from_utf8_lossy(&text).into_owned();
        match load(Some(&file), &text, kinds, around) {
            Ok(pipeline) => found.pipelines.push((pipeline, text)),
            Err(problems) => found.refused.push(Refused { file, name: stem, text, problems }),
        }
    }
    Ok(found)
}
