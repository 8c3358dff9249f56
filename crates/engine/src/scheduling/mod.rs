//! Decides when a step may start: concurrency slots, rate limits, suspensions, items and pauses.
//! It does not depend on `lifecycle`.

pub(crate) mod concurrency;
pub(crate) mod fan_out;
pub(crate) mod pauses;
pub(crate) mod queue_depth;
pub(crate) mod queues;
pub(crate) mod rate_limit;
pub(crate) mod suspend;
