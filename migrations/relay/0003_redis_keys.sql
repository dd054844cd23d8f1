-- Every lasting key of the relay's Redis, byte for byte: a restore is made from these.

-- value: a string as it is; else msgpack of flat byte strings (a hash: field, value, … by field; a
-- set: sorted; a zset: member, score text, … by member; a list: in order; a stream: its last id
-- and its groups). Collections that many records share have their members in redis_members, and
-- value is NULL; streams have their entries in redis_entries.
CREATE TABLE redis_keys (
  key BLOB PRIMARY KEY,
  type TEXT NOT NULL,
  value BLOB,
  expires_at INTEGER,        -- ms since 1970; NULL: never
  revision INTEGER NOT NULL, -- of the change that wrote it, as outbox counts them
  written_here INTEGER NOT NULL DEFAULT 0 -- 1: saved through the store; 0: taken over from Redis
);
CREATE INDEX idx_redis_keys_expiry ON redis_keys (expires_at) WHERE expires_at IS NOT NULL;

-- By member, so that the places of one record in many indexes lie together.
CREATE TABLE redis_members (
  key BLOB NOT NULL,
  member BLOB NOT NULL, -- a field or a member
  value BLOB,           -- a field's value, a score's text
  PRIMARY KEY (member, key)
) WITHOUT ROWID;

CREATE TABLE redis_entries (
  key BLOB NOT NULL,
  id BLOB NOT NULL,     -- of a stream's entry, as 16 bytes, big endian
  fields BLOB NOT NULL, -- msgpack: name, value, …
  PRIMARY KEY (key, id)
) WITHOUT ROWID;

-- Changes that are committed here and may not have reached Redis. Ids count all changes, those too
-- that come from Redis and need no row: no number comes twice.
CREATE TABLE outbox (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  changes BLOB NOT NULL,  -- msgpack: [key, member or nil] for each
  due_at INTEGER NOT NULL -- ms since 1970; until then the call that made it is at work
);

-- What was deleted here, so that an older copy of Redis cannot bring it back.
CREATE TABLE tombstones (
  key BLOB NOT NULL,
  member BLOB NOT NULL, -- empty: the whole key
  removed_at INTEGER NOT NULL,
  PRIMARY KEY (key, member)
) WITHOUT ROWID;

-- Deletions that were seen in Redis, for as long as they can be undone.
CREATE TABLE trash (
  id INTEGER PRIMARY KEY,
  removed_at INTEGER NOT NULL,
  key BLOB NOT NULL,
  type TEXT NOT NULL,
  value BLOB,     -- as in redis_keys, members included
  expires_at INTEGER
);
CREATE INDEX idx_trash_removed ON trash (removed_at);
CREATE INDEX idx_trash_key ON trash (key);

-- The columns of usage_records, and extra.
CREATE TABLE trash_usage (
  removed_at INTEGER NOT NULL,
  id INTEGER NOT NULL,
  api_key_id TEXT NOT NULL,
  account_id TEXT,
  timestamp DATETIME NOT NULL,
  model TEXT NOT NULL,
  input_tokens INTEGER,
  output_tokens INTEGER,
  cache_create_tokens INTEGER,
  cache_read_tokens INTEGER,
  cost REAL,
  request_duration_ms INTEGER,
  status TEXT,
  error_message TEXT,
  created_at DATETIME,
  extra TEXT
);
CREATE INDEX idx_trash_usage_key ON trash_usage (api_key_id);
CREATE INDEX idx_trash_usage_removed ON trash_usage (removed_at);

CREATE TABLE relay_state (
  name TEXT PRIMARY KEY,
  value NOT NULL
) WITHOUT ROWID;
INSERT INTO sqlite_sequence (name, seq) VALUES ('outbox', 0);
