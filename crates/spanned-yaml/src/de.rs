//! serde's view of a node. Every error that leaves a value or a key takes its place along.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::fault::Fault;
use super::placeholder::Placeholder;
use super::read::Gone;
use super::{Key, Node, Value};

/// The name under which a type asks for text with an expression as text and for anything else as the type itself.
pub const DYNAMIC: &str = "$dynamic";

/// Reads one node, leaving out what could not be read before.
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    node: &'a Node,
    gone: &'a Gone,
}

impl<'a> Reader<'a> {
    pub fn new(node: &'a Node, gone: &'a Gone) -> Self {
        Self { node, gone }
    }

    fn map(self) -> Option<Entries<'a>> {
        let Value::Map(entries) = &self.node.value else { return None };
        let filled = self.gone.filled.get(&std::ptr::from_ref(self.node)).map_or(&[][..], Vec::as_slice);
        Some(Entries { entries: entries.iter(), filled: filled.iter(), gone: self.gone, next: None })
    }

    fn seq(self) -> Option<Items<'a>> {
        let Value::Seq(items) = &self.node.value else { return None };
        Some(Items { items: items.iter(), gone: self.gone })
    }

    fn here<T>(self, result: Result<T, Fault>) -> Result<T, Fault> {
        result.map_err(|fault| fault.at(self.node.span, self.node))
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Fault;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Int(value) => match u64::try_from(*value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(*value),
            },
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Str(text) => visitor.visit_str(text),
            Value::Seq(items) => visitor.visit_seq(Items { items: items.iter(), gone: self.gone }),
            Value::Map(_) => match self.map() {
                Some(entries) => visitor.visit_map(entries),
                None => Err(Fault::new("expected a map")),
            },
        };
        self.here(result)
    }

    /// A number or a boolean is taken as it was written.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match (&self.node.value, &self.node.written) {
            (Value::Bool(_) | Value::Int(_) | Value::Float(_), Some(text)) => self.here(visitor.visit_str(text)),
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        match &self.node.value {
            Value::Null => self.here(visitor.visit_none()),
            _ => self.here(visitor.visit_some(self)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, Fault> {
        let result = match (name, &self.node.value) {
            (DYNAMIC, Value::Str(text)) if text.contains("${{") && !self.gone.resolved => visitor.visit_str(text),
            (DYNAMIC, _) => visitor.visit_some(self),
            _ => visitor.visit_newtype_struct(self),
        };
        self.here(result)
    }

    /// A struct is written as a map, never as a list; a missing field is a fault of the map.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match self.map() {
            Some(entries) => visitor.visit_map(entries),
            None => Err(match &self.node.value {
                Value::Seq(_) => Fault::invalid_type(Unexpected::Seq, &visitor),
                _ => return self.deserialize_any(visitor),
            }),
        };
        self.here(result)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Fault> {
        let result = match (&self.node.value, &self.node.written) {
            (Value::Str(text), _) => {
                visitor.visit_enum(text.as_str().into_deserializer() as StrDeserializer<'_, Fault>)
            }
            (Value::Bool(_) | Value::Int(_) | Value::Float(_), Some(text)) => {
                visitor.visit_enum(text.as_ref().into_deserializer() as StrDeserializer<'_, Fault>)
            }
            (Value::Map(entries), _) if entries.len() == 1 => {
                let (key, node) = &entries[0];
                visitor.visit_enum(Tagged { key, value: Reader { node, gone: self.gone } })
            }
            _ => {
                let choices = variants.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                Err(Fault::new(format!("expected one of {choices}")))
            }
        };
        self.here(result)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Fault> {
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct seq tuple tuple_struct
        map identifier
    }
}

struct Items<'a> {
    items: std::slice::Iter<'a, Node>,
    gone: &'a Gone,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Fault;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Fault> {
        let gone = self.gone;
        let next = self.items.find(|node| !gone.nodes.contains(&std::ptr::from_ref(*node)));
        let Some(node) = next else { return Ok(None) };
        seed.deserialize(Reader { node, gone }).map(Some).map_err(|fault| fault.at(node.span, node))
    }
}

struct Entries<'a> {
    entries: std::slice::Iter<'a, (Key, Node)>,
    filled: std::slice::Iter<'a, &'static str>,
    gone: &'a Gone,
    next: Option<&'a Node>,
}

impl<'de> MapAccess<'de> for Entries<'_> {
    type Error = Fault;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Fault> {
        let gone = self.gone;
        if let Some((key, node)) = self.entries.find(|(_, node)| !gone.nodes.contains(&std::ptr::from_ref(node))) {
            self.next = Some(node);
            let name: StrDeserializer<'_, Fault> = key.text.as_str().into_deserializer();
            return seed.deserialize(name).map(Some).map_err(|fault| fault.at(key.span, node));
        }
        self.next = None;
        let Some(name) = self.filled.next() else { return Ok(None) };
        let name: StrDeserializer<'_, Fault> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, Fault> {
        match self.next.take() {
            Some(node) => {
                let reader = Reader { node, gone: self.gone };
                seed.deserialize(reader).map_err(|fault| fault.at(node.span, node))
            }
            None => seed.deserialize(Placeholder).map_err(|mut fault| {
                fault.follow_up = true;
                fault.missing = None;
                fault
            }),
        }
    }
}

/// A variant with a value: a map of one entry.
struct Tagged<'a> {
    key: &'a Key,
    value: Reader<'a>,
}

impl<'de, 'a> EnumAccess<'de> for Tagged<'a> {
    type Error = Fault;
    type Variant = Reader<'a>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, Reader<'a>), Fault> {
        let name: StrDeserializer<'_, Fault> = self.key.text.as_str().into_deserializer();
        let variant = seed.deserialize(name).map_err(|fault| fault.at(self.key.span, self.value.node))?;
        Ok((variant, self.value))
    }
}

impl<'de> VariantAccess<'de> for Reader<'_> {
    type Error = Fault;

    fn unit_variant(self) -> Result<(), Fault> {
        match &self.node.value {
            Value::Null => Ok(()),
            _ => self.here(Err(Fault::new("this word takes no value"))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Fault> {
        self.here(seed.deserialize(self))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, Fault> {
        match self.seq() {
            Some(items) => self.here(visitor.visit_seq(items)),
            None => self.here(Err(Fault::new("expected a list"))),
        }
    }

    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Fault> {
        self.deserialize_struct("", fields, visitor)
    }
}
