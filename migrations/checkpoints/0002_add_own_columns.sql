-- Columns that Postgres' tables do not have: nullable, at the end, dropped on the way there.

-- The run that made the checkpoint (metadata's `run_id`), for delete_for_runs.
ALTER TABLE checkpoints ADD COLUMN run_id TEXT;

-- A JSON object, channel -> version key: where the blob of a value lies that channel_versions and
-- channel_values alone would not find (see docs/architecture.md, "Where a value lies").
ALTER TABLE checkpoints ADD COLUMN blob_versions TEXT;

CREATE INDEX checkpoints_run_id_idx ON checkpoints (run_id) WHERE run_id IS NOT NULL;
