//! The error codes of this crate.

#![allow(missing_docs, reason = "each code has its summary")]

pub(crate) use afterload_core::codes::{DEFINITION_INVALID, INTERNAL_ERROR, IO_ERROR, STEP_STOPPED};
use afterload_core::error::ErrorCode;
pub(crate) use afterload_egress::codes::{EGRESS_BLOCKED, HTTP_URL_INVALID};
#[cfg(test)]
pub(crate) use afterload_egress::codes::{HTTP_REFUSED, HTTP_SERVER_ERROR};
#[cfg(test)]
pub(crate) use afterload_pipeline::codes::EXPRESSION_FAILED;
pub(crate) use afterload_pipeline::codes::NOT_SUPPORTED_YET;
pub(crate) use afterload_state::codes::RUN_NOT_FOUND;
pub(crate) use afterload_step_api::codes::STEP_PANICKED;

pub const CONCURRENCY_KEY_INVALID: ErrorCode =
    ErrorCode::permanent("concurrency_key_invalid", "The `concurrency.key` of the run has no value").with_status(422);
pub const CONCURRENCY_SKIPPED: ErrorCode = ErrorCode::stopped(
    "concurrency_skipped",
    "The run was skipped because another run with its concurrency key is active",
)
.with_hint("`concurrency` of the pipeline says that a run too many is skipped; a retry waits until there is room");
pub const DEFINITION_MISMATCH: ErrorCode =
    ErrorCode::permanent("definition_mismatch", "The live definition does not fit the finished steps of the run")
        .with_status(409)
        .with_hint("its details list the steps; give them back their ids and kinds, retry without `definition=live`, or start a new run");
pub const DEFINITION_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("definition_not_found", "The stored definition of the run is missing");
pub const DELAY_INVALID: ErrorCode = ErrorCode::permanent("delay_invalid", "The delay of a step is not valid")
    .with_hint("give `delay` a value such as `30s`, `10m`, `2h`, `7d` or `1w`");
pub const HOPS_EXCEEDED: ErrorCode =
    ErrorCode::permanent("hops_exceeded", "Too many runs came before the run in its chain").with_status(422).with_hint(
        "let no pipeline write what starts the chain again; if the chain is meant to be this long, raise `limits.hops`",
    );
pub const ITEMS_INVALID: ErrorCode = ErrorCode::permanent("items_invalid", "The `items` of `for_each` are not a list");
pub const PIPELINE_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("pipeline_not_found", "There is no such pipeline").with_status(404);
pub const QUEUE_NOT_FOUND: ErrorCode = ErrorCode::permanent("queue_not_found", "There is no such queue")
    .with_status(404)
    .with_hint("`GET /v1/queues` lists those that the configuration, live pipelines and open steps name");
pub const QUEUE_TIMED_OUT: ErrorCode =
    ErrorCode::stopped("queue_timed_out", "No step of the run has started within its `queue_timeout`")
        .with_hint("give its queues more workers, or raise `queue_timeout`; a retry has a new deadline");
pub const QUEUE_UNKNOWN: ErrorCode =
    ErrorCode::permanent("queue_unknown", "No process works the queue that a run names").with_status(422);
pub const QUEUES_INVALID: ErrorCode = ErrorCode::permanent("queues_invalid", "The list of queues to work is not valid");
pub const RECORD_NOT_FOUND: ErrorCode =
    ErrorCode::permanent("record_not_found", "The record that a param names does not exist");
pub const RECORD_TIMEOUT: ErrorCode = ErrorCode::transient("record_timeout", "Reading a record took too long");
pub const RUN_CANCELLED: ErrorCode = ErrorCode::stopped("run_cancelled", "The run was cancelled");
pub const RUN_ENDED: ErrorCode = ErrorCode::permanent("run_ended", "The run has ended").with_status(409);
pub const RUN_FILES_EXPIRED: ErrorCode =
    ErrorCode::permanent("run_files_expired", "The files of the run are no longer kept")
        .with_status(409)
        .with_hint("start a new run; `retention.artifacts` says how long files are kept");
pub const RUN_NEVER_BEGAN: ErrorCode = ErrorCode::permanent("run_never_began", "The run has no step to go on from")
    .with_status(409)
    .with_hint("mend what its `error` names, and start a new run");
pub const RUN_NOT_ENDED: ErrorCode = ErrorCode::permanent("run_not_ended", "The run has not ended").with_status(409);
pub const RUN_SUCCEEDED: ErrorCode = ErrorCode::permanent("run_succeeded", "The run has succeeded")
    .with_status(409)
    .with_hint("start a new run to do the same again");
pub const RUN_TIMED_OUT: ErrorCode = ErrorCode::stopped("run_timed_out", "The run took longer than its `timeout`")
    .with_hint("raise `timeout`, which counts waits too; a retry has a new deadline");
pub const STEP_QUARANTINED: ErrorCode =
    ErrorCode::permanent("step_quarantined", "The step crashed its process too often")
        .with_hint("look at the logs of the processes that died; `limits.crashes` sets the number");
pub const STEP_TIMEOUT: ErrorCode =
    ErrorCode::transient("step_timeout", "The step took longer than its `timeout`").with_hint("raise `timeout`");
pub const STEP_WAITS: ErrorCode = ErrorCode::stopped("step_waits", "The step waits for its `rate_limit`");
pub const TOO_MANY_ITEMS: ErrorCode = ErrorCode::permanent("too_many_items", "The `items` of `for_each` are too many")
    .with_hint("what is larger is one step that works in chunks, such as `notify.fanout` or `sql.batch`");

/// All codes of this crate.
pub const CODES: &[ErrorCode] = &[
    CONCURRENCY_KEY_INVALID,
    CONCURRENCY_SKIPPED,
    DEFINITION_MISMATCH,
    DEFINITION_NOT_FOUND,
    DELAY_INVALID,
    HOPS_EXCEEDED,
    ITEMS_INVALID,
    PIPELINE_NOT_FOUND,
    QUEUE_NOT_FOUND,
    QUEUE_TIMED_OUT,
    QUEUE_UNKNOWN,
    QUEUES_INVALID,
    RECORD_NOT_FOUND,
    RECORD_TIMEOUT,
    RUN_CANCELLED,
    RUN_ENDED,
    RUN_FILES_EXPIRED,
    RUN_NEVER_BEGAN,
    RUN_NOT_ENDED,
    RUN_SUCCEEDED,
    RUN_TIMED_OUT,
    STEP_QUARANTINED,
    STEP_TIMEOUT,
    STEP_WAITS,
    TOO_MANY_ITEMS,
];
