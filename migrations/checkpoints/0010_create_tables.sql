-- The tables of langgraph-checkpoint-postgres (its `base.py`, MIGRATIONS), column for column and
-- key for key; columns of our own come behind, are nullable, and are dropped on the way there.
-- `checkpoint` and `metadata` are JSONB there and JSON text here. The *_thread_id_idx indexes are
-- left out: each repeats the first column of a primary key.

CREATE TABLE checkpoints (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL,
    parent_checkpoint_id TEXT,
    type TEXT,
    checkpoint TEXT NOT NULL,
    metadata TEXT NOT NULL DEFAULT '{}',
    -- The run that made the checkpoint (metadata's `run_id`), for delete_for_runs.
    run_id TEXT,
    -- A JSON object, channel -> version key: where the blob of a value lies that channel_versions
    -- and channel_values alone would not find (docs/storage.md, "Where a value lies").
    blob_versions TEXT,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id),
    -- langgraph-checkpoint-sqlite finds all its columns here, and would save into this table; its
    -- checkpoints are bytes. Of a constraint that fails, SQLite tells the name and nothing else.
    CONSTRAINT "this file belongs to langgraph-sqlite-saver: import the saver from langgraph_sqlite_saver, not from langgraph.checkpoint.sqlite"
        CHECK (typeof(checkpoint) = 'text')
);

CREATE INDEX checkpoints_run_id_idx ON checkpoints (run_id) WHERE run_id IS NOT NULL;

CREATE TABLE checkpoint_blobs (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    channel TEXT NOT NULL,
    version TEXT NOT NULL,
    type TEXT NOT NULL,
    blob BLOB,
    -- How a value is stored as a difference (docs/storage.md); NULL for one that lies as it is.
    -- The version, of the same thread, namespace and channel, that the difference is from.
    base TEXT,
    -- The bytes of the value, where `blob` holds a frame or a difference.
    size INTEGER,
    -- A random number of this value, which copies of it keep: what has it has the same bytes.
    token INTEGER,
    -- How many versions came before it since a whole one; chooses the base of the next.
    number INTEGER,
    PRIMARY KEY (thread_id, checkpoint_ns, channel, version)
);

CREATE TABLE checkpoint_writes (
    thread_id TEXT NOT NULL,
    checkpoint_ns TEXT NOT NULL DEFAULT '',
    checkpoint_id TEXT NOT NULL,
    task_id TEXT NOT NULL,
    task_path TEXT NOT NULL DEFAULT '',
    idx INTEGER NOT NULL,
    channel TEXT NOT NULL,
    type TEXT,
    blob BLOB NOT NULL,
    -- A JSON array of [channel, version]: the blobs of the same namespace that the difference is
    -- from, one after the other.
    base TEXT,
    -- As in checkpoint_blobs.
    size INTEGER,
    PRIMARY KEY (thread_id, checkpoint_ns, checkpoint_id, task_id, idx)
);
