-- What services on the web have said of addresses; an answer of null is that they do not know.
CREATE TABLE geo_cache (
    provider TEXT NOT NULL,
    ip TEXT NOT NULL,
    answer TEXT,
    looked_at BIGINT NOT NULL,
    expires_at BIGINT NOT NULL,
    PRIMARY KEY (provider, ip)
);
CREATE INDEX geo_cache_by_end ON geo_cache (expires_at);
