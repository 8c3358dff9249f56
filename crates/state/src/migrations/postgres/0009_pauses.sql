-- What nobody works on for now, by name. Rows outlive their pipelines: one that comes back is still paused.
CREATE TABLE pauses (
    -- `queue` or `pipeline`
    kind TEXT NOT NULL,
    name TEXT NOT NULL,
    paused_at BIGINT NOT NULL,
    PRIMARY KEY (kind, name)
);
