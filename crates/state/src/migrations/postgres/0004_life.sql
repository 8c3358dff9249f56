-- A run may be asked for later, and asked to stop.
ALTER TABLE runs ADD COLUMN run_at BIGINT;
ALTER TABLE runs ADD COLUMN cancel_requested_at BIGINT;
CREATE INDEX runs_to_cancel ON runs (id) WHERE cancel_requested_at IS NOT NULL AND finished_at IS NULL;

-- Rises when a step that had succeeded runs anew with its run: its effects and files are then new ones.
ALTER TABLE step_runs ADD COLUMN round BIGINT NOT NULL DEFAULT 0;
