-- One text for SQLite and PostgreSQL. Times are milliseconds since 1970 (UTC), booleans are 0 and 1, JSON is text.
-- Ids are ULIDs, which sort by time.

CREATE TABLE definitions (
    digest TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- The live definition of each name. Removing one never touches its runs.
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
    -- The event that started the run, as its expressions see it.
    event TEXT,
    -- How many runs came before it in its chain: each wrote or sent what started the next one.
    hops BIGINT NOT NULL DEFAULT 0,
    error TEXT,
    -- The code of that error, to filter and to count.
    error_code TEXT,
    -- Rises with every change of the run or its steps.
    revision BIGINT NOT NULL,
    created_at BIGINT NOT NULL,
    -- The requested start; null: at once.
    run_at BIGINT,
    started_at BIGINT,
    finished_at BIGINT,
    cancel_requested_at BIGINT,
    -- Until when the first step must have started, and until when the run must have ended; null: no limit.
    queue_deadline_at BIGINT,
    deadline_at BIGINT,
    -- The next of these two that is still to be checked; null: none.
    deadline_check_at BIGINT,
    -- When one of them passed before the run had its outcome.
    timed_out_at BIGINT,
    -- Runs with the same key share one limit: the digest of pipeline and key; null without `concurrency`.
    concurrency_key TEXT,
    -- How many of these runs may be active, as the definition of this run states.
    concurrency_limit BIGINT,
    -- 1: the run cancels earlier runs of its key.
    supersedes BIGINT NOT NULL DEFAULT 0,
    -- The order of arrival; null: the run is not due yet.
    queue_position BIGINT,
    -- Since when the run waits for a slot; null: it is active, or has no `concurrency`.
    waiting_since BIGINT,
    -- The pipeline's own retention; null: as configured.
    retention_runs_ms BIGINT,
    retention_artifacts_ms BIGINT,
    -- Set when the run has given up its files.
    artifacts_released_at BIGINT
);
CREATE INDEX runs_by_pipeline ON runs (pipeline, id);
CREATE INDEX runs_by_status ON runs (status, id);
-- These two serve the dashboard: what ended in the last day, and the runs with an error code.
CREATE INDEX runs_by_end ON runs (finished_at, pipeline, status, error_code) WHERE finished_at IS NOT NULL;
CREATE INDEX runs_by_error_code ON runs (error_code, id) WHERE error_code IS NOT NULL;
CREATE INDEX runs_to_cancel ON runs (id) WHERE cancel_requested_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX runs_timed_out ON runs (id) WHERE timed_out_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX runs_by_deadline ON runs (deadline_check_at, id)
    WHERE deadline_check_at IS NOT NULL AND finished_at IS NULL;
CREATE INDEX runs_by_queue_position ON runs (concurrency_key, queue_position)
    WHERE concurrency_key IS NOT NULL AND finished_at IS NULL;
CREATE INDEX runs_active ON runs (concurrency_key)
    WHERE concurrency_key IS NOT NULL AND finished_at IS NULL AND waiting_since IS NULL;
CREATE INDEX runs_waiting ON runs (concurrency_key, queue_position)
    WHERE waiting_since IS NOT NULL AND finished_at IS NULL;
CREATE INDEX runs_to_release ON runs (finished_at)
    WHERE finished_at IS NOT NULL AND artifacts_released_at IS NULL AND retention_artifacts_ms IS NULL;
CREATE INDEX runs_to_release_by_override ON runs ((finished_at + retention_artifacts_ms))
    WHERE finished_at IS NOT NULL AND artifacts_released_at IS NULL AND retention_artifacts_ms IS NOT NULL;
CREATE INDEX runs_to_delete ON runs (finished_at)
    WHERE finished_at IS NOT NULL AND artifacts_released_at IS NOT NULL AND retention_runs_ms IS NULL;
CREATE INDEX runs_to_delete_by_override ON runs ((finished_at + retention_runs_ms))
    WHERE finished_at IS NOT NULL AND artifacts_released_at IS NOT NULL AND retention_runs_ms IS NOT NULL;

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
    -- Rises with every claim. An attempt writes under the number of its own claim.
    claims BIGINT NOT NULL DEFAULT 0,
    failures BIGINT NOT NULL DEFAULT 0,
    crashes BIGINT NOT NULL DEFAULT 0,
    -- Rises when a succeeded step runs again with its run: its effects and files are then new ones.
    round BIGINT NOT NULL DEFAULT 0,
    -- Rises with every committed progress. A crash after progress is the first of a new count.
    progress_seq BIGINT NOT NULL DEFAULT 0,
    progress_seq_at_claim BIGINT NOT NULL DEFAULT 0,
    progress TEXT,
    outputs TEXT,
    error TEXT,
    -- When a retry is due.
    due_at BIGINT,
    started_at BIGINT,
    finished_at BIGINT,
    -- A suspended step waits without a worker: until a time, or until an event.
    suspended_until BIGINT,
    wake_event_name TEXT,
    -- The fields of the event that count, and the digest of the values they must have.
    wake_event_fields TEXT,
    wake_event_digest TEXT,
    -- The event that resumed the step.
    wake_event TEXT,
    -- How often the step was suspended. Above 0, an attempt resumes.
    suspend_count BIGINT NOT NULL DEFAULT 0,
    -- The start that the step has reserved under its `rate_limit` and not used yet.
    reserved_start_at BIGINT,
    -- How many reserved starts it has used. Before the first one it was claimed, but never started.
    rate_limited_starts BIGINT NOT NULL DEFAULT 0,
    -- Each item of a step with `for_each` has a row of its own, whose parent is the row of the step.
    parent TEXT,
    item_index BIGINT,
    item TEXT,
    -- In the row of the step: the number of items, how many have ended, and how many of those failed.
    items BIGINT,
    items_ended BIGINT NOT NULL DEFAULT 0,
    items_failed BIGINT NOT NULL DEFAULT 0,
    UNIQUE (run_id, step_id)
);
-- These two match the queries over all runs only. Without `|| ''` PostgreSQL would prefer them to the primary key for a
-- single step or run, because it counted them while they were empty.
CREATE INDEX step_runs_to_enqueue ON step_runs (due_at) WHERE (status || '') IN ('queued', 'retrying', 'suspended');
CREATE INDEX step_runs_open ON step_runs (queue)
    WHERE (status || '') IN ('waiting', 'queued', 'running', 'retrying', 'suspended');
CREATE INDEX step_runs_suspended ON step_runs (wake_event_name, wake_event_fields, wake_event_digest)
    WHERE status = 'suspended' AND wake_event_name IS NOT NULL;
CREATE UNIQUE INDEX step_runs_items ON step_runs (parent, item_index) WHERE parent IS NOT NULL;
CREATE INDEX step_runs_items_open ON step_runs (parent, status, item_index)
    WHERE parent IS NOT NULL AND status IN ('waiting', 'queued', 'running', 'retrying', 'suspended');

CREATE TABLE artifacts (
    id TEXT NOT NULL PRIMARY KEY,
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    -- The step that made the file; null for an upload.
    step_id TEXT,
    file TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    -- Set when nothing refers to the file any more. From then on it is gone for every reader.
    expired_at BIGINT,
    -- Set when its object has been deleted, too.
    purged_at BIGINT
);
CREATE INDEX artifacts_by_run ON artifacts (run_id, id);
CREATE INDEX artifacts_to_purge ON artifacts (expired_at) WHERE expired_at IS NOT NULL AND purged_at IS NULL;

-- What still needs a file: `run:ID` until the run gives up its files, and `link:ID` until the link ends.
CREATE TABLE artifact_refs (
    artifact_id TEXT NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    holder TEXT NOT NULL,
    until BIGINT,
    PRIMARY KEY (artifact_id, holder)
);
CREATE INDEX artifact_refs_by_holder ON artifact_refs (holder);
CREATE INDEX artifact_refs_by_until ON artifact_refs (until) WHERE until IS NOT NULL;

-- Links to files in mails. The token is not stored: it is signed, and contains the id.
CREATE TABLE download_links (
    id TEXT NOT NULL PRIMARY KEY,
    artifact_id TEXT NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    -- The run and step that made the link.
    run_id TEXT NOT NULL,
    step_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    downloads BIGINT NOT NULL DEFAULT 0,
    last_download_at BIGINT
);
CREATE INDEX download_links_by_artifact ON download_links (artifact_id, created_at);

-- Effects that must not knowingly be repeated. The state is `started` or `done`.
CREATE TABLE effect_log (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step_id TEXT NOT NULL,
    effect TEXT NOT NULL,
    state TEXT NOT NULL,
    detail TEXT,
    updated_at BIGINT NOT NULL,
    PRIMARY KEY (run_id, step_id, effect)
);

-- Messages that a step has sent: one row for each recipient, once the outcome is known.
CREATE TABLE delivery_log (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step_id TEXT NOT NULL,
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- The code of the error that prevents the delivery.
    failure TEXT,
    ended_at BIGINT NOT NULL,
    PRIMARY KEY (run_id, step_id, person)
);

-- Each key starts at most one run. Rows outlive their runs, so there is no foreign key.
CREATE TABLE dedup_keys (
    pipeline TEXT NOT NULL,
    -- The namespace of the key, such as `s3`.
    source TEXT NOT NULL,
    key TEXT NOT NULL,
    -- A digest of the request, where another request under the same key is an error.
    fingerprint TEXT,
    run_id TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (pipeline, source, key)
);
CREATE INDEX dedup_keys_by_age ON dedup_keys (source, received_at);

-- Prefixes of buckets that are listed again and again.
CREATE TABLE poll_claims (
    id TEXT NOT NULL PRIMARY KEY,
    -- When the trigger was first seen. Older objects start nothing.
    since BIGINT NOT NULL,
    -- When the last complete scan began.
    last_scan_at BIGINT,
    -- The process that scans now, and the end of its lease.
    holder TEXT,
    lease_until BIGINT NOT NULL DEFAULT 0
);

-- Announced uploads: files that a client may send straight to the store. The id becomes the run's.
CREATE TABLE uploads (
    id TEXT NOT NULL PRIMARY KEY,
    pipeline TEXT NOT NULL,
    -- The param that takes the file, and all other params.
    param TEXT NOT NULL,
    params TEXT NOT NULL,
    file TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX uploads_by_age ON uploads (expires_at);

-- Events that the application published, kept for steps that start to wait a little later.
CREATE TABLE events (
    id TEXT NOT NULL PRIMARY KEY,
    name TEXT NOT NULL,
    -- The sender's own id. The same event is published once.
    key TEXT,
    body TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    UNIQUE (name, key)
);
CREATE INDEX events_by_name ON events (name, received_at);

-- Events that wait for their run: their trigger has `debounce` or `batch`. The id becomes that of the run.
CREATE TABLE event_batches (
    id TEXT NOT NULL PRIMARY KEY,
    pipeline TEXT NOT NULL,
    -- Identifies the trigger within its pipeline: a digest of what it matches.
    trigger_key TEXT NOT NULL,
    -- The origin of the run, such as `s3`.
    source TEXT NOT NULL,
    -- The `with` of the trigger when the last event came. It counts if the pipeline no longer has the trigger.
    trigger_params TEXT NOT NULL,
    opened_at BIGINT NOT NULL,
    -- When the run is due. After a failed start: when the next one is tried.
    due_at BIGINT NOT NULL,
    -- When the batch stopped taking events; null: it is open.
    closed_at BIGINT,
    -- The longest chain of runs before one of its events.
    hops BIGINT NOT NULL,
    -- How many events it has, and the length of their JSON.
    items BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);
CREATE UNIQUE INDEX event_batches_open ON event_batches (pipeline, trigger_key) WHERE closed_at IS NULL;
CREATE INDEX event_batches_due ON event_batches (due_at);

CREATE TABLE event_batch_items (
    batch_id TEXT NOT NULL REFERENCES event_batches (id) ON DELETE CASCADE,
    position BIGINT NOT NULL,
    -- With the seals of its files.
    event TEXT NOT NULL,
    PRIMARY KEY (batch_id, position)
);

-- The time up to which the ticks of a schedule have had their runs.
CREATE TABLE schedules (
    id TEXT NOT NULL PRIMARY KEY,
    cursor BIGINT NOT NULL
);

-- Paused queues and pipelines, by name. Rows outlive their pipelines: one that comes back is still paused.
CREATE TABLE pauses (
    -- `queue` or `pipeline`
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    paused_at BIGINT NOT NULL,
    PRIMARY KEY (kind, name)
);

-- When steps with a `rate_limit` may start, by the digest of their key.
CREATE TABLE rate_limits (
    key TEXT NOT NULL PRIMARY KEY,
    -- The first start that nobody has reserved.
    next_at BIGINT NOT NULL,
    -- When the last step started.
    last_at BIGINT NOT NULL
);
CREATE INDEX rate_limits_by_age ON rate_limits (next_at);

-- Notifications of the end of a run.
CREATE TABLE notifications (
    run_id TEXT NOT NULL PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    url TEXT NOT NULL,
    -- `waiting` until the run ends; then `pending`, `sent` or `failed`.
    status TEXT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    -- When the run ended. Together with the run it identifies the message.
    since BIGINT,
    -- When the next attempt is due. A process moves it forward before it sends, so that no other process sends too.
    next_at BIGINT,
    error TEXT
);
CREATE INDEX notifications_due ON notifications (next_at) WHERE status = 'pending';

-- Records of geolocation services. A record of null means that the service does not know the address.
CREATE TABLE geo_cache (
    provider TEXT NOT NULL,
    ip TEXT NOT NULL,
    record TEXT,
    fetched_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (provider, ip)
);
CREATE INDEX geo_cache_by_expiry ON geo_cache (expires_at);

-- Addresses that receive no mails of a list. Rows stay until somebody removes them.
CREATE TABLE mail_suppressions (
    id TEXT NOT NULL PRIMARY KEY,
    -- `*` covers every mail.
    list TEXT NOT NULL,
    address TEXT NOT NULL,
    -- `unsubscribed`, `bounced`, `complained` or `manual`
    reason TEXT NOT NULL,
    detail TEXT,
    -- The run whose mail carried the link.
    run_id TEXT,
    created_at BIGINT NOT NULL,
    UNIQUE (address, list)
);
CREATE INDEX mail_suppressions_by_list ON mail_suppressions (list, id);

-- Links by which recipients unsubscribe, one for each list, address and signing key. They never expire, so rows outlive their
-- runs.
CREATE TABLE unsubscribe_links (
    id TEXT NOT NULL PRIMARY KEY,
    list TEXT NOT NULL,
    address TEXT NOT NULL,
    -- The run that sent the last mail with the link.
    run_id TEXT NOT NULL,
    updated_at BIGINT NOT NULL
);
-- Sign-ins to the dashboard.
CREATE TABLE dashboard_sessions (
    -- SHA-256 of the code or of the session's token.
    hash TEXT NOT NULL PRIMARY KEY,
    -- `code`, which is exchanged once, or `session`
    kind TEXT NOT NULL,
    scopes TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX dashboard_sessions_by_expiry ON dashboard_sessions (expires_at);

CREATE TABLE api_keys (
    id TEXT NOT NULL PRIMARY KEY,
    hash TEXT NOT NULL UNIQUE,
    name TEXT NOT NULL,
    scopes TEXT NOT NULL,
    buckets TEXT NOT NULL,
    created_at BIGINT NOT NULL
);
