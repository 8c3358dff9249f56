-- Keys are blobs: any bytes, in the order in which S3 lists them.

CREATE TABLE buckets (
  name       TEXT PRIMARY KEY,
  created_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- `id` is the owner of the bodies. `parts` is 0 for an object that was put in one request.
CREATE TABLE objects (
  bucket       TEXT NOT NULL REFERENCES buckets (name),
  key          BLOB NOT NULL,
  id           TEXT NOT NULL,
  etag         TEXT NOT NULL,
  size         INTEGER NOT NULL,
  parts        INTEGER NOT NULL,
  content_type TEXT NOT NULL,
  details      TEXT NOT NULL,
  modified_at  INTEGER NOT NULL,
  PRIMARY KEY (bucket, key)
) STRICT, WITHOUT ROWID;

-- An upload that is completed hands its id, and with it its parts, to the object.
CREATE TABLE uploads (
  bucket       TEXT NOT NULL REFERENCES buckets (name),
  key          BLOB NOT NULL,
  id           TEXT NOT NULL,
  content_type TEXT NOT NULL,
  details      TEXT NOT NULL,
  created_at   INTEGER NOT NULL,
  PRIMARY KEY (bucket, key, id)
) STRICT, WITHOUT ROWID;

-- The files of an object or an upload. `start` is the offset in the object, once there is one.
CREATE TABLE bodies (
  owner       TEXT NOT NULL,
  number      INTEGER NOT NULL,
  body        TEXT NOT NULL UNIQUE,
  start       INTEGER NOT NULL,
  size        INTEGER NOT NULL,
  md5         TEXT NOT NULL,
  checksums   TEXT NOT NULL,
  modified_at INTEGER NOT NULL,
  PRIMARY KEY (owner, number)
) STRICT, WITHOUT ROWID;

-- What happened to objects, written with the change itself, until somebody has dealt with it.
CREATE TABLE events (
  seq    INTEGER PRIMARY KEY AUTOINCREMENT,
  kind   TEXT NOT NULL CHECK (kind IN ('created', 'removed')),
  bucket TEXT NOT NULL,
  key    BLOB NOT NULL,
  etag   TEXT NOT NULL,
  size   INTEGER NOT NULL,
  at     INTEGER NOT NULL
) STRICT;
