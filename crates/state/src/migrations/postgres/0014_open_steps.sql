-- Only those who look for open steps of all runs find them by these: to who knows a step or its run, PostgreSQL would take them for
-- shorter than the primary key, having counted them while they were empty. So their conditions are ones that nobody else states.
DROP INDEX step_runs_to_push;
CREATE INDEX step_runs_to_push ON step_runs (due_at) WHERE (status || '') IN ('queued', 'retrying', 'sleeping');
DROP INDEX step_runs_open;
CREATE INDEX step_runs_open ON step_runs (queue)
    WHERE (status || '') IN ('waiting', 'queued', 'running', 'retrying', 'sleeping');
