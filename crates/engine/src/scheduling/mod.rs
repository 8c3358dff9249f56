//! When a step may start: rate limits, suspensions, fan-out, pauses.

pub(crate) mod fan_out;
pub(crate) mod pauses;
pub(crate) mod queue_depth;
pub(crate) mod rate_limit;
pub(crate) mod suspend;
