//! Reads the files of mail templates: those of the user's folder, then the built-in ones.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::codes;
use afterload_core::error::Error;
use afterload_core::text::{NotUtf8, decode_utf8};

/// The built-in templates. A folder of the same name in the configured place replaces a template completely, so that no
/// user's HTML is sent beside the built-in text.
pub(super) const BUILTIN_TEMPLATES: [(&str, &str); 13] = [
    ("layout.html", include_str!("../../../templates/email/layout.html")),
    ("import_done/subject.txt", include_str!("../../../templates/email/import_done/subject.txt")),
    ("import_done/body.txt", include_str!("../../../templates/email/import_done/body.txt")),
    ("import_done/body.html", include_str!("../../../templates/email/import_done/body.html")),
    ("import_done/preview.yaml", include_str!("../../../templates/email/import_done/preview.yaml")),
    ("run_failed/subject.txt", include_str!("../../../templates/email/run_failed/subject.txt")),
    ("run_failed/body.txt", include_str!("../../../templates/email/run_failed/body.txt")),
    ("run_failed/body.html", include_str!("../../../templates/email/run_failed/body.html")),
    ("run_failed/preview.yaml", include_str!("../../../templates/email/run_failed/preview.yaml")),
    ("sales_report/subject.txt", include_str!("../../../templates/email/sales_report/subject.txt")),
    ("sales_report/body.txt", include_str!("../../../templates/email/sales_report/body.txt")),
    ("sales_report/body.html", include_str!("../../../templates/email/sales_report/body.html")),
    ("sales_report/preview.yaml", include_str!("../../../templates/email/sales_report/preview.yaml")),
];

/// The text of `NAME/file`, or of a file beside the templates. `None` if it is neither there nor built in.
pub(super) fn load_source(folder: &Path, path: &str) -> io::Result<Option<String>> {
    if path.is_empty() || !Path::new(path).components().all(|part| matches!(part, Component::Normal(_))) {
        return Ok(None);
    }
    let file = folder.join(path);
    match fs::read(&file) {
        Ok(bytes) => {
            let text = decode_utf8(bytes);
            return text
                .map(Some)
                .map_err(|fault| io::Error::new(io::ErrorKind::InvalidData, WrongEncoding { file, fault }));
        }
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
        Err(error) => return Err(error),
    }
    let replaced = path.split_once('/').is_some_and(|(name, _)| folder.join(name).is_dir());
    Ok(BUILTIN_TEMPLATES.iter().find(|(name, _)| !replaced && *name == path).map(|(_, text)| (*text).to_owned()))
}

/// A template file that is not UTF-8.
#[derive(Debug)]
pub(super) struct WrongEncoding {
    file: PathBuf,
    fault: NotUtf8,
}

impl fmt::Display for WrongEncoding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.fault)
    }
}

impl std::error::Error for WrongEncoding {}

impl WrongEncoding {
    fn from_io(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }

    pub(super) fn to_error(&self) -> Error {
        Error::new(codes::MAIL_TEMPLATE_INVALID, self.to_string()).with_hint(self.fault.hint())
    }
}

/// The loader's error lies below those of the templates that include the file.
pub(super) fn find_wrong_encoding(error: &minijinja::Error) -> Option<&WrongEncoding> {
    let first: &(dyn std::error::Error + 'static) = error;
    let mut causes = std::iter::successors(Some(first), |&cause| cause.source());
    causes.find_map(|cause| WrongEncoding::from_io(cause.downcast_ref()?))
}

pub(super) fn unreadable_error(error: io::Error, action: String) -> Error {
    match WrongEncoding::from_io(&error) {
        Some(fault) => fault.to_error(),
        None => Error::from(error).context(action),
    }
}
