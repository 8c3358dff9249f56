//! What pages of other origins may do: use presigned addresses, which carry their own right, and read public buckets.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HeaderValue, ORIGIN, VARY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Method, Request, StatusCode};
use s3s::{Body, HttpResponse};

/// What a page may read of an answer.
const CORS_EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("ETag, Content-Range, Accept-Ranges, Content-Disposition");
const CORS_ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, PUT");
const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");
const PREFLIGHT_MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("3600");

/// What is known of a request before it is answered.
#[derive(Clone, Copy)]
pub(super) struct CorsRequest {
    cross_origin: bool,
    unsigned: bool,
}

impl CorsRequest {
    pub(super) fn from_request<B>(request: &Request<B>) -> Self {
        let headers = request.headers();
        Self { cross_origin: headers.contains_key(ORIGIN), unsigned: !headers.contains_key(AUTHORIZATION) }
    }

    /// Answers a browser that asks whether a page may send what it wants to. The right itself is in the address, so any
    /// page may try; a page that knows a key has to sign on its server.
    pub(super) fn preflight_response<B>(self, request: &Request<B>) -> Option<HttpResponse> {
        let asks = request.method() == Method::OPTIONS && request.headers().contains_key(ACCESS_CONTROL_REQUEST_METHOD);
        if !asks || !self.cross_origin {
            return None;
        }
        let wanted = request.headers().get(ACCESS_CONTROL_REQUEST_HEADERS).and_then(|value| value.to_str().ok());
        let allowed: Vec<&str> = wanted
            .unwrap_or_default()
            .split(',')
            .map(str::trim)
            .filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("authorization"))
            .collect();
        let mut response = HttpResponse::new(Body::empty());
        *response.status_mut() = StatusCode::NO_CONTENT;
        let headers = response.headers_mut();
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, CORS_ALLOWED_METHODS);
        headers.insert(ACCESS_CONTROL_MAX_AGE, PREFLIGHT_MAX_AGE_SECONDS);
        headers.insert(VARY, HeaderValue::from_static("Access-Control-Request-Headers"));
        if let Ok(allowed) = HeaderValue::from_str(&allowed.join(", ")) {
            headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        }
        Some(response)
    }

    /// Lets the page read the answer, and keeps browsers from guessing at what others have uploaded.
    pub(super) fn add_headers(self, response: &mut HttpResponse) {
        if !self.unsigned {
            return;
        }
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if self.cross_origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, CORS_EXPOSED_HEADERS);
        }
    }
}
