//! CORS: pages of other origins may use presigned URLs and read public buckets.

use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, AUTHORIZATION, HeaderValue, ORIGIN, VARY,
};
use hyper::{Method, Request, StatusCode};
use s3s::{Body, HttpResponse};

/// The response headers that a page may read.
const CORS_EXPOSED_HEADERS: HeaderValue =
    HeaderValue::from_static("ETag, Content-Range, Accept-Ranges, Content-Disposition");
const CORS_ALLOWED_METHODS: HeaderValue = HeaderValue::from_static("GET, HEAD, PUT");
const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");
const PREFLIGHT_MAX_AGE_SECONDS: HeaderValue = HeaderValue::from_static("3600");

/// The parts of a request that decide about its CORS headers.
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

    /// Responds to a CORS preflight request. Any origin may send requests, because a presigned URL carries its
    /// permission. The `Authorization` header is not allowed, because a page must not hold the key pair.
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

    /// Lets the page read the response.
    pub(super) fn add_headers(self, response: &mut HttpResponse) {
        if self.unsigned && self.cross_origin {
            let headers = response.headers_mut();
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, ANY_ORIGIN);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, CORS_EXPOSED_HEADERS);
        }
    }
}
