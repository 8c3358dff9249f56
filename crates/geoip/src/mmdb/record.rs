//! A record of a file; only the fields in use are decoded. `city` is a map in one schema and text in the other.

use std::fmt;

use serde::de::{IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};

use crate::GeoRecord;

/// Both schemas at once; no name has two meanings.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct MmdbRecord<'a> {
    // Fields of MaxMind's schema.
    #[serde(borrow)]
    country: MmdbPlace<'a>,
    #[serde(borrow)]
    registered_country: MmdbPlace<'a>,
    #[serde(borrow)]
    subdivisions: FirstMmdbPlace<'a>,
    #[serde(borrow)]
    postal: MmdbPostal<'a>,
    #[serde(borrow)]
    location: MmdbLocation<'a>,
    #[serde(borrow)]
    traits: MmdbTraits<'a>,
    // Fields of both schemas.
    #[serde(borrow)]
    city: MmdbName<'a>,
    // Fields of ip-location-db's schema and of MaxMind's network files.
    country_code: Option<&'a str>,
    state1: Option<&'a str>,
    postcode: Option<&'a str>,
    latitude: Option<MmdbNumber>,
    longitude: Option<MmdbNumber>,
    timezone: Option<&'a str>,
    autonomous_system_number: Option<MmdbWholeNumber>,
    autonomous_system_organization: Option<&'a str>,
    isp: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MmdbPlace<'a> {
    iso_code: Option<&'a str>,
    #[serde(borrow)]
    names: MmdbNames<'a>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MmdbNames<'a> {
    en: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MmdbPostal<'a> {
    code: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MmdbLocation<'a> {
    latitude: Option<MmdbNumber>,
    longitude: Option<MmdbNumber>,
    time_zone: Option<&'a str>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct MmdbTraits<'a> {
    autonomous_system_number: Option<MmdbWholeNumber>,
    autonomous_system_organization: Option<&'a str>,
    isp: Option<&'a str>,
}

/// A number of any type. The format stores small numbers in smaller types.
#[derive(Clone, Copy, Debug)]
struct MmdbNumber(f64);

/// A whole number of any type.
#[derive(Clone, Copy, Debug)]
struct MmdbWholeNumber(u64);

/// A name as text, or a map with `names`.
#[derive(Debug, Default)]
struct MmdbName<'a>(Option<&'a str>);

/// The first place of a list.
#[derive(Debug, Default)]
struct FirstMmdbPlace<'a>(Option<MmdbPlace<'a>>);

impl MmdbRecord<'_> {
    /// Converts the record, without the provider.
    pub fn into_geo_record(self) -> GeoRecord {
        // If the location is unknown, the country of the network's owner is the best guess.
        let country = if self.country.iso_code.is_some() { self.country } else { self.registered_country };
        let text = |text: Option<&str>| text.map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        GeoRecord {
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

struct MmdbNameVisitor;

impl<'de> Visitor<'de> for MmdbNameVisitor {
    type Value = MmdbName<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E: serde::de::Error>(self, text: &'de str) -> Result<MmdbName<'de>, E> {
        Ok(MmdbName(Some(text)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<MmdbName<'de>, A::Error> {
        let mut found = MmdbName::default();
        while let Some(key) = entries.next_key::<&str>()? {
            match key {
                "names" => found = MmdbName(entries.next_value::<MmdbNames<'de>>()?.en),
                _ => drop(entries.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for MmdbName<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MmdbNameVisitor)
    }
}

struct FirstMmdbPlaceVisitor;

impl<'de> Visitor<'de> for FirstMmdbPlaceVisitor {
    type Value = FirstMmdbPlace<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of places")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<FirstMmdbPlace<'de>, A::Error> {
        let first = items.next_element()?;
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(FirstMmdbPlace(first))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for FirstMmdbPlace<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(FirstMmdbPlaceVisitor)
    }
}

struct MmdbNumberVisitor;

impl Visitor<'_> for MmdbNumberVisitor {
    type Value = MmdbNumber;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a number")
    }

    /// The shortest text of a single-precision number is the number that was meant, such as 37.4.
    fn visit_f32<E: serde::de::Error>(self, number: f32) -> Result<MmdbNumber, E> {
        Ok(MmdbNumber(number.to_string().parse().unwrap_or(f64::from(number))))
    }

    fn visit_f64<E: serde::de::Error>(self, number: f64) -> Result<MmdbNumber, E> {
        Ok(MmdbNumber(number))
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<MmdbNumber, E> {
        Ok(MmdbNumber(number as f64))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<MmdbNumber, E> {
        Ok(MmdbNumber(number as f64))
    }
}

impl<'de> Deserialize<'de> for MmdbNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MmdbNumberVisitor)
    }
}

struct MmdbWholeNumberVisitor;

impl Visitor<'_> for MmdbWholeNumberVisitor {
    type Value = MmdbWholeNumber;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a whole number")
    }

    fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<MmdbWholeNumber, E> {
        Ok(MmdbWholeNumber(number.unsigned_abs()))
    }

    fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<MmdbWholeNumber, E> {
        Ok(MmdbWholeNumber(number))
    }
}

impl<'de> Deserialize<'de> for MmdbWholeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(MmdbWholeNumberVisitor)
    }
}
