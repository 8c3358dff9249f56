//! The items of a step with `for_each`.

use axum::Json;
use axum::extract::State;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::ApiState;
use super::auth::Caller;
use super::extract::{PathIds, StrictQuery};
use super::problem::Problem;
use super::runs::{page_limit, require_run_read};
use crate::codes;
use afterload_core::error::{Error, Result};
use afterload_engine::ItemView;
use afterload_state::StepStatus;

/// A page of items, in order.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub(super) struct ItemPage {
    items: Vec<ItemView>,
    next_cursor: Option<String>,
}

/// The query of a page of items.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ItemPageQuery {
    /// Only items with this status.
    #[schemars(with = "Option<StepStatus>")]
    status: Option<String>,
    /// `next_cursor` of the previous page.
    #[schemars(with = "Option<u32>", range(max = u32::MAX))]
    cursor: Option<String>,
    /// The page size, from 1 to 200; default 50.
    #[schemars(with = "Option<u32>", range(min = 1, max = 200))]
    limit: Option<String>,
}

/// `GET /v1/runs/{id}/steps/{step}/items`
pub(super) async fn list_items(
    State(app): State<ApiState>,
    caller: Caller,
    PathIds([run, step]): PathIds<2>,
    StrictQuery(query): StrictQuery<ItemPageQuery>,
) -> Result<Json<ItemPage>, Problem> {
    require_run_read(&app, &caller, &run).await?;
    let invalid = |what: String, hint: &str| Error::new(codes::QUERY_INVALID, what).with_hint(hint);
    let status = query.status.as_deref().map(|text| {
        let hint = "expected one of `waiting`, `queued`, `running`, `retrying`, `succeeded`, `failed`, `cancelled`";
        StepStatus::from_name(text).ok_or_else(|| invalid(format!("`{text}` is not the status of an item"), hint))
    });
    let after = query.cursor.as_deref().map(|text| {
        let known = text.parse::<u32>().map(i64::from);
        known.map_err(|_| invalid(format!("`{text}` is not a cursor"), "take `next_cursor` from the page before"))
    });
    let (status, after) = (status.transpose()?, after.transpose()?.unwrap_or(-1));
    let limit = page_limit(query.limit.as_deref())?;
    let steps = app.db().steps().list(&run).await?;
    let step = steps
        .into_iter()
        .find(|known| known.step_id == step)
        .ok_or_else(|| Error::new(codes::STEP_NOT_FOUND, "the run has no such step"))?;
    // One more item than requested shows whether there is a next page.
    let mut items = app.db().items().list_after(&step.id, status, after, limit + 1).await?;
    let more = items.len() > limit as usize;
    items.truncate(limit as usize);
    let last = items.last().filter(|_| more).and_then(|item| item.item_index);
    Ok(Json(ItemPage {
        items: items.into_iter().map(ItemView::from).collect(),
        next_cursor: last.map(|index| index.to_string()),
    }))
}
