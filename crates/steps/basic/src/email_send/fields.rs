//! Fields of `email.send` that accept more than one form.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

use afterload_core::file::File;
use afterload_pipeline::Templated;

/// One address or a list of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MailAddresses(Vec<String>);

impl MailAddresses {
    /// Returns the addresses as written.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Files by name, in the order of the pipeline file.
#[derive(Clone, Debug, Default)]
pub struct NamedFiles(pub(super) Vec<(String, Templated<Option<File>>)>);

/// Files to attach, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct AttachedFiles(pub(super) Vec<Templated<Option<File>>>);

struct MailAddressesVisitor;

impl<'de> Visitor<'de> for MailAddressesVisitor {
    type Value = MailAddresses;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an e-mail address or a list of them")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<MailAddresses, E> {
        Ok(MailAddresses(vec![text.to_owned()]))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<MailAddresses, E> {
        Ok(MailAddresses::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<MailAddresses, A::Error> {
        let mut addresses = Vec::new();
        while let Some(item) = items.next_element::<serde_json::Value>()? {
            match item {
                serde_json::Value::String(text) => addresses.push(text),
                other => {
                    let found = format!("`{other}`");
                    return Err(A::Error::invalid_value(Unexpected::Other(&found), &"an e-mail address"));
                }
            }
        }
        Ok(MailAddresses(addresses))
    }
}

impl<'de> Deserialize<'de> for MailAddresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MailAddressesVisitor)
    }
}

impl JsonSchema for MailAddresses {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Addresses".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}

struct AttachedFilesVisitor;

impl<'de> Visitor<'de> for AttachedFilesVisitor {
    type Value = AttachedFiles;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a file such as `${{ … }}`, or a list of files")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<AttachedFiles, E> {
        Ok(AttachedFiles::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<AttachedFiles, A::Error> {
        let mut files = Vec::new();
        while let Some(file) = items.next_element()? {
            files.push(file);
        }
        Ok(AttachedFiles(files))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<AttachedFiles, A::Error> {
        let file = File::deserialize(MapAccessDeserializer::new(fields))?;
        Ok(AttachedFiles(vec![Templated::Value(Some(file))]))
    }
}

impl<'de> Deserialize<'de> for AttachedFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AttachedFilesVisitor)
    }
}

impl JsonSchema for AttachedFiles {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Attach".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let files = generator.subschema_for::<Vec<Templated<Option<File>>>>();
        json_schema!({ "anyOf": [generator.subschema_for::<Option<File>>(), files] })
    }
}

struct NamedFilesVisitor;

impl<'de> Visitor<'de> for NamedFilesVisitor {
    type Value = NamedFiles;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("names with a file each")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<NamedFiles, A::Error> {
        let mut files = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            files.push(entry);
        }
        Ok(NamedFiles(files))
    }
}

impl<'de> Deserialize<'de> for NamedFiles {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(NamedFilesVisitor)
    }
}

impl JsonSchema for NamedFiles {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "NamedFiles".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<Templated<Option<File>>>() })
    }
}
