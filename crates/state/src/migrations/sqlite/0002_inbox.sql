-- What has started a run starts no second one. Rows outlive their runs, so they do not refer to them.
CREATE TABLE inbox (
    pipeline TEXT NOT NULL,
    -- Who counts the keys, such as `s3`.
    source TEXT NOT NULL,
    key TEXT NOT NULL,
    -- What came with the key, for those that must tell another request under the same key.
    fingerprint TEXT,
    run_id TEXT NOT NULL,
    received_at BIGINT NOT NULL,
    PRIMARY KEY (pipeline, source, key)
);
CREATE INDEX inbox_by_age ON inbox (source, received_at);

-- What started the run, as its expressions see it.
ALTER TABLE runs ADD COLUMN event TEXT;

-- Prefixes of buckets that are looked at again and again.
CREATE TABLE polls (
    id TEXT NOT NULL PRIMARY KEY,
    -- When the trigger was first seen: what is older starts nothing.
    since BIGINT NOT NULL,
    -- When the last complete look began.
    passed_at BIGINT,
    -- Who looks now, and until when nobody else does.
    holder TEXT,
    held_until BIGINT NOT NULL DEFAULT 0
);

-- Files that somebody may send straight to the store. The id becomes the run's.
CREATE TABLE uploads (
    id TEXT NOT NULL PRIMARY KEY,
    pipeline TEXT NOT NULL,
    -- The param that the file is for, and all others.
    param TEXT NOT NULL,
    params TEXT NOT NULL,
    file TEXT NOT NULL,
    expires_at BIGINT NOT NULL
);
CREATE INDEX uploads_by_age ON uploads (expires_at);
