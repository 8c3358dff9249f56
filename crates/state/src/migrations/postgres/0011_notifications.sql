-- Who wants to be told of the end of a run, and how far that is.
CREATE TABLE notifications (
    run_id TEXT NOT NULL PRIMARY KEY REFERENCES runs (id) ON DELETE CASCADE,
    url TEXT NOT NULL,
    -- `waiting` for the end of the run; `pending`, `sent` or `failed` since.
    status TEXT NOT NULL,
    attempts BIGINT NOT NULL DEFAULT 0,
    -- When the run ended; with the run it is the identity of the message.
    since BIGINT,
    -- When the next attempt is due. Whoever makes it puts this off first, so that nobody else does.
    next_at BIGINT,
    error TEXT
);
CREATE INDEX notifications_due ON notifications (next_at) WHERE status = 'pending';
