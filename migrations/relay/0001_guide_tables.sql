-- The tables of the relay's SQLite guide, its columns, types and defaults.

CREATE TABLE api_keys (
  id TEXT PRIMARY KEY,
  api_key_hash TEXT UNIQUE,
  name TEXT,
  description TEXT,
  token_limit INTEGER,
  rate_limit_rpm INTEGER,
  rate_limit_tpm INTEGER,
  is_active BOOLEAN,
  created_at DATETIME,
  updated_at DATETIME,
  last_used_at DATETIME,
  expires_at DATETIME,
  permissions TEXT,
  allowed_models TEXT,
  blacklist_models TEXT,
  allowed_clients TEXT,
  total_requests INTEGER DEFAULT 0,
  total_tokens INTEGER DEFAULT 0,
  total_input_tokens INTEGER DEFAULT 0,
  total_output_tokens INTEGER DEFAULT 0,
  total_cache_create_tokens INTEGER DEFAULT 0,
  total_cache_read_tokens INTEGER DEFAULT 0,
  total_cost REAL DEFAULT 0
);

CREATE TABLE accounts (
  id TEXT PRIMARY KEY,
  account_type TEXT NOT NULL,
  name TEXT NOT NULL,
  description TEXT,
  email TEXT,
  is_active BOOLEAN,
  status TEXT,
  created_at DATETIME,
  updated_at DATETIME,
  last_used_at DATETIME,
  expires_at DATETIME,
  proxy_config TEXT,
  encrypted_credentials TEXT,
  total_requests INTEGER DEFAULT 0,
  total_tokens INTEGER DEFAULT 0,
  total_input_tokens INTEGER DEFAULT 0,
  total_output_tokens INTEGER DEFAULT 0,
  total_cost REAL DEFAULT 0
);

CREATE TABLE usage_records (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  api_key_id TEXT NOT NULL,
  account_id TEXT,
  timestamp DATETIME NOT NULL,
  model TEXT NOT NULL,
  input_tokens INTEGER DEFAULT 0,
  output_tokens INTEGER DEFAULT 0,
  cache_create_tokens INTEGER DEFAULT 0,
  cache_read_tokens INTEGER DEFAULT 0,
  cost REAL DEFAULT 0,
  request_duration_ms INTEGER,
  status TEXT,
  error_message TEXT,
  created_at DATETIME DEFAULT CURRENT_TIMESTAMP,
  FOREIGN KEY (api_key_id) REFERENCES api_keys(id) ON DELETE CASCADE
);

-- The guide's index on the key's hash is the one that UNIQUE makes.
CREATE INDEX idx_accounts_type ON accounts (account_type);
CREATE INDEX idx_usage_timestamp ON usage_records (timestamp);
CREATE INDEX idx_usage_key_time ON usage_records (api_key_id, timestamp);
