//! The addresses that receive no mails: lists, adds and removes them.

use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::ApiState;
use super::auth::Caller;
use super::extract::{self, PathId, StrictQuery};
use super::problem::Problem;
use super::runs::page_limit;
use super::scopes::{ApiKeyScope, missing_scope};
use crate::codes;
use afterload_core::clock;
use afterload_core::error::{Error, Result};
use afterload_mailer::{MailAddress, is_list_name};
use afterload_state::{SuppressionFilter, SuppressionReason, SuppressionRecord};

const MAX_NOTE_CHARS: usize = 500;
const BODY_EXAMPLE: &str = "{\"address\": \"ada@example.com\", \"list\": \"news\"}";
const LIST_HINT: &str = "`*` for every mail, or small letters, digits, `.`, `_` and `-`, at most 63";

/// An address that receives no mails of a list.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Suppression")]
pub(super) struct SuppressionView {
    /// The id.
    id: String,
    /// The address in lower case.
    address: String,
    /// The list; `*` covers every mail.
    list: String,
    /// The reason.
    reason: SuppressionReason,
    /// What the mail server or the provider reported, or the note of whoever added it.
    note: Option<String>,
    /// The run whose mail carried the link.
    run_id: Option<String>,
    /// RFC 3339, UTC.
    created_at: String,
}

impl From<SuppressionRecord> for SuppressionView {
    fn from(record: SuppressionRecord) -> Self {
        let SuppressionRecord { id, list, address, reason, detail, run_id, created_at } = record;
        Self { id, address, list, reason, note: detail, run_id, created_at: clock::format_rfc3339(created_at) }
    }
}

/// A page of suppressions, newest first.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct SuppressionPage {
    suppressions: Vec<SuppressionView>,
    next_cursor: Option<String>,
}

/// The query of a list of suppressions.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct SuppressionQuery {
    /// Only those of this address.
    address: Option<String>,
    /// Only those of this list.
    #[schemars(regex(pattern = r"^(\*|[a-z0-9][a-z0-9._-]{0,62})$"))]
    list: Option<String>,
    /// `next_cursor` of the previous page.
    #[schemars(regex(pattern = r"^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$"))]
    cursor: Option<String>,
    /// The page size; default 50.
    #[schemars(with = "Option<u32>", range(min = 1, max = 200))]
    limit: Option<String>,
}

/// An address to suppress.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct NewSuppression {
    /// The address.
    address: String,
    /// The list; default `*`, every mail.
    list: Option<String>,
    /// The reason, for those that come from another system; default `manual`.
    reason: Option<SuppressionReason>,
    /// A note.
    #[schemars(length(max = MAX_NOTE_CHARS))]
    note: Option<String>,
}

/// `GET /v1/mail/suppressions`
pub(super) async fn list_suppressions(
    State(app): State<ApiState>,
    caller: Caller,
    StrictQuery(query): StrictQuery<SuppressionQuery>,
) -> Result<Json<SuppressionPage>, Problem> {
    if !caller.can_read_suppressions() {
        return Err(missing_scope(&ApiKeyScope::SuppressionsRead).into());
    }
    let mut filter = query.into_filter()?;
    let limit = filter.limit as usize;
    // One more than requested shows whether there is a next page.
    filter.limit += 1;
    let mut found = app.db().mail_suppressions().list(&filter).await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next_cursor = found.last().filter(|_| more).map(|record| record.id.clone());
    let suppressions = found.into_iter().map(SuppressionView::from).collect();
    Ok(Json(SuppressionPage { suppressions, next_cursor }))
}

impl SuppressionQuery {
    fn into_filter(self) -> Result<SuppressionFilter> {
        let invalid = |message: String, hint: &str| Error::new(codes::QUERY_INVALID, message).with_hint(hint);
        if let Some(list) = self.list.as_deref().filter(|list| !is_list_or_all(list)) {
            return Err(invalid(format!("`{list}` is not a name for a list"), LIST_HINT));
        }
        let before = self.cursor.as_deref().map(|text| {
            let id = Ulid::from_string(text).map(|id| id.to_string());
            id.map_err(|_| invalid(format!("`{text}` is not a cursor"), "take `next_cursor` from the page before"))
        });
        // What is no address matches nothing.
        let address = self.address.map(|text| match parse_address(&text) {
            Ok(address) => address.mailbox_key(),
            Err(_) => text,
        });
        let (before_id, limit) = (before.transpose()?, page_limit(self.limit.as_deref())?);
        Ok(SuppressionFilter { address, list: self.list, before_id, limit })
    }
}

/// Reads any address that a mail or a report may name, also one that needs SMTPUTF8.
fn parse_address(text: &str) -> Result<MailAddress> {
    MailAddress::parse_any_recipient(text, true)
}

fn is_list_or_all(list: &str) -> bool {
    list == SuppressionRecord::EVERY_LIST || is_list_name(list)
}

/// `POST /v1/mail/suppressions`. An address that is suppressed already stays as it is.
pub(super) async fn add_suppression(
    State(app): State<ApiState>,
    caller: Caller,
    body: Body,
) -> Result<(StatusCode, Json<SuppressionView>), Problem> {
    if !caller.can_write_suppressions() {
        return Err(missing_scope(&ApiKeyScope::SuppressionsWrite).into());
    }
    let given: Option<NewSuppression> = extract::read_json_body(body, app.config().max_body, BODY_EXAMPLE).await?;
    let invalid = |message: String| Error::new(codes::SUPPRESSION_INVALID, message);
    let given = given.ok_or_else(|| invalid(format!("expected an object such as `{BODY_EXAMPLE}`")))?;
    let address = parse_address(&given.address).map_err(|error| invalid(error.message().to_owned()))?;
    let list = given.list.unwrap_or_else(|| SuppressionRecord::EVERY_LIST.to_owned());
    if !is_list_or_all(&list) {
        return Err(invalid(format!("`{list}` is not a name for a list")).with_hint(LIST_HINT).into());
    }
    if given.note.as_ref().is_some_and(|note| note.chars().count() > MAX_NOTE_CHARS) {
        return Err(invalid(format!("the note has more than {MAX_NOTE_CHARS} characters")).into());
    }
    let record = SuppressionRecord {
        id: Ulid::generate().to_string(),
        list,
        address: address.mailbox_key(),
        reason: given.reason.unwrap_or(SuppressionReason::Manual),
        detail: given.note,
        run_id: None,
        created_at: app.db().now(),
    };
    let store = app.db().mail_suppressions();
    loop {
        if store.insert(std::slice::from_ref(&record)).await? > 0 {
            tracing::info!(
                suppression.id = record.id,
                list = record.list,
                key.id = caller.key_id(),
                "an address was suppressed"
            );
            return Ok((StatusCode::CREATED, Json(record.into())));
        }
        // Another call may remove it between the two statements. Then it is added.
        if let Some(known) = store.find(&record.list, &record.address).await? {
            return Ok((StatusCode::OK, Json(known.into())));
        }
    }
}

/// `DELETE /v1/mail/suppressions/{id}`. The address receives mails again.
pub(super) async fn remove_suppression(
    State(app): State<ApiState>,
    caller: Caller,
    PathId(id): PathId,
) -> Result<Json<SuppressionView>, Problem> {
    if !caller.can_write_suppressions() {
        return Err(missing_scope(&ApiKeyScope::SuppressionsWrite).into());
    }
    let removed = match Ulid::from_string(&id) {
        Ok(_) => app.db().mail_suppressions().delete(&id).await?,
        Err(_) => None,
    };
    let none = || Problem::new(codes::SUPPRESSION_NOT_FOUND, format!("there is no suppression `{id}`"));
    let removed = removed.ok_or_else(none)?;
    tracing::info!(
        suppression.id = removed.id,
        list = removed.list,
        key.id = caller.key_id(),
        "an address is no longer suppressed"
    );
    Ok(Json(removed.into()))
}
