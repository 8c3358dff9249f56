-- A step with `for_each` has a row of its own for each item.
ALTER TABLE step_runs ADD COLUMN parent TEXT;
ALTER TABLE step_runs ADD COLUMN item_index BIGINT;
ALTER TABLE step_runs ADD COLUMN item TEXT;
-- In the row of the step itself: how many items it has, how many have ended, and how many of those failed.
ALTER TABLE step_runs ADD COLUMN items BIGINT;
ALTER TABLE step_runs ADD COLUMN items_ended BIGINT NOT NULL DEFAULT 0;
ALTER TABLE step_runs ADD COLUMN items_failed BIGINT NOT NULL DEFAULT 0;
CREATE UNIQUE INDEX step_runs_items ON step_runs (parent, item_index) WHERE parent IS NOT NULL;
CREATE INDEX step_runs_items_open ON step_runs (parent, status, item_index)
    WHERE parent IS NOT NULL AND status IN ('waiting', 'queued', 'running', 'retrying', 'sleeping');
