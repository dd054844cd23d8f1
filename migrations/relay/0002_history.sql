-- What lives in SQLite only, beside the guide's usage_records.

-- What a usage record has beyond the guide's columns, as JSON.
CREATE TABLE usage_extra (
  usage_id INTEGER PRIMARY KEY,
  extra TEXT NOT NULL,
  FOREIGN KEY (usage_id) REFERENCES usage_records(id) ON DELETE CASCADE
);

-- Usage that the guide's table refuses: its API key is not known (any more), or it has no model.
CREATE TABLE usage_unplaced (
  id INTEGER PRIMARY KEY,
  api_key_id TEXT NOT NULL,
  entry TEXT NOT NULL, -- JSON as the relay writes it; text that is no JSON stays as it was
  raises_totals INTEGER NOT NULL -- 1: its key's totals have yet to rise by it
);
CREATE INDEX idx_usage_unplaced_key ON usage_unplaced (api_key_id);

-- Sums by the hour, day and month of the relay's time zone. Each request counts under its API key
-- and under its account.
CREATE TABLE usage_stats (
  scope TEXT NOT NULL,  -- 'key' or 'account'
  id TEXT NOT NULL,     -- of the API key or the account
  period TEXT NOT NULL, -- 'hour', 'day' or 'month'
  start TEXT NOT NULL,  -- 2026-11-21T03, 2026-11-21, 2026-11
  model TEXT NOT NULL,
  requests INTEGER NOT NULL DEFAULT 0,
  input_tokens INTEGER NOT NULL DEFAULT 0,
  output_tokens INTEGER NOT NULL DEFAULT 0,
  cache_create_tokens INTEGER NOT NULL DEFAULT 0,
  cache_read_tokens INTEGER NOT NULL DEFAULT 0,
  all_tokens INTEGER NOT NULL DEFAULT 0,
  cost REAL NOT NULL DEFAULT 0,
  PRIMARY KEY (scope, id, period, start, model)
) WITHOUT ROWID;
CREATE INDEX idx_usage_stats_start ON usage_stats (period, start);

-- What changed, when, by whom; never a credential.
CREATE TABLE audit_log (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  at DATETIME NOT NULL,
  actor TEXT NOT NULL,
  action TEXT NOT NULL,
  kind TEXT NOT NULL,
  record_id TEXT NOT NULL,
  before TEXT,
  after TEXT
);
CREATE INDEX idx_audit_record ON audit_log (record_id, id);
