//! The seals of files. A seal proves that the steps of a run may read a file.
//!
//! Seals exist only in the database, inside the JSON of the files that they cover. What reads a row takes them out, so
//! that neither expressions, nor steps, nor responses contain any. What writes a row puts them in again.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value;

use crate::file::FileIdentity;

/// The field of a stored file that holds its seal. The name is reserved: nothing else with it is stored.
const SEAL_FIELD: &str = "$seal";

/// The files of some values, each with its seal.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct FileSeals(BTreeMap<FileIdentity, String>);

impl FileSeals {
    /// Adds the seal of a file.
    pub fn insert(&mut self, file: FileIdentity, seal: String) {
        self.0.insert(file, seal);
    }

    /// Adds the seals of other values.
    pub fn merge(&mut self, other: Self) {
        self.0.extend(other.0);
    }

    /// The seal of a file.
    pub fn get(&self, file: &FileIdentity) -> Option<&str> {
        self.0.get(file).map(String::as_str)
    }

    /// The sealed files.
    pub fn files(&self) -> impl Iterator<Item = &FileIdentity> {
        self.0.keys()
    }

    /// Takes all seals out of a value, and adds those that `accepts` permits.
    pub fn take_from(&mut self, value: &mut Value, accepts: &impl Fn(&FileIdentity, &str) -> bool) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.take_from(item, accepts)),
            Value::Object(fields) => {
                if let Some(Value::String(seal)) = fields.remove(SEAL_FIELD)
                    && let Some(file) = FileIdentity::from_fields(fields)
                    && accepts(&file, &seal)
                {
                    self.insert(file, seal);
                }
                fields.values_mut().for_each(|field| self.take_from(field, accepts));
            }
            _ => {}
        }
    }

    /// Writes the seals into the files of a value, and removes every other one: a value of a user must not bring any.
    pub fn write_into(&self, value: &mut Value) {
        match value {
            Value::Array(items) => items.iter_mut().for_each(|item| self.write_into(item)),
            Value::Object(fields) => {
                fields.remove(SEAL_FIELD);
                fields.values_mut().for_each(|field| self.write_into(field));
                if let Some(seal) = FileIdentity::from_fields(fields).and_then(|file| self.0.get(&file)) {
                    fields.insert(SEAL_FIELD.to_owned(), seal.clone().into());
                }
            }
            _ => {}
        }
    }

    /// A copy of the value with these seals, for the database.
    pub fn seal_copy(&self, value: &Value) -> Value {
        let mut sealed = value.clone();
        self.write_into(&mut sealed);
        sealed
    }
}

/// Shows no seal.
impl fmt::Debug for FileSeals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.files()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::file::File;

    #[test]
    fn seals_are_written_into_their_files_only_and_taken_out_again() {
        let file = json!({ "bucket": "b", "key": "k", "etag": "e", "name": "n", "width": 3 });
        let other = json!({ "bucket": "b", "key": "k", "etag": "f", "name": "n" });
        let value = json!({ "list": [file, other], "deep": { "file": file }, "text": "b" });
        let identity = FileIdentity::from(&serde_json::from_value::<File>(file.clone()).expect("a file"));
        let mut seals = FileSeals::default();
        seals.insert(identity.clone(), "canary".into());
        let mut stored = seals.seal_copy(&value);
        assert_eq!(stored["list"][0]["$seal"], "canary");
        assert_eq!(stored.to_string().matches("canary").count(), 2);
        assert!(!format!("{seals:?}").contains("canary"));

        let mut taken = FileSeals::default();
        taken.take_from(&mut stored, &|_, _| true);
        assert_eq!((stored, &taken), (value, &seals));
        assert_eq!(taken.get(&identity), Some("canary"));
    }

    #[test]
    fn seals_of_users_are_neither_accepted_nor_stored() {
        let forged = json!({ "bucket": "b", "key": "k", "name": "n", "$seal": "forged", "in": [{ "$seal": 1 }] });
        let clean = json!({ "bucket": "b", "key": "k", "name": "n", "in": [{}] });
        assert_eq!(FileSeals::default().seal_copy(&forged), clean);
        let (mut value, mut taken) = (forged, FileSeals::default());
        taken.take_from(&mut value, &|_, seal| seal != "forged");
        assert_eq!((value, taken), (clean, FileSeals::default()));
    }

    #[test]
    fn identity_of_fields_is_that_of_their_file() {
        for fields in [
            json!({ "bucket": "b", "key": "k", "name": "n" }),
            json!({ "bucket": "b", "key": "k", "name": "n", "version": null, "etag": "", "artifact_id": null }),
            json!({ "bucket": "b", "key": "k", "name": "n", "version": "v", "etag": "e", "artifact_id": "a" }),
        ] {
            let file: File = serde_json::from_value(fields.clone()).expect("a file");
            let identity = FileIdentity::from_fields(fields.as_object().expect("a map"));
            assert_eq!(identity, Some(FileIdentity::from(&file)), "{fields}");
        }
        for none in [json!({ "bucket": "b" }), json!({ "bucket": "b", "key": 1 }), json!({ "bucket": null, "key": "" })]
        {
            assert_eq!(FileIdentity::from_fields(none.as_object().expect("a map")), None, "{none}");
        }
    }
}
