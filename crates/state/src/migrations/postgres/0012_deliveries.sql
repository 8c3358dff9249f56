-- Whom a step has told: one row for each of them, once it is known what became of the message.
CREATE TABLE deliveries (
    run_id TEXT NOT NULL REFERENCES runs (id) ON DELETE CASCADE,
    step_id TEXT NOT NULL,
    person TEXT NOT NULL,
    reason TEXT NOT NULL,
    -- The code of the error for which it cannot be delivered.
    failure TEXT,
    ended_at BIGINT NOT NULL,
    PRIMARY KEY (run_id, step_id, person)
);
