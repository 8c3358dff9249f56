//! Fields of `email.send` that people may write in more than one way.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use afterload_core::file::File;
use afterload_pipeline::Dynamic;

/// One address or a list of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Addresses(Vec<String>);

impl Addresses {
    /// The addresses as they were written.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(String::as_str)
    }
}

/// Files to link to, in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub struct Links(pub(super) Vec<(String, Dynamic<Option<File>>)>);

/// Files to attach, in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub struct Attach(pub(super) Vec<Dynamic<Option<File>>>);

struct AddressesVisitor;

impl<'de> Visitor<'de> for AddressesVisitor {
    type Value = Addresses;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an e-mail address or a list of them")
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Addresses, E> {
        Ok(Addresses(vec![text.to_owned()]))
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Addresses, E> {
        Ok(Addresses::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Addresses, A::Error> {
        let mut addresses = Vec::new();
        while let Some(item) = items.next_element::<serde_json::Value>()? {
            match item {
                serde_json::Value::String(text) => addresses.push(text),
                other => return Err(A::Error::custom(format!("expected an e-mail address, found `{other}`"))),
            }
        }
        Ok(Addresses(addresses))
    }
}

impl<'de> Deserialize<'de> for Addresses {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AddressesVisitor)
    }
}

impl JsonSchema for Addresses {
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

struct AttachVisitor;

impl<'de> Visitor<'de> for AttachVisitor {
    type Value = Attach;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a file such as `${{ … }}`, or a list of files")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Attach, E> {
        Ok(Attach::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Attach, A::Error> {
        let mut files = Vec::new();
        while let Some(file) = items.next_element()? {
            files.push(file);
        }
        Ok(Attach(files))
    }

    fn visit_map<A: MapAccess<'de>>(self, fields: A) -> Result<Attach, A::Error> {
        let file = File::deserialize(MapAccessDeserializer::new(fields))?;
        Ok(Attach(vec![Dynamic::Value(Some(file))]))
    }
}

impl<'de> Deserialize<'de> for Attach {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AttachVisitor)
    }
}

impl JsonSchema for Attach {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Attach".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let files = generator.subschema_for::<Vec<Dynamic<Option<File>>>>();
        json_schema!({ "anyOf": [generator.subschema_for::<Option<File>>(), files] })
    }
}

struct LinksVisitor;

impl<'de> Visitor<'de> for LinksVisitor {
    type Value = Links;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels with the file that each links to")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Links, A::Error> {
        let mut links = Vec::new();
        while let Some(entry) = entries.next_entry()? {
            links.push(entry);
        }
        Ok(Links(links))
    }
}

impl<'de> Deserialize<'de> for Links {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(LinksVisitor)
    }
}

impl JsonSchema for Links {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Links".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "object", "additionalProperties": generator.subschema_for::<Dynamic<Option<File>>>() })
    }
}
