//! Access from the same process: requests go directly to the service, without a socket.

use std::fmt;
use std::time::Duration;

use aws_sdk_s3::primitives::SdkBody;
use aws_smithy_runtime_api::box_error::BoxError;
use aws_smithy_runtime_api::client::http::{
    HttpClient, HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use aws_smithy_runtime_api::client::orchestrator::{HttpRequest, HttpResponse};
use aws_smithy_runtime_api::client::result::ConnectorError;
use aws_smithy_runtime_api::client::runtime_components::RuntimeComponents;
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Uri};
use s3s::Body;
use s3s::service::S3Service;
use tokio::time::timeout;

use super::dispatch::call_service;

/// The endpoint of in-process requests, used for signing. No socket listens there.
pub(super) const IN_PROCESS_ENDPOINT: &str = "http://embedded";

/// The S3 service as an HTTP client of the SDK.
#[derive(Clone)]
pub(super) struct InProcessConnector {
    pub(super) service: S3Service,
    /// The time limit for a response.
    pub(super) read_timeout: Option<Duration>,
}

impl fmt::Debug for InProcessConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Within")
    }
}

impl HttpClient for InProcessConnector {
    fn http_connector(&self, settings: &HttpConnectorSettings, _: &RuntimeComponents) -> SharedHttpConnector {
        SharedHttpConnector::new(Self { read_timeout: settings.read_timeout(), ..self.clone() })
    }
}

impl HttpConnector for InProcessConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Self { service, read_timeout: patience } = self.clone();
        HttpConnectorFuture::new(async move {
            let request = to_server_request(request).map_err(ConnectorError::user)?;
            let (response, _) = match patience {
                Some(patience) => timeout(patience, call_service(&service, request))
                    .await
                    .map_err(|elapsed| ConnectorError::timeout(elapsed.into()))?,
                None => call_service(&service, request).await,
            };
            let response = response.map(SdkBody::from_body_1_x);
            HttpResponse::try_from(response).map_err(|error| ConnectorError::other(error.into(), None))
        })
    }
}

/// Converts a client request to the form in which a server receives it: host in a header, URI with path and query only.
fn to_server_request(request: HttpRequest) -> Result<Request<Body>, BoxError> {
    let (mut parts, body) = request.try_into_http1x()?.into_parts();
    if let Some(host) = parts.uri.authority() {
        parts.headers.insert(HOST, HeaderValue::try_from(host.as_str())?);
    }
    let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
    parts.uri = Uri::try_from(path)?;
    Ok(Request::from_parts(parts, Body::http_body_unsync(body)))
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use aws_sdk_s3::Client;
    use aws_sdk_s3::config::retry::RetryConfig;
    use aws_sdk_s3::config::timeout::TimeoutConfig;
    use aws_sdk_s3::config::{BehaviorVersion, Builder, Region, SharedHttpClient};
    use aws_sdk_s3::error::SdkError;
    use s3s::dto::{HeadBucketInput, HeadBucketOutput};
    use s3s::service::S3ServiceBuilder;
    use s3s::{S3, S3Request, S3Response, S3Result};

    use super::*;

    /// A store that never responds.
    struct Silent;

    #[async_trait]
    impl S3 for Silent {
        async fn head_bucket(&self, _: S3Request<HeadBucketInput>) -> S3Result<S3Response<HeadBucketOutput>> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn read_timeout_applies_in_process() {
        let service = S3ServiceBuilder::new(Silent).build();
        let config = Builder::new()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("us-east-1"))
            .allow_no_auth()
            .endpoint_url(IN_PROCESS_ENDPOINT)
            .force_path_style(true)
            .retry_config(RetryConfig::disabled())
            .timeout_config(TimeoutConfig::builder().read_timeout(Duration::from_millis(20)).build())
            .http_client(SharedHttpClient::new(InProcessConnector { service, read_timeout: None }));
        let answer = Client::from_conf(config.build()).head_bucket().bucket("bucket").send().await;
        match answer.unwrap_err() {
            SdkError::DispatchFailure(failure) => assert!(failure.is_timeout(), "{failure:?}"),
            other => panic!("no timeout: {other:?}"),
        }
    }
}
