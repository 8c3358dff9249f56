//! `/u/TOKEN`: the link by which a recipient unsubscribes from a list. Looking at it changes nothing, because programs look
//! at links in mails too.

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use schemars::JsonSchema;
use ulid::Ulid;

use super::ApiState;
use super::extract::{self, PathId};
use super::links;
use super::plain_page::{FORM_PAGE_POLICY, plain_page};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_core::units::ByteSize;
use afterload_state::{SuppressionReason, SuppressionRecord, UnsubscribeLinkRecord};

/// The maximum size of the body, which says nothing that the link does not say.
const MAX_FORM_SIZE: ByteSize = ByteSize(16 << 10);
const MAX_UNBROKEN_CHARS: usize = 16;
const UNAVAILABLE_TITLE: &str = "This does not work at the moment";

/// What mail programs send (RFC 8058). Nothing depends on it.
#[derive(JsonSchema)]
#[expect(dead_code, reason = "only its schema is used")]
pub(super) struct OneClickForm {
    /// `One-Click`
    #[schemars(rename = "List-Unsubscribe")]
    list_unsubscribe: Option<String>,
}

/// `GET /u/{token}`: asks whether to unsubscribe.
pub(super) async fn show_unsubscribe_page(
    State(app): State<ApiState>,
    PathId(token): PathId,
    headers: HeaderMap,
) -> Response {
    let answer = async {
        let link = find_link(&app, &token).await?;
        let known = app.db().mail_suppressions().find(&link.list, &link.address).await?;
        Ok::<_, Error>(match known {
            Some(_) => done_page(&link),
            None => question_page(&link),
        })
    };
    answer.await.unwrap_or_else(|error| links::error_response(&error.into(), &headers, UNAVAILABLE_TITLE))
}

/// `POST /u/{token}`: unsubscribes. Mail programs send it for one click, and the page for its button.
pub(super) async fn unsubscribe(
    State(app): State<ApiState>,
    PathId(token): PathId,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let answer = async {
        let link = find_link(&app, &token).await?;
        extract::read_body(body, MAX_FORM_SIZE).await?;
        let record = SuppressionRecord {
            id: Ulid::generate().to_string(),
            list: link.list.clone(),
            address: link.address.clone(),
            reason: SuppressionReason::Unsubscribed,
            detail: None,
            run_id: Some(link.run_id.clone()),
            created_at: app.db().now(),
        };
        let added = app.db().mail_suppressions().insert(std::slice::from_ref(&record)).await?;
        if added > 0 {
            tracing::info!(
                suppression.id = record.id,
                list = record.list,
                run.id = link.run_id,
                "a recipient unsubscribed"
            );
        }
        Ok::<_, Error>(done_page(&link))
    };
    answer.await.unwrap_or_else(|error| links::error_response(&error.into(), &headers, UNAVAILABLE_TITLE))
}

async fn find_link(app: &ApiState, token: &str) -> Result<UnsubscribeLinkRecord> {
    let unknown = || {
        Error::new(codes::LINK_NOT_FOUND, "there is no such link")
            .with_hint("use the link as it came in the mail, whole")
    };
    let id = app.keyring().verify_unsubscribe_token(token).ok_or_else(unknown)?;
    app.db().mail_suppressions().find_link(&id.to_string()).await?.ok_or_else(unknown)
}

/// The page with the button. The form goes to the address of the page.
fn question_page(link: &UnsubscribeLinkRecord) -> Response {
    let content = format!(
        "<p>Do you want no more mails of the list “{}”?</p>\n<form method=\"post\">\n\
         <input type=\"hidden\" name=\"List-Unsubscribe\" value=\"One-Click\">\n\
         <button type=\"submit\">Unsubscribe</button>\n</form>",
        list_text(&link.list)
    );
    plain_page(StatusCode::OK, "Unsubscribe", &content, FORM_PAGE_POLICY)
}

fn done_page(link: &UnsubscribeLinkRecord) -> Response {
    let content = format!("<p>Your address gets no more mails of the list “{}”.</p>", list_text(&link.list));
    plain_page(StatusCode::OK, "You are unsubscribed", &content, FORM_PAGE_POLICY)
}

/// The name of a list as HTML, with nothing that could be markup: names are checked before a mail leaves. A long name may break,
/// so that it fits the screen of a phone.
fn list_text(list: &str) -> String {
    let plain: Vec<char> = list.chars().filter(|c| c.is_ascii_alphanumeric() || "._-".contains(*c)).collect();
    let pieces: Vec<String> = plain.chunks(MAX_UNBROKEN_CHARS).map(|piece| piece.iter().collect()).collect();
    pieces.join("<wbr>")
}

#[cfg(test)]
mod tests {
    use super::list_text;

    #[test]
    fn names_of_lists_hold_no_markup_and_may_break() {
        assert_eq!(list_text("weekly-news"), "weekly-news");
        assert_eq!(list_text("<b>&\"x"), "bx");
        assert_eq!(list_text(&"a".repeat(20)), format!("{}<wbr>{}", "a".repeat(16), "a".repeat(4)));
    }
}
