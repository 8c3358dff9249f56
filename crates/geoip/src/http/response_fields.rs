//! Reads a geo record from the JSON of a service. Services write numbers in several ways.

use serde_json::Value;

use crate::GeoRecord;

/// Reads the record; `pointers` locate each field.
pub fn record_from_json(body: &Value, pointers: &[(String, String)]) -> GeoRecord {
    let mut answer = GeoRecord::default();
    for (field, pointer) in pointers {
        let Some(value) = body.pointer(pointer) else { continue };
        match field.as_str() {
            "country" => answer.country = text_value(value),
            "country_code" => answer.country_code = text_value(value).map(|code| code.to_ascii_uppercase()),
            "region" => answer.region = text_value(value),
            "city" => answer.city = text_value(value),
            "postal_code" => answer.postal_code = text_value(value),
            "latitude" => answer.latitude = parse_degrees(value, 0, 90.0),
            "longitude" => answer.longitude = parse_degrees(value, 1, 180.0),
            "timezone" => answer.timezone = text_value(value),
            "asn" => answer.asn = parse_asn(value),
            "isp" => {
                answer.isp = text_value(value).map(|name| strip_asn(&name).to_owned()).filter(|name| !name.is_empty());
            }
            _ => {}
        }
    }
    answer
}

fn text_value(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Number(number) => number.to_string(),
        _ => return None,
    };
    Some(text).filter(|text| !text.is_empty())
}

/// A number, a number as text, or the part at `place` of a pair such as `37.4,-122.1`.
fn parse_degrees(value: &Value, place: usize, most: f64) -> Option<f64> {
    let number = match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => {
            let mut parts = text.split(',');
            let part = if text.contains(',') { parts.nth(place) } else { parts.next() };
            part.and_then(|part| part.trim().parse().ok())
        }
        _ => None,
    };
    number.filter(|number: &f64| number.abs() <= most)
}

/// A number, or a number after `AS`, as in `AS15169 Google LLC`.
fn parse_asn(value: &Value) -> Option<u64> {
    if let Some(number) = value.as_u64() {
        return Some(number);
    }
    let text = value.as_str()?.trim();
    let first = text.split_whitespace().next()?;
    first.strip_prefix("AS").unwrap_or(first).parse().ok()
}

fn strip_asn(text: &str) -> &str {
    match text.split_once(' ') {
        Some((first, rest)) if parse_asn(&Value::from(first)).is_some() && first.starts_with("AS") => rest.trim(),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{GeoHttpConfig, GeoPreset};

    /// The bodies are from the documentation of the services.
    #[test]
    fn presets_read_the_documented_responses() {
        let read = |preset, body: Value| {
            let config = GeoHttpConfig { preset: Some(preset), ..GeoHttpConfig::default() }.with_preset();
            let fields: Vec<_> = config.fields.into_iter().collect();
            record_from_json(&body, &fields)
        };
        let google = GeoRecord {
            country_code: Some("US".into()),
            region: Some("California".into()),
            city: Some("Mountain View".into()),
            postal_code: Some("94043".into()),
            latitude: Some(37.4),
            longitude: Some(-122.1),
            timezone: Some("America/Los_Angeles".into()),
            asn: Some(15169),
            isp: Some("Google LLC".into()),
            ..GeoRecord::default()
        };
        let with_country = GeoRecord { country: Some("United States".into()), ..google.clone() };
        let ip_api = json!({ "status": "success", "country": "United States", "countryCode": "US", "regionName": "California",
            "city": "Mountain View", "zip": "94043", "lat": 37.4, "lon": -122.1, "timezone": "America/Los_Angeles",
            "isp": "Google LLC", "as": "AS15169 Google LLC" });
        assert_eq!(read(GeoPreset::IpApi, ip_api), with_country);
        let ipinfo = json!({ "ip": "8.8.8.8", "city": "Mountain View", "region": "California", "country": "US",
            "loc": "37.4,-122.1", "org": "AS15169 Google LLC", "postal": "94043", "timezone": "America/Los_Angeles" });
        assert_eq!(read(GeoPreset::Ipinfo, ipinfo), google);
        let ipapi = json!({ "ip": "8.8.8.8", "city": "Mountain View", "region": "California", "country_code": "US",
            "country_name": "United States", "postal": "94043", "latitude": 37.4, "longitude": -122.1,
            "timezone": "America/Los_Angeles", "asn": "AS15169", "org": "Google LLC" });
        assert_eq!(read(GeoPreset::Ipapi, ipapi), with_country);
    }

    #[test]
    fn implausible_values_are_left_out() {
        assert_eq!((parse_degrees(&json!("x"), 0, 90.0), parse_degrees(&json!(91), 0, 90.0)), (None, None));
        assert_eq!(
            (parse_degrees(&json!("12.5"), 1, 180.0), parse_degrees(&json!("1,2"), 1, 180.0)),
            (Some(12.5), Some(2.0))
        );
        assert_eq!(
            (parse_asn(&json!("AS")), parse_asn(&json!("65000")), parse_asn(&json!(7))),
            (None, Some(65000), Some(7))
        );
        assert_eq!(
            (text_value(&json!(" ")), text_value(&json!({})), text_value(&json!(75001))),
            (None, None, Some("75001".into()))
        );
        assert_eq!(strip_asn("AS1 "), "");
        assert_eq!(strip_asn("ASSOCIATION of x"), "ASSOCIATION of x");
    }
}
