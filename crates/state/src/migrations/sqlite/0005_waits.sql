-- A step may sleep without a worker: until a time, or until an event.
ALTER TABLE step_runs ADD COLUMN sleep_until BIGINT;
ALTER TABLE step_runs ADD COLUMN sleep_event TEXT;
-- Which fields of the event count, and the digest of what they must be.
ALTER TABLE step_runs ADD COLUMN sleep_fields TEXT;
ALTER TABLE step_runs ADD COLUMN sleep_match TEXT;
-- The event that woke it.
ALTER TABLE step_runs ADD COLUMN woken TEXT;
-- How often it has slept; a step that wakes knows by this that it has.
ALTER TABLE step_runs ADD COLUMN sleeps BIGINT NOT NULL DEFAULT 0;
CREATE INDEX step_runs_asleep ON step_runs (sleep_event, sleep_fields, sleep_match)
    WHERE status = 'sleeping' AND sleep_event IS NOT NULL;

DROP INDEX step_runs_to_push;
CREATE INDEX step_runs_to_push ON step_runs (due_at) WHERE status IN ('queued', 'retrying', 'sleeping');
DROP INDEX step_runs_open;
CREATE INDEX step_runs_open ON step_runs (queue)
    WHERE status IN ('waiting', 'queued', 'running', 'retrying', 'sleeping');

-- What the application told of, for the steps that begin to wait for it a little later.
CREATE TABLE events (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    -- The sender's own id of it; the same event is told of once.
    key TEXT,
    body TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    UNIQUE (name, key)
);
CREATE INDEX events_by_name ON events (name, received_at);

-- Up to which time the moments of a schedule have had their runs.
CREATE TABLE schedules (
    id TEXT NOT NULL PRIMARY KEY,
    reached BIGINT NOT NULL
);
