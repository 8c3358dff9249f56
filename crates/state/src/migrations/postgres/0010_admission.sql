-- Runs that count together, for `concurrency`: the digest of pipeline and key; null without it.
ALTER TABLE runs ADD COLUMN concurrency_key TEXT;
-- How many of them may be under way, as the definition of this run says.
ALTER TABLE runs ADD COLUMN concurrency_limit BIGINT;
-- 1: those before it have to make room.
ALTER TABLE runs ADD COLUMN supersedes BIGINT NOT NULL DEFAULT 0;
-- Who came first; null: its time has not come yet.
ALTER TABLE runs ADD COLUMN turn BIGINT;
-- Since when it waits for room; null: under way, or without `concurrency`.
ALTER TABLE runs ADD COLUMN held_at BIGINT;
CREATE INDEX runs_by_turn ON runs (concurrency_key, turn) WHERE concurrency_key IS NOT NULL AND finished_at IS NULL;
CREATE INDEX runs_under_way ON runs (concurrency_key)
    WHERE concurrency_key IS NOT NULL AND finished_at IS NULL AND held_at IS NULL;
CREATE INDEX runs_held ON runs (concurrency_key, turn) WHERE held_at IS NOT NULL AND finished_at IS NULL;

-- When steps with a `rate_limit` may start, by the digest of their key.
CREATE TABLE rate_limits (
    key TEXT NOT NULL PRIMARY KEY,
    -- The first moment that nobody has taken.
    next_at BIGINT NOT NULL,
    -- When the last one started.
    last_at BIGINT NOT NULL
);
CREATE INDEX rate_limits_by_age ON rate_limits (next_at);

-- The moment that a step has taken and not used yet.
ALTER TABLE step_runs ADD COLUMN slot_at BIGINT;
-- How often it has started in one. Before the first it has only been looked at, not started.
ALTER TABLE step_runs ADD COLUMN slots BIGINT NOT NULL DEFAULT 0;
