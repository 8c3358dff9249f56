//! The files that a new run may read.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};

use afterload_core::error::Result;
use afterload_core::file::FileIdentity;
use afterload_core::file_seals::FileSeals;
use afterload_core::keyring::Keyring;
use afterload_pipeline::{Param, ParamType};
use afterload_step_api::file_not_authorized;

/// The files that a new run may read. Whoever authorized a file has sealed it for this run.
pub(crate) struct FileGrants<'a> {
    keyring: &'a Keyring,
    run: &'a str,
    seals: FileSeals,
}

impl<'a> FileGrants<'a> {
    /// Takes the seals out of the values of a new run. Only those of this service for this run count.
    pub(crate) fn take_from<'v>(
        keyring: &'a Keyring,
        run: &'a str,
        values: impl IntoIterator<Item = &'v mut Value>,
    ) -> Self {
        let mut seals = FileSeals::default();
        for value in values {
            seals.take_from(value, &|file, seal| keyring.verify_file_seal(file, run, seal));
        }
        Self { keyring, run, seals }
    }

    /// The files that an earlier definition has authorized for the same run.
    pub(crate) fn from_seals(keyring: &'a Keyring, run: &'a str, seals: FileSeals) -> Self {
        Self { keyring, run, seals }
    }

    /// Requires a seal for every file of a `file` param, and returns the seals. The author of the pipeline may read any
    /// file, so those of `author_params` and of defaults are sealed here.
    ///
    /// # Errors
    /// `file_not_authorized`
    pub(crate) fn into_seals(
        mut self,
        declared: &BTreeMap<String, Param>,
        params: &Map<String, Value>,
        author_params: &BTreeSet<String>,
    ) -> Result<FileSeals> {
        for (name, value) in params {
            let Some(param) = declared.get(name) else { continue };
            let by_author = author_params.contains(name) || param.default.as_ref() == Some(value);
            for file in param_files(&param.kind, value) {
                if by_author {
                    let seal = self.keyring.create_file_seal(&file, self.run);
                    self.seals.insert(file, seal);
                } else if self.seals.get(&file).is_none() {
                    return Err(file_not_authorized(&file).context(format!("`{name}`")));
                }
            }
        }
        Ok(self.seals)
    }
}

/// The files that a param of this type holds.
fn param_files(kind: &ParamType, value: &Value) -> Vec<FileIdentity> {
    match (kind, value) {
        (ParamType::File(_), Value::Object(fields)) => FileIdentity::from_fields(fields).into_iter().collect(),
        (ParamType::List { items: Some(kind), .. }, Value::Array(items)) => {
            items.iter().flat_map(|item| param_files(kind, item)).collect()
        }
        _ => Vec::new(),
    }
}
