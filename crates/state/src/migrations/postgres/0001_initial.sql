-- Times are milliseconds since 1970 (UTC), booleans 0 and 1, JSON is text. Ids are ULIDs: they sort by time.

CREATE TABLE definitions (
    digest TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- The live definition of each name; removing one never touches its runs.
CREATE TABLE pipelines (
    name TEXT NOT NULL PRIMARY KEY,
    digest TEXT NOT NULL REFERENCES definitions (digest),
    published_at BIGINT NOT NULL
);

CREATE TABLE runs (
    id TEXT NOT NULL PRIMARY KEY,
    pipeline TEXT NOT NULL,
    digest TEXT NOT NULL REFERENCES definitions (digest),
    status TEXT NOT NULL,
    origin TEXT NOT NULL,
    params TEXT NOT NULL,
    error TEXT,
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    started_at BIGINT,
    finished_at BIGINT
);
CREATE INDEX runs_by_pipeline ON runs (pipeline, id);
CREATE INDEX runs_by_status ON runs (status, id);

CREATE TABLE step_runs (
    id TEXT NOT NULL PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    section TEXT NOT NULL,
    position BIGINT NOT NULL,
    step_id TEXT NOT NULL,
    uses TEXT NOT NULL,
    queue TEXT NOT NULL,
    priority BIGINT NOT NULL,
    status TEXT NOT NULL,
    -- Rises with every claim; what an attempt writes it writes under its own claim.
    claims BIGINT NOT NULL DEFAULT 0,
    failures BIGINT NOT NULL DEFAULT 0,
    crashes BIGINT NOT NULL DEFAULT 0,
    -- Rises with every committed progress; a crash after progress is the first of a new count.
    moves BIGINT NOT NULL DEFAULT 0,
    moves_at_claim BIGINT NOT NULL DEFAULT 0,
    progress TEXT,
    outputs TEXT,
    error TEXT,
    -- When a retry is due.
    due_at BIGINT,
    started_at BIGINT,
    finished_at BIGINT,
    UNIQUE (run_id, step_id)
);
CREATE INDEX step_runs_to_push ON step_runs (due_at) WHERE status IN ('queued', 'retrying');
CREATE INDEX step_runs_open ON step_runs (queue) WHERE status IN ('waiting', 'queued', 'running', 'retrying');

CREATE TABLE artifacts (
    id TEXT NOT NULL PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    -- The step that made it; null for what was uploaded.
    step_id TEXT,
    file TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
CREATE INDEX artifacts_by_run ON artifacts (run_id, id);

-- What must not knowingly be repeated: state is `begun` or `done`.
CREATE TABLE effects (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step_id TEXT NOT NULL,
    effect TEXT NOT NULL,
    state TEXT NOT NULL,
    detail TEXT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (run_id, step_id, effect)
);

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    buckets TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
