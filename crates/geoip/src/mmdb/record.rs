//! A record of a file, of which only what is needed is decoded. `city` is a map in the one schema and text in the other.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::Answer;

/// Both schemas at once: no name means two things.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Record<'a> {
    // MaxMind's.
    #[serde(borrow)]
    country: Place<'a>,
    #[serde(borrow)]
    registered_country: Place<'a>,
    #[serde(borrow)]
    subdivisions: First<'a>,
    #[serde(borrow)]
    postal: Postal<'a>,
    #[serde(borrow)]
    location: Location<'a>,
    #[serde(borrow)]
    traits: Network<'a>,
    // Of both.
    #[serde(borrow)]
    city: Named<'a>,
    // ip-location-db's, and MaxMind's files of networks.
    country_code: Option<&'a str>,
    state1: Option<&'a str>,
    postcode: Option<&'a str>,
    latitude: Option<Degrees>,
    longitude: Option<Degrees>,
    timezone: Option<&'a str>,
    autonomous_system_number: Option<Count>,
    autonomous_system_organization: Option<&'a str>,
    isp: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Place<'a> {
    iso_code: Option<&'a str>,
    #[serde(borrow)]
    names: Names<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Names<'a> {
    en: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Postal<'a> {
    code: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Location<'a> {
    latitude: Option<Degrees>,
    longitude: Option<Degrees>,
    time_zone: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Network<'a> {
    autonomous_system_number: Option<Count>,
    autonomous_system_organization: Option<&'a str>,
    isp: Option<&'a str>,
}

/// A number of any of the format's types: what is short is written in a short one.
#[derive(Clone, Copy, Debug)]
struct Degrees(f64);

/// The same without a fraction.
#[derive(Clone, Copy, Debug)]
struct Count(u64);

/// A name as text, or a map with `names`.
#[derive(Debug, Default)]
struct Named<'a>(Option<&'a str>);

/// The first of a list of places.
#[derive(Debug, Default)]
struct First<'a>(Option<Place<'a>>);

impl Record<'_> {
    /// What it says, without who says it.
    pub fn answer(self) -> Answer {
        // Where nobody knows where an address is, its owner's country is the best guess.
        let country = if self.country.iso_code.is_some() { self.country } else { self.registered_country };
        let text = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        Answer {
            ip: None,
            country: text(country.names.en),
            country_code: text(country.iso_code.or(self.country_code)),
            region: text(self.subdivisions.0.and_then(|place| place.names.en).or(self.state1)),
            city: text(self.city.0),
            postal_code: text(self.postal.code.or(self.postcode)),
            latitude: self.location.latitude.or(self.latitude).map(|degrees| degrees.0),
            longitude: self.location.longitude.or(self.longitude).map(|degrees| degrees.0),
            timezone: text(self.location.time_zone.or(self.timezone)),
            asn: self.traits.autonomous_system_number.or(self.autonomous_system_number).map(|count| count.0),
            isp: text(
                self.traits
                    .isp
                    .or(self.isp)
                    .or(self.traits.autonomous_system_organization)
                    .or(self.autonomous_system_organization),
            ),
            provider: None,
        }
    }
}

struct NamedVisitor;

impl<'de> Visitor<'de> for NamedVisitor {
    type Value = Named<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<Named<'de>, E> {
        Ok(Named(Some(text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Named<'de>, A::Error> {
        let mut found = Named::default();
        while let Some(key) = entries.next_key::<&str>()? {
            match key {
                "names" => found = Named(entries.next_value::<Names<'de>>()?.en),
                _ => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Named<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NamedVisitor)
    }
}

struct FirstVisitor;

impl<'de> Visitor<'de> for FirstVisitor {
    type Value = First<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of places")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<First<'de>, A::Error> {
        let first = items.next_element()?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(First(first))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for First<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FirstVisitor)
    }
}

struct DegreesVisitor;

impl Visitor<'_> for DegreesVisitor {
    type Value = Degrees;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    /// Also for single precision, whose shortest text is the number that was meant.
    fn visit_f32<E: serde::de::Error>(self, number: f32) -> Result<Degrees, E> {
        Ok(Degrees(number.to_string().parse().unwrap_or(f64::from(number))))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<Degrees, E> {
        Ok(Degrees(number))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Degrees, E> {
        Ok(Degrees(number as f64))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Degrees, E> {
        Ok(Degrees(number as f64))
    }
}

impl<'de> Deserialize<'de> for Degrees {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DegreesVisitor)
    }
}

struct CountVisitor;

impl Visitor<'_> for CountVisitor {
    type Value = Count;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<Count, E> {
        Ok(Count(number.unsigned_abs()))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Count, E> {
        Ok(Count(number))
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CountVisitor)
    }
}
