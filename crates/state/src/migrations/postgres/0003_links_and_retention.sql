-- Links to files in mails. The token is not stored: it is signed, and holds the id.
CREATE TABLE links (
    id TEXT NOT NULL PRIMARY KEY,
    artifact_id TEXT NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    -- Who made it.
    run_id TEXT NOT NULL,
    step_id TEXT NOT NULL,
    created_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    revoked_at BIGINT,
    downloads BIGINT NOT NULL DEFAULT 0,
    last_download_at BIGINT
);
CREATE INDEX links_by_artifact ON links (artifact_id, created_at);

-- Who still needs a file: `run:ID`, until that run lets go of its files, and `link:ID`, until the link ends.
CREATE TABLE artifact_refs (
    artifact_id TEXT NOT NULL REFERENCES artifacts (id) ON DELETE CASCADE,
    holder TEXT NOT NULL,
    until BIGINT,
    PRIMARY KEY (artifact_id, holder)
);
CREATE INDEX artifact_refs_by_holder ON artifact_refs (holder);
CREATE INDEX artifact_refs_by_end ON artifact_refs (until) WHERE until IS NOT NULL;
INSERT INTO artifact_refs (artifact_id, holder) SELECT id, 'run:' || run_id FROM artifacts;

-- Set when nobody needs the file any more; from then on it is gone for everybody.
ALTER TABLE artifacts ADD COLUMN expired_at BIGINT;
-- Set when its object has been deleted, too.
ALTER TABLE artifacts ADD COLUMN purged_at BIGINT;
CREATE INDEX artifacts_to_purge ON artifacts (expired_at) WHERE expired_at IS NOT NULL AND purged_at IS NULL;

-- What the pipeline says of how long its runs and their files are kept; null: as the configuration says.
ALTER TABLE runs ADD COLUMN keep_run_ms BIGINT;
ALTER TABLE runs ADD COLUMN keep_files_ms BIGINT;
-- Set when the run has let go of its files.
ALTER TABLE runs ADD COLUMN released_at BIGINT;
CREATE INDEX runs_to_release ON runs (finished_at)
    WHERE finished_at IS NOT NULL AND released_at IS NULL AND keep_files_ms IS NULL;
CREATE INDEX runs_to_release_as_said ON runs ((finished_at + keep_files_ms))
    WHERE finished_at IS NOT NULL AND released_at IS NULL AND keep_files_ms IS NOT NULL;
CREATE INDEX runs_to_delete ON runs (finished_at)
    WHERE finished_at IS NOT NULL AND released_at IS NOT NULL AND keep_run_ms IS NULL;
CREATE INDEX runs_to_delete_as_said ON runs ((finished_at + keep_run_ms))
    WHERE finished_at IS NOT NULL AND released_at IS NOT NULL AND keep_run_ms IS NOT NULL;
