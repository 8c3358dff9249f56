//! The location of an IP address, the same for every provider.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The value of a field.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum GeoField<'a> {
    /// A name or a code.
    Text(&'a str),
    /// Degrees.
    Degrees(f64),
    /// An AS number.
    Number(u64),
}

/// The location of an address. Unknown fields are null.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GeoRecord {
    /// The address in its canonical form.
    pub ip: Option<String>,
    /// The name of the country, in English.
    pub country: Option<String>,
    /// The two-letter code of the country.
    pub country_code: Option<String>,
    /// The region, such as a state or a county.
    pub region: Option<String>,
    /// The city.
    pub city: Option<String>,
    /// The postal code.
    pub postal_code: Option<String>,
    /// The latitude in degrees.
    pub latitude: Option<f64>,
    /// The longitude in degrees.
    pub longitude: Option<f64>,
    /// The time zone, such as `Europe/Paris`.
    pub timezone: Option<String>,
    /// The number of the network (AS number).
    pub asn: Option<u64>,
    /// The operator of the network.
    pub isp: Option<String>,
    /// The provider that knew the address, such as `mmdb:city`; `local` for addresses without a public location; null if
    /// none knew it.
    pub provider: Option<String>,
}

impl GeoRecord {
    /// The names of the fields.
    pub const FIELD_NAMES: [&str; 12] = [
        "ip",
        "country",
        "country_code",
        "region",
        "city",
        "postal_code",
        "latitude",
        "longitude",
        "timezone",
        "asn",
        "isp",
        "provider",
    ];

    /// The value of the field `name`, if it is set.
    pub fn get_field(&self, name: &str) -> Option<GeoField<'_>> {
        let text = match name {
            "ip" => &self.ip,
            "country" => &self.country,
            "country_code" => &self.country_code,
            "region" => &self.region,
            "city" => &self.city,
            "postal_code" => &self.postal_code,
            "latitude" => return self.latitude.map(GeoField::Degrees),
            "longitude" => return self.longitude.map(GeoField::Degrees),
            "timezone" => &self.timezone,
            "asn" => return self.asn.map(GeoField::Number),
            "isp" => &self.isp,
            "provider" => &self.provider,
            _ => return None,
        };
        text.as_deref().map(GeoField::Text)
    }

    /// True if any field about the place or the network is set.
    pub fn has_data(&self) -> bool {
        let nothing = Self { ip: self.ip.clone(), provider: self.provider.clone(), ..Self::default() };
        *self != nothing
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_field_has_a_name() {
        let value = serde_json::to_value(GeoRecord::default()).unwrap();
        let names: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(names, GeoRecord::FIELD_NAMES);
        let mut full = serde_json::Map::new();
        for (place, name) in names.iter().enumerate() {
            let value = match *name {
                "latitude" | "longitude" => Value::from(place as f64 + 0.5),
                "asn" => Value::from(place),
                name => Value::from(name),
            };
            full.insert((*name).to_owned(), value);
        }
        let answer: GeoRecord = serde_json::from_value(Value::Object(full.clone())).unwrap();
        for (name, value) in &full {
            let told = match answer.get_field(name).unwrap() {
                GeoField::Text(text) => text.into(),
                GeoField::Degrees(degrees) => degrees.into(),
                GeoField::Number(number) => Value::from(number),
            };
            assert_eq!(&told, value, "{name}");
        }
        assert!(!GeoRecord { provider: Some("x".into()), ..GeoRecord::default() }.has_data());
        assert!(GeoRecord { asn: Some(1), ..GeoRecord::default() }.has_data());
    }
}
