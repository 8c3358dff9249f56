//! A serde deserializer for a node. Every error of a value or key carries its position.

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};
use serde::forward_to_deserialize_any;

use super::placeholder::PlaceholderDeserializer;
use super::read_error::YamlReadError;
use super::skipped::SkippedNodes;
use super::{ExactNumber, FaultKind, TEMPLATED_TYPE_NAME, YamlKey, YamlNode, YamlValue};

/// Deserializes one node and leaves out the skipped nodes.
#[derive(Clone, Copy)]
pub struct NodeDeserializer<'a> {
    node: &'a YamlNode,
    skipped: &'a SkippedNodes,
}

impl<'a> NodeDeserializer<'a> {
    pub fn new(node: &'a YamlNode, gone: &'a SkippedNodes) -> Self {
        Self { node, skipped: gone }
    }

    fn map_access(self) -> Option<NodeMapAccess<'a>> {
        let YamlValue::Map(entries) = &self.node.value else { return None };
        let filled = self.skipped.placeholder_fields.get(&std::ptr::from_ref(self.node)).map_or(&[][..], Vec::as_slice);
        Some(NodeMapAccess {
            entries: entries.iter(),
            placeholder_fields: filled.iter(),
            skipped: self.skipped,
            next: None,
        })
    }

    fn seq_access(self) -> Option<NodeSeqAccess<'a>> {
        let YamlValue::Seq(items) = &self.node.value else { return None };
        Some(NodeSeqAccess { items: items.iter(), skipped: self.skipped })
    }

    fn visit_value<'de, V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlReadError> {
        let result = match &self.node.value {
            YamlValue::Null => visitor.visit_unit(),
            YamlValue::Bool(value) => visitor.visit_bool(*value),
            YamlValue::Int(value) => match u64::try_from(*value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(*value),
            },
            YamlValue::Float(value) => visitor.visit_f64(*value),
            YamlValue::Str(text) => visitor.visit_str(text),
            YamlValue::Seq(items) => visitor.visit_seq(NodeSeqAccess { items: items.iter(), skipped: self.skipped }),
            YamlValue::Map(_) => match self.map_access() {
                Some(entries) => visitor.visit_map(entries),
                None => Err(YamlReadError::expected("a map".into(), None)),
            },
        };
        self.locate_error(result)
    }

    fn locate_error<T>(self, result: Result<T, YamlReadError>) -> Result<T, YamlReadError> {
        result.map_err(|fault| fault.with_location(self.node.span, self.node))
    }
}

/// A field of a number type takes the number as it is.
macro_rules! deserialize_as_value {
    ($($method:ident)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlReadError> {
            self.visit_value(visitor)
        })*
    };
}

impl<'de> Deserializer<'de> for NodeDeserializer<'_> {
    type Error = YamlReadError;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlReadError> {
        let result = match self.node.exact_number() {
            Some(ExactNumber::Whole(value)) => visitor.visit_u64(value),
            Some(ExactNumber::Text(text)) => visitor.visit_str(text),
            None => return self.visit_value(visitor),
        };
        self.locate_error(result)
    }

    /// A number or a boolean is read as its source text.
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlReadError> {
        match (&self.node.value, &self.node.source_text) {
            (YamlValue::Bool(_) | YamlValue::Int(_) | YamlValue::Float(_), Some(text)) => {
                self.locate_error(visitor.visit_str(text))
            }
            _ => self.deserialize_any(visitor),
        }
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlReadError> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlReadError> {
        match &self.node.value {
            YamlValue::Null => self.locate_error(visitor.visit_none()),
            _ => self.locate_error(visitor.visit_some(self)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, YamlReadError> {
        let result = match (name, &self.node.value) {
            (TEMPLATED_TYPE_NAME, YamlValue::Str(text))
                if text.contains("${{") && !self.skipped.expressions_resolved =>
            {
                visitor.visit_str(text)
            }
            (TEMPLATED_TYPE_NAME, _) => visitor.visit_some(self),
            _ => visitor.visit_newtype_struct(self),
        };
        self.locate_error(result)
    }

    /// A struct is written as a map, never as a list. A missing field is reported at the map.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, YamlReadError> {
        let result = match self.map_access() {
            Some(entries) => visitor.visit_map(entries),
            None => Err(match &self.node.value {
                YamlValue::Seq(_) => YamlReadError::invalid_type(Unexpected::Seq, &visitor),
                _ => return self.deserialize_any(visitor),
            }),
        };
        self.locate_error(result)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, YamlReadError> {
        let result = match (&self.node.value, &self.node.source_text) {
            (YamlValue::Str(text), _) => {
                visitor.visit_enum(text.as_str().into_deserializer() as StrDeserializer<'_, YamlReadError>)
            }
            (YamlValue::Bool(_) | YamlValue::Int(_) | YamlValue::Float(_), Some(text)) => {
                visitor.visit_enum(text.as_ref().into_deserializer() as StrDeserializer<'_, YamlReadError>)
            }
            (YamlValue::Map(entries), _) if entries.len() == 1 => {
                let (key, node) = &entries[0];
                visitor.visit_enum(NodeEnumAccess { key, value: NodeDeserializer { node, skipped: self.skipped } })
            }
            _ => {
                let choices = variants.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ");
                Err(YamlReadError::expected(format!("one of {choices}"), None))
            }
        };
        self.locate_error(result)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, YamlReadError> {
        visitor.visit_unit()
    }

    deserialize_as_value! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_u8 deserialize_u16 deserialize_u32
        deserialize_u64 deserialize_f32 deserialize_f64
    }

    forward_to_deserialize_any! {
        bool i128 u128 char bytes byte_buf unit unit_struct seq tuple tuple_struct map identifier
    }
}

struct NodeSeqAccess<'a> {
    items: std::slice::Iter<'a, YamlNode>,
    skipped: &'a SkippedNodes,
}

impl<'de> SeqAccess<'de> for NodeSeqAccess<'_> {
    type Error = YamlReadError;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, YamlReadError> {
        let gone = self.skipped;
        let next = self.items.find(|node| !gone.nodes.contains(&std::ptr::from_ref(*node)));
        let Some(node) = next else { return Ok(None) };
        seed.deserialize(NodeDeserializer { node, skipped: gone })
            .map(Some)
            .map_err(|fault| fault.with_location(node.span, node))
    }
}

struct NodeMapAccess<'a> {
    entries: std::slice::Iter<'a, (YamlKey, YamlNode)>,
    placeholder_fields: std::slice::Iter<'a, &'static str>,
    skipped: &'a SkippedNodes,
    next: Option<&'a YamlNode>,
}

impl<'de> MapAccess<'de> for NodeMapAccess<'_> {
    type Error = YamlReadError;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, YamlReadError> {
        let gone = self.skipped;
        if let Some((key, node)) = self.entries.find(|(_, node)| !gone.nodes.contains(&std::ptr::from_ref(node))) {
            self.next = Some(node);
            let name: StrDeserializer<'_, YamlReadError> = key.text.as_str().into_deserializer();
            return seed.deserialize(name).map(Some).map_err(|fault| fault.with_location(key.span, node));
        }
        self.next = None;
        let Some(name) = self.placeholder_fields.next() else { return Ok(None) };
        let name: StrDeserializer<'_, YamlReadError> = (*name).into_deserializer();
        seed.deserialize(name).map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, YamlReadError> {
        match self.next.take() {
            Some(node) => {
                let reader = NodeDeserializer { node, skipped: self.skipped };
                seed.deserialize(reader).map_err(|fault| fault.with_location(node.span, node))
            }
            None => seed.deserialize(PlaceholderDeserializer).map_err(|mut fault| {
                fault.follow_up = true;
                fault.fault = FaultKind::Other;
                fault
            }),
        }
    }
}

/// A variant with a value: a map with one entry.
struct NodeEnumAccess<'a> {
    key: &'a YamlKey,
    value: NodeDeserializer<'a>,
}

impl<'de, 'a> EnumAccess<'de> for NodeEnumAccess<'a> {
    type Error = YamlReadError;
    type Variant = NodeDeserializer<'a>;

    fn variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<(T::Value, NodeDeserializer<'a>), YamlReadError> {
        let name: StrDeserializer<'_, YamlReadError> = self.key.text.as_str().into_deserializer();
        let variant = seed.deserialize(name).map_err(|fault| fault.with_location(self.key.span, self.value.node))?;
        Ok((variant, self.value))
    }
}

impl<'de> VariantAccess<'de> for NodeDeserializer<'_> {
    type Error = YamlReadError;

    fn unit_variant(self) -> Result<(), YamlReadError> {
        match &self.node.value {
            YamlValue::Null => Ok(()),
            _ => self.locate_error(Err(YamlReadError::new("this word takes no value"))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, YamlReadError> {
        self.locate_error(seed.deserialize(self))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _len: usize, visitor: V) -> Result<V::Value, YamlReadError> {
        match self.seq_access() {
            Some(items) => self.locate_error(visitor.visit_seq(items)),
            None => self.locate_error(Err(YamlReadError::expected("a list".into(), None))),
        }
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, YamlReadError> {
        self.deserialize_struct("", fields, visitor)
    }
}
