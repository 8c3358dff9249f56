//! Which requests may change something: those of our own pages, by the headers that browsers set and pages cannot.

use std::net::IpAddr;

use axum::http::header::{HOST, ORIGIN};
use axum::http::{HeaderMap, HeaderName};

use crate::codes;
use afterload_core::error::{Error, Result};

/// Refuses a write that no page of this dashboard has sent.
///
/// The host must be that of `public_url`, or this machine. So a name of another site that leads here (DNS rebinding) is
/// refused, too.
///
/// # Errors
/// `origin_refused`; `dashboard_needs_https` over plain HTTP from another machine.
pub(crate) fn check_write(headers: &HeaderMap, base_url: &str) -> Result<()> {
    let refused = |what: &str| Error::new(codes::ORIGIN_REFUSED, what);
    let host = header_text(headers, HOST).ok_or_else(|| refused("the request names no host"))?;
    let origin = header_text(headers, ORIGIN).ok_or_else(|| refused("the request names no origin"))?;
    let (own_scheme, own_host) = split_origin(base_url);
    let is_here = is_loopback(&host);
    let host_is_own = host == own_host || host == without_default_port(own_scheme, &own_host);
    if !is_here && !host_is_own {
        return Err(plain_http_error(&origin).unwrap_or_else(|| refused("the request names another host")));
    }
    let own_origin = format!("{own_scheme}://{}", without_default_port(own_scheme, &own_host));
    let is_own = origin == own_origin || (is_here && origin == format!("http://{host}"));
    if !is_own {
        return Err(refused("the request comes from a page of another site"));
    }
    plain_http_error(&origin).map_or(Ok(()), Err)
}

/// True if a browser at this address can sign in.
pub(crate) fn can_sign_in(headers: &HeaderMap, base_url: &str) -> bool {
    base_url.starts_with("https://") || header_text(headers, HOST).is_some_and(|host| is_loopback(&host))
}

fn plain_http_error(origin: &str) -> Option<Error> {
    let (scheme, host) = split_origin(origin);
    let is_plain = scheme == "http" && !is_loopback(&host);
    is_plain.then(|| {
        Error::new(
            codes::DASHBOARD_NEEDS_HTTPS,
            "everybody between this browser and the service could read the session, so nobody signs in over plain HTTP",
        )
    })
}

fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::to_ascii_lowercase),
        _ => None,
    }
}

/// The scheme and the host of a URL, in lower case.
fn split_origin(url: &str) -> (&str, String) {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    (scheme, rest.split('/').next().unwrap_or_default().to_ascii_lowercase())
}

/// Browsers leave out the port that the scheme implies.
fn without_default_port(scheme: &str, host: &str) -> String {
    let port = if scheme == "https" { ":443" } else { ":80" };
    host.strip_suffix(port).unwrap_or(host).to_owned()
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.split(':').next().unwrap_or_default(),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn code(host: &str, origin: Option<&str>, base_url: &str) -> Option<&'static str> {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_str(host).unwrap());
        if let Some(origin) = origin {
            headers.insert(ORIGIN, HeaderValue::from_str(origin).unwrap());
        }
        check_write(&headers, base_url).err().map(|error| error.code().name())
    }

    #[test]
    fn only_pages_of_this_service_may_write() {
        let local = "http://127.0.0.1:8080";
        let public = "https://files.example.org";
        for (host, origin, base_url) in [
            ("127.0.0.1:8080", "http://127.0.0.1:8080", local),
            ("localhost:9000", "http://localhost:9000", local),
            ("[::1]:8080", "http://[::1]:8080", local),
            ("files.example.org", "https://files.example.org", public),
            ("Files.Example.org", "https://files.example.org", "https://files.example.org:443"),
            // A proxy that passes on its own address.
            ("127.0.0.1:8080", "https://files.example.org", public),
        ] {
            assert_eq!(code(host, Some(origin), base_url), None, "{host} {origin}");
        }
        for (host, origin, base_url) in [
            ("127.0.0.1:8080", Some("http://evil.example"), local),
            ("127.0.0.1:8080", Some("http://127.0.0.1:9999"), local),
            ("127.0.0.1:8080", Some("null"), local),
            ("127.0.0.1:8080", None, local),
            ("localhost.evil.example", Some("https://localhost.evil.example"), local),
            ("evil.example", Some("https://evil.example"), public),
            ("files.example.org", Some("http://127.0.0.1:8080"), public),
            ("files.example.org", Some("https://files.example.org.evil.example"), public),
        ] {
            assert_eq!(code(host, origin, base_url), Some("origin_refused"), "{host} {origin:?}");
        }
    }

    #[test]
    fn nobody_signs_in_over_plain_http_from_another_machine() {
        let base_url = "http://files.example.org";
        assert_eq!(code("files.example.org", Some(base_url), base_url), Some("dashboard_needs_https"));
        let local = "http://127.0.0.1:8080";
        assert_eq!(code("10.0.0.5:8080", Some("http://10.0.0.5:8080"), local), Some("dashboard_needs_https"));
        let mut headers = HeaderMap::new();
        headers.insert(HOST, HeaderValue::from_static("10.0.0.5:8080"));
        assert!(!can_sign_in(&headers, local) && can_sign_in(&headers, "https://files.example.org"));
        headers.insert(HOST, HeaderValue::from_static("localhost:8080"));
        assert!(can_sign_in(&headers, local));
    }
}
