//! Hands requests to s3s, admitted before and logged after.

use hyper::{Method, Request, StatusCode};
use s3s::service::S3Service;
use s3s::{Body, HttpResponse, S3Error};

use super::admission::{AuthMethod, admit_request};
use super::body_fault::BodyFaultCell;
use super::chunk_limit::limit_chunks;
use super::error_text;

/// Admits a request and calls the service, for requests from a socket or from this process. A request that is not
/// admitted counts as keyless.
pub(super) async fn call_service(service: &S3Service, request: Request<Body>) -> (HttpResponse, AuthMethod) {
    let (mut parts, body) = request.into_parts();
    let (method, path) = (parts.method.clone(), parts.uri.path().to_owned());
    let body_fault = BodyFaultCell::from_extensions(&parts.extensions);
    parts.extensions.insert(body_fault.clone());
    let (answered, auth) = match admit_request(&mut parts) {
        Err(refused) => (refused.to_http_response(), AuthMethod::Keyless),
        Ok(admitted) => {
            let auth = admitted.auth;
            parts.extensions.insert(admitted);
            let body = limit_chunks(&parts.headers, body, &body_fault);
            let answered = service.call(Request::from_parts(parts, body)).await;
            (answered.map_err(|error| S3Error::internal_error(UnwritableResponse(error.into()))), auth)
        }
    };
    let response = answered.unwrap_or_else(|error| {
        tracing::error!("the embedded object store could not write a response: {error}");
        let mut response = HttpResponse::new(Body::empty());
        *response.status_mut() = StatusCode::INTERNAL_SERVER_ERROR;
        response
    });
    log_refusal(&method, &path, &response, body_fault.get().is_some());
    (error_text::add_error_text(response), auth)
}

/// Logs one line for an error response. s3s logs each twice as an error, also those that callers cause, so its own log
/// is off.
fn log_refusal(method: &Method, path: &str, response: &HttpResponse, body_broken: bool) {
    let status = response.status();
    if !status.is_client_error() && !status.is_server_error() {
        return;
    }
    let text = response.body().bytes().unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let code = error_text::error_code(&text).unwrap_or_default();
    let refused = status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED || body_broken;
    if refused {
        tracing::debug!(%method, path, status = status.as_u16(), code, "the embedded object store refused a request");
    } else if status != StatusCode::SERVICE_UNAVAILABLE && !error_text::is_logged_fault(&text) {
        tracing::error!(%method, path, status = status.as_u16(), code, "the embedded object store failed");
    }
}

/// A response that could not be written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct UnwritableResponse(s3s::StdError);
