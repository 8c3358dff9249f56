//! The session of a request. Without one, the browser goes to the sign-in.

use axum::extract::FromRequestParts;
use axum::http::Method;
use axum::http::request::Parts;
use axum::http::uri::PathAndQuery;
use axum::response::Response;
use url::form_urlencoded;

use crate::codes;
use crate::cookies;
use crate::dashboard::Dashboard;
use crate::response::{Refusal, error_page, see_other};
use crate::viewer::Viewer;
use afterload_server::api::Caller;

/// The holder of a session that has not ended.
pub(crate) struct SignedIn(pub Viewer);

impl FromRequestParts<Dashboard> for SignedIn {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, dashboard: &Dashboard) -> Result<Self, Refusal> {
        let Some(token) = cookies::session_token(&parts.headers, dashboard.base_url()) else {
            return Err(sign_in_first(parts).into());
        };
        let now = dashboard.now();
        let remembered = dashboard.sessions().get(token, now).filter(|_| parts.method == Method::GET);
        if let Some(caller) = remembered {
            return Ok(Self(Viewer { token: token.to_owned(), caller }));
        }
        match Caller::from_session(dashboard.api(), token).await {
            Ok(caller) => {
                dashboard.sessions().insert(token, caller.clone(), now);
                Ok(Self(Viewer { token: token.to_owned(), caller }))
            }
            Err(error) if error.code() == codes::KEY_INVALID => Err(sign_in_first(parts).into()),
            Err(error) => Err(error_page(None, error).into()),
        }
    }
}

/// Sends the browser to the sign-in, which leads back to the page.
fn sign_in_first(parts: &Parts) -> Response {
    let path = parts.uri.path_and_query().map_or("/ui/", PathAndQuery::as_str);
    let next = if parts.method == Method::GET { path } else { "/ui/" };
    let query: String = form_urlencoded::Serializer::new(String::new()).append_pair("next", next).finish();
    see_other(&format!("/ui/enter?{query}"))
}
