-- How values are stored as differences (docs/storage.md). All nullable: older rows are whole.

-- The version, of the same thread, namespace and channel, that the difference is from.
ALTER TABLE checkpoint_blobs ADD COLUMN base TEXT;
-- The bytes of the value, where `blob` holds a frame or a difference.
ALTER TABLE checkpoint_blobs ADD COLUMN size INTEGER;
-- A random number of this value, which copies of it keep: what has it has the same bytes.
ALTER TABLE checkpoint_blobs ADD COLUMN token INTEGER;
-- How many versions came before it since a whole one; chooses the base of the next.
ALTER TABLE checkpoint_blobs ADD COLUMN number INTEGER;

-- A JSON array of [channel, version]: the blobs of the same namespace that the difference is from,
-- one after the other.
ALTER TABLE checkpoint_writes ADD COLUMN base TEXT;
ALTER TABLE checkpoint_writes ADD COLUMN size INTEGER;
