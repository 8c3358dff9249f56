-- The tables that the pipelines of this repository read and write, for SQLite and PostgreSQL alike.
CREATE TABLE IF NOT EXISTS contacts (
    email   VARCHAR(254) PRIMARY KEY,
    name    VARCHAR(200) NOT NULL,
    company TEXT,
    country CHAR(2),
    joined  DATE
);

CREATE TABLE IF NOT EXISTS airports (
    icao         CHAR(4) PRIMARY KEY,
    iata         CHAR(3),
    name         VARCHAR(200) NOT NULL,
    country      CHAR(2) NOT NULL,
    continent    CHAR(2) NOT NULL,
    latitude     NUMERIC(9, 6) NOT NULL,
    longitude    NUMERIC(9, 6) NOT NULL,
    elevation_ft INTEGER,
    runway_ft    INTEGER,
    kind         TEXT,
    scheduled    BOOLEAN,
    timezone     TEXT,
    website      TEXT,
    wikipedia    TEXT
);

CREATE TABLE IF NOT EXISTS accounts (
    id    BIGINT PRIMARY KEY,
    email VARCHAR(254) NOT NULL
);

CREATE TABLE IF NOT EXISTS account_events (
    id         BIGINT PRIMARY KEY,
    account_id BIGINT NOT NULL,
    kind       TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS account_events_of_account ON account_events (account_id);

CREATE TABLE IF NOT EXISTS orders (
    id             BIGINT PRIMARY KEY,
    customer_email VARCHAR(254) NOT NULL,
    status         TEXT NOT NULL DEFAULT 'open'
);

CREATE TABLE IF NOT EXISTS users (
    id     BIGINT PRIMARY KEY,
    -- In small letters.
    handle VARCHAR(100) NOT NULL UNIQUE,
    email  VARCHAR(254)
);

CREATE TABLE IF NOT EXISTS tweets (
    id        BIGINT PRIMARY KEY,
    author_id BIGINT NOT NULL,
    body      TEXT NOT NULL
);

CREATE TABLE IF NOT EXISTS follows (
    author_id   BIGINT NOT NULL,
    follower_id BIGINT NOT NULL,
    PRIMARY KEY (author_id, follower_id)
);

CREATE TABLE IF NOT EXISTS timelines (
    user_id   BIGINT NOT NULL,
    tweet_id  BIGINT NOT NULL,
    author_id BIGINT NOT NULL,
    reason    TEXT NOT NULL,
    PRIMARY KEY (user_id, tweet_id)
);

CREATE TABLE IF NOT EXISTS sign_ins (
    id      BIGINT PRIMARY KEY,
    user_id BIGINT NOT NULL,
    ip      TEXT NOT NULL,
    country TEXT,
    city    TEXT
);

CREATE TABLE IF NOT EXISTS sales (
    id       BIGINT PRIMARY KEY,
    day      DATE NOT NULL,
    country  CHAR(2) NOT NULL,
    product  TEXT NOT NULL,
    quantity INTEGER NOT NULL,
    amount   NUMERIC(12, 2) NOT NULL
);
