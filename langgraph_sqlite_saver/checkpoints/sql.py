"""Every statement on the checkpoint tables. A test holds each against EXPLAIN QUERY PLAN.

Sets of keys come in as one JSON array, so that a statement's text does not depend on their number
and it is prepared once. `CROSS JOIN` keeps the array outside: each element is one index lookup.
"""

from ..database.own_cursors import MARKS as _MARKS

# The columns of a checkpoint, in the order of reading.Row.
COLUMNS = (
    "thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata, "
    "blob_versions"
)

# The columns of a blob, in the order of contents.Stored.
BLOB_COLUMNS = "b.channel, b.version, b.type, b.blob, b.base, b.size, b.token, b.number"

# A row that changes what it is, or what it rests on, gets the next rowid: deleting (removal.py)
# knows by it what has changed since it looked. There is none after the largest.
_AS_NEW = (
    "rowid = (SELECT CASE WHEN max(s.rowid) < 9223372036854775807 THEN max(s.rowid) + 1 "
    "ELSE {0}.rowid END FROM {0} AS s)"
)

# --- put, put_writes

INSERT_CHECKPOINT = """
INSERT INTO checkpoints (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata, run_id,
    blob_versions
) VALUES (?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

REPLACE_CHECKPOINT = f"""
UPDATE checkpoints
SET parent_checkpoint_id = ?, checkpoint = ?, metadata = ?, run_id = ?, blob_versions = ?,
    {_AS_NEW.format("checkpoints")}
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""  # noqa: S608

INSERT_BLOB = """
INSERT INTO checkpoint_blobs (
    thread_id, checkpoint_ns, channel, version, type, blob, base, size, token, number
) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

# Of a value that rests on nothing, and that nothing rests on.
INSERT_SMALL_BLOB = """
INSERT INTO checkpoint_blobs (thread_id, checkpoint_ns, channel, version, type, blob)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""

SELECT_TOKEN = """
SELECT token FROM checkpoint_blobs
WHERE thread_id = ? AND checkpoint_ns = ? AND channel = ? AND version = ?
"""

# The first parameter: [[channel, version key], …]
SELECT_TOKENS = """
SELECT b.channel, b.token FROM json_each(?) AS wanted
CROSS JOIN checkpoint_blobs AS b
WHERE b.thread_id = ? AND b.checkpoint_ns = ?
AND b.channel = json_extract(wanted.value, '$[0]')
AND b.version = json_extract(wanted.value, '$[1]')
"""

SELECT_LINEAGE = """
SELECT checkpoint, blob_versions FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""

_WRITE_COLUMNS = (
    "thread_id, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob, "
    "base, size"
)

INSERT_WRITE = f"""
INSERT INTO checkpoint_writes ({_WRITE_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO NOTHING
"""  # noqa: S608

REPLACE_WRITE = f"""
INSERT OR REPLACE INTO checkpoint_writes ({_WRITE_COLUMNS})
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""  # noqa: S608

# --- put, put_writes in one statement (at_once.py): each row has a kind and up to eleven columns

SAVED_COLUMNS = 12

SAVE_ROWS = """
WITH one AS (SELECT 1) INSERT INTO temp.langgraph_sqlite_saver_rows VALUES
"""

_ROWS_VIEW = """
CREATE TEMP VIEW IF NOT EXISTS langgraph_sqlite_saver_rows AS
SELECT 0 AS kind, 0 AS a, 0 AS b, 0 AS c, 0 AS d, 0 AS e, 0 AS f, 0 AS g, 0 AS h, 0 AS i, 0 AS j,
    0 AS k
"""

_ROWS_TRIGGER = """
CREATE TEMP TRIGGER IF NOT EXISTS langgraph_sqlite_saver_rows_{kind}
INSTEAD OF INSERT ON langgraph_sqlite_saver_rows WHEN new.kind = {kind}
BEGIN {statement}; END
"""

_BLOB_ROW = """
INSERT INTO checkpoint_blobs (
    thread_id, checkpoint_ns, channel, version, type, blob, base, size, token, number
) VALUES (new.a, new.b, new.c, new.d, new.e, new.f, new.g, new.h, new.i, new.j)
"""

_CHECKPOINT_ROW = """
INSERT INTO checkpoints (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, checkpoint, metadata, run_id,
    blob_versions
) VALUES (new.a, new.b, new.c, new.d, new.e, new.f, new.g, new.h)
"""

_WRITE_VALUES = "(new.a, new.b, new.c, new.d, new.e, new.f, new.g, new.h, new.i, new.j, new.k)"

_KEPT_WRITE_ROW = f"""
INSERT INTO checkpoint_writes ({_WRITE_COLUMNS}) VALUES {_WRITE_VALUES} ON CONFLICT DO NOTHING
"""  # noqa: S608

_REPLACED_WRITE_ROW = f"""
INSERT OR REPLACE INTO checkpoint_writes ({_WRITE_COLUMNS}) VALUES {_WRITE_VALUES}
"""  # noqa: S608

# new.c: {channel: version}, blobs that have to be there; new.d: {channel: [version, token]}, those
# that others rest on
_NEEDED_ROW = """
SELECT raise(ABORT, 'a value that is needed is not there') FROM json_each(new.c) AS wanted
WHERE NOT EXISTS (
    SELECT 1 FROM checkpoint_blobs AS b WHERE b.thread_id = new.a AND b.checkpoint_ns = new.b
    AND b.channel = wanted.key AND b.version = wanted.value
);
SELECT raise(ABORT, 'a value that others rest on is not there') FROM json_each(new.d) AS wanted
WHERE NOT EXISTS (
    SELECT 1 FROM checkpoint_blobs AS b WHERE b.thread_id = new.a AND b.checkpoint_ns = new.b
    AND b.channel = wanted.key AND b.version = json_extract(wanted.value, '$[0]')
    AND b.token = json_extract(wanted.value, '$[1]')
)
"""

_MARK_ROW = f"REPLACE INTO {_MARKS} (place, number) VALUES (0, new.a)"  # noqa: S608

# By their kind, as at_once.py numbers them.
ROWS_STATEMENTS = (
    _BLOB_ROW, _CHECKPOINT_ROW, _KEPT_WRITE_ROW, _REPLACED_WRITE_ROW, _NEEDED_ROW, _MARK_ROW
)  # fmt: skip

MAKE_SAVE_ROWS = (
    _ROWS_VIEW,
    *(
        _ROWS_TRIGGER.format(kind=kind, statement=statement)
        for kind, statement in enumerate(ROWS_STATEMENTS)
    ),
)

COUNT_SAVE_ROWS = """
SELECT count(*) FROM sqlite_temp_master WHERE name GLOB 'langgraph_sqlite_saver_rows*'
"""

# --- get_tuple, list

SELECT_HEAD = f"""
SELECT {COLUMNS} FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?
ORDER BY checkpoint_id DESC LIMIT 1
"""  # noqa: S608

SELECT_CHECKPOINT = f"""
SELECT {COLUMNS} FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""  # noqa: S608

# The first parameter: {channel: version key}
SELECT_BLOBS = f"""
SELECT {BLOB_COLUMNS} FROM json_each(?) AS wanted
CROSS JOIN checkpoint_blobs AS b
WHERE b.thread_id = ? AND b.checkpoint_ns = ? AND b.channel = wanted.key
AND b.version = wanted.value
"""  # noqa: S608

SELECT_BLOB = f"""
SELECT {BLOB_COLUMNS} FROM checkpoint_blobs AS b
WHERE thread_id = ? AND checkpoint_ns = ? AND channel = ? AND version = ?
"""  # noqa: S608

# The newest version of each channel: [channel, …], and the place twice.
SELECT_NEWEST_BLOBS = f"""
SELECT {BLOB_COLUMNS} FROM json_each(?) AS wanted
CROSS JOIN checkpoint_blobs AS b
WHERE b.thread_id = ? AND b.checkpoint_ns = ? AND b.channel = wanted.value
AND b.version = (
    SELECT max(version) FROM checkpoint_blobs
    WHERE thread_id = ? AND checkpoint_ns = ? AND channel = wanted.value
)
"""  # noqa: S608

# In writes_sort_key order.
SELECT_WRITES = """
SELECT task_id, channel, type, blob, base, size FROM checkpoint_writes
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
ORDER BY task_path, task_id, idx
"""

# Of `list`: {condition} is made of fixed predicates, every value is a parameter.
LIST_IN_ORDER = f"""
SELECT {COLUMNS} FROM checkpoints {{condition}}
ORDER BY checkpoint_id DESC LIMIT ?
"""  # noqa: S608

# Over several namespaces only the keys, which the index holds, are sorted, not the rows.
LIST_BY_KEYS = f"""
SELECT {COLUMNS} FROM checkpoints WHERE rowid IN (
    SELECT rowid FROM checkpoints {{condition}}
    ORDER BY checkpoint_id DESC, thread_id, checkpoint_ns LIMIT ?
)
ORDER BY checkpoint_id DESC, thread_id, checkpoint_ns
"""  # noqa: S608

# The parameter: {thread_id: {checkpoint_ns: {channel: {number: version key}}}}
SELECT_BLOBS_OF_PAGE = f"""
SELECT number.key, {BLOB_COLUMNS}
FROM json_each(?) AS thread, json_each(thread.value) AS ns, json_each(ns.value) AS channel,
    json_each(channel.value) AS number
CROSS JOIN checkpoint_blobs AS b
WHERE b.thread_id = thread.key AND b.checkpoint_ns = ns.key AND b.channel = channel.key
AND b.version = number.value
"""  # noqa: S608

# The parameter: {thread_id: {checkpoint_ns: {number: checkpoint_id}}}; in writes_sort_key order.
SELECT_WRITES_OF_PAGE = """
SELECT number.key, w.task_id, w.channel, w.type, w.blob, w.base, w.size
FROM json_each(?) AS thread, json_each(thread.value) AS ns, json_each(ns.value) AS number
CROSS JOIN checkpoint_writes AS w
WHERE w.thread_id = thread.key AND w.checkpoint_ns = ns.key AND w.checkpoint_id = number.value
ORDER BY w.task_path, w.task_id, w.idx
"""

# {thread_id: {checkpoint_ns: {number: checkpoint_id}}}, and the channel of sends
SELECT_SENDS_OF_PAGE = """
SELECT number.key, w.type, w.blob, w.base, w.size
FROM json_each(?) AS thread, json_each(thread.value) AS ns, json_each(ns.value) AS number
CROSS JOIN checkpoint_writes AS w
WHERE w.thread_id = thread.key AND w.checkpoint_ns = ns.key AND w.checkpoint_id = number.value
AND w.channel = ?
ORDER BY w.task_path, w.task_id, w.idx
"""

# --- delta history

# Nearest ancestor first, by parent and not by id: ids only grow within one process.
WALK_ANCESTORS = """
WITH RECURSIVE ancestors (checkpoint_id, parent, checkpoint, blob_versions, depth) AS (
    SELECT checkpoint_id, parent_checkpoint_id, checkpoint, blob_versions, 0 FROM checkpoints
    WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
    UNION ALL
    SELECT c.checkpoint_id, c.parent_checkpoint_id, c.checkpoint, c.blob_versions, depth + 1
    FROM ancestors AS a CROSS JOIN checkpoints AS c
    WHERE c.thread_id = ? AND c.checkpoint_ns = ? AND c.checkpoint_id = a.parent
    ORDER BY 5
)
SELECT checkpoint_id, checkpoint, blob_versions FROM ancestors
"""

# The place, [checkpoint_id, …], [channel, …]
SELECT_WRITES_OF_CHAIN = """
SELECT w.checkpoint_id, w.task_id, w.channel, w.type, w.blob, w.base, w.size
FROM checkpoint_writes AS w
WHERE w.thread_id = ? AND w.checkpoint_ns = ?
AND w.checkpoint_id IN (SELECT value FROM json_each(?))
AND w.channel IN (SELECT value FROM json_each(?))
ORDER BY w.task_path, w.task_id, w.idx
"""

# --- delete_thread

DELETE_THREAD = (
    "DELETE FROM checkpoints WHERE thread_id = ?",
    "DELETE FROM checkpoint_blobs WHERE thread_id = ?",
    "DELETE FROM checkpoint_writes WHERE thread_id = ?",
)

DELETE_NAMESPACE = (
    "DELETE FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?",
    "DELETE FROM checkpoint_blobs WHERE thread_id = ? AND checkpoint_ns = ?",
    "DELETE FROM checkpoint_writes WHERE thread_id = ? AND checkpoint_ns = ?",
)

# --- delete_for_runs, prune: places, and JSON arrays of checkpoint ids

SELECT_RUNS_THREADS = """
SELECT DISTINCT c.thread_id, c.run_id FROM json_each(?) AS runs
CROSS JOIN checkpoints AS c WHERE c.run_id = runs.value
"""

SELECT_RUNS_CHECKPOINTS = """
SELECT c.checkpoint_ns, c.checkpoint_id FROM json_each(?) AS runs
CROSS JOIN checkpoints AS c WHERE c.run_id = runs.value AND +c.thread_id = ?
"""

SELECT_PARENTS = """
SELECT checkpoint_id, parent_checkpoint_id FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns = ?
AND checkpoint_id IN (SELECT value FROM json_each(?))
"""

SELECT_CHECKPOINT_IDS = """
SELECT checkpoint_id, rowid FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?
"""

SELECT_SOME = """
SELECT checkpoint, blob_versions FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns = ?
AND checkpoint_id IN (SELECT value FROM json_each(?))
"""

# [rowid, …]
SELECT_DOCUMENTS = """
SELECT c.rowid, c.checkpoint, c.blob_versions FROM json_each(?) AS wanted
CROSS JOIN checkpoints AS c WHERE c.rowid = wanted.value
"""

# Whether some metadata counts the updates of DeltaChannels, or cannot be read.
MAY_HAVE_COUNTERS = """
SELECT 1 FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?
AND CASE WHEN typeof(metadata) = 'text' AND json_valid(metadata)
    THEN json_type(metadata) <> 'object'
        OR json_type(metadata, '$.counters_since_delta_snapshot') IS NOT NULL
    ELSE 1 END LIMIT 1
"""

# By rowid: a row of each table, and what nothing changes but another row in its place.
SELECT_MARKED = (
    "SELECT rowid, * FROM checkpoints WHERE rowid = ?",
    """
    SELECT rowid, thread_id, checkpoint_ns, channel, version, base, token FROM checkpoint_blobs
    WHERE rowid = ?
    """,
    """
    SELECT rowid, thread_id, checkpoint_ns, checkpoint_id, task_id, idx, base
    FROM checkpoint_writes WHERE rowid = ?
    """,
)

# The newest row of each.
SELECT_MARKS = tuple(
    statement.replace("?", f"(SELECT max(rowid) FROM {table})")  # noqa: S608
    for statement, table in zip(
        SELECT_MARKED, ("checkpoints", "checkpoint_blobs", "checkpoint_writes"), strict=True
    )
)

# What came behind a mark; the signs keep SQLite from going through the whole namespace.
CHECKPOINTS_BEHIND = f"""
SELECT {COLUMNS} FROM checkpoints
WHERE rowid > ? AND +thread_id = ? AND +checkpoint_ns = ?
"""  # noqa: S608

BASES_BEHIND = """
SELECT channel, base FROM checkpoint_blobs
WHERE rowid > ? AND +thread_id = ? AND +checkpoint_ns = ? AND base IS NOT NULL
"""

BASES_OF_WRITES_BEHIND = """
SELECT base FROM checkpoint_writes
WHERE rowid > ? AND +thread_id = ? AND +checkpoint_ns = ? AND base IS NOT NULL
"""

# [rowid, …]: how many of these rows are still in their namespace.
COUNT_ROWS = tuple(
    f"""
    SELECT count(*) FROM json_each(?) AS wanted CROSS JOIN {table} AS c
    WHERE c.rowid = wanted.value AND c.thread_id = ? AND c.checkpoint_ns = ?
    """  # noqa: S608
    for table in ("checkpoints", "checkpoint_blobs", "checkpoint_writes")
)

DELETE_CHECKPOINTS = """
DELETE FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?
AND checkpoint_id IN (SELECT value FROM json_each(?))
"""

DELETE_WRITES_OF_CHECKPOINTS = """
DELETE FROM checkpoint_writes WHERE thread_id = ? AND checkpoint_ns = ?
AND checkpoint_id IN (SELECT value FROM json_each(?))
"""

SELECT_CHILDREN = """
SELECT checkpoint_id, parent_checkpoint_id FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns = ?
AND parent_checkpoint_id IN (SELECT value FROM json_each(?))
"""

SELECT_CHILDREN_ROWS = f"""
SELECT {COLUMNS} FROM checkpoints
WHERE thread_id = ? AND checkpoint_ns = ?
AND parent_checkpoint_id IN (SELECT value FROM json_each(?))
"""  # noqa: S608

SET_PARENT = f"""
UPDATE checkpoints SET parent_checkpoint_id = ?, {_AS_NEW.format("checkpoints")}
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""  # noqa: S608

SELECT_BLOB_KEYS = """
SELECT channel, version FROM checkpoint_blobs WHERE thread_id = ? AND checkpoint_ns = ?
"""

DELETE_BLOB = """
DELETE FROM checkpoint_blobs
WHERE thread_id = ? AND checkpoint_ns = ? AND channel = ? AND version = ?
"""

SELECT_BASES = """
SELECT version, base, rowid FROM checkpoint_blobs
WHERE thread_id = ? AND checkpoint_ns = ? AND channel = ? ORDER BY version
"""

REBASE_BLOB = f"""
UPDATE checkpoint_blobs
SET type = ?, blob = ?, base = ?, size = ?, token = ?, number = ?,
    {_AS_NEW.format("checkpoint_blobs")}
WHERE thread_id = ? AND checkpoint_ns = ? AND channel = ? AND version = ?
"""  # noqa: S608

SELECT_BASES_OF_WRITES = """
SELECT rowid, checkpoint_id, task_id, idx, base FROM checkpoint_writes
WHERE thread_id = ? AND checkpoint_ns = ? AND base IS NOT NULL
"""

SELECT_WRITE = """
SELECT channel, type, blob, base, size FROM checkpoint_writes
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ? AND task_id = ? AND idx = ?
"""

REBASE_WRITE = f"""
UPDATE checkpoint_writes SET type = ?, blob = ?, base = ?, size = ?,
    {_AS_NEW.format("checkpoint_writes")}
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ? AND task_id = ? AND idx = ?
"""  # noqa: S608

SELECT_NAMESPACES = "SELECT DISTINCT checkpoint_ns FROM checkpoints WHERE thread_id = ?"

SELECT_NEWEST = f"""
SELECT {COLUMNS} FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?
ORDER BY checkpoint_id DESC LIMIT ?
"""  # noqa: S608

CHECKPOINT_EXISTS = """
SELECT 1 FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""

# The sends a checkpoint of format v < 4 finds among its parent's writes.
SELECT_SENDS = """
SELECT type, blob FROM checkpoint_writes
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ? AND channel = ?
ORDER BY task_path, task_id, idx
"""

# Channels that a checkpoint of the namespace keeps a snapshot of: a note, and the inline mark.
SELECT_NOTED_CHANNELS = """
SELECT DISTINCT note.key FROM checkpoints AS c,
    json_each(CASE WHEN json_valid(c.blob_versions) THEN c.blob_versions END) AS note,
    json_each(CASE WHEN json_valid(c.checkpoint) THEN c.checkpoint END, '$.channel_values') AS mark
WHERE c.thread_id = ? AND c.checkpoint_ns = ? AND c.blob_versions IS NOT NULL
AND mark.key = note.key AND mark.type = 'true'
"""

HAS_JS_DELTAS = """
SELECT 1 FROM checkpoints WHERE thread_id = ? AND checkpoint_ns = ?
AND CASE WHEN json_valid(metadata)
    THEN json_type(metadata, '$.delta_writes_versioned') END IS NOT NULL LIMIT 1
"""

# --- copy_thread

# A damaged row is copied as it is, but for what the tables refuse.
COPY_CHECKPOINTS = """
INSERT OR IGNORE INTO checkpoints (
    thread_id, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, checkpoint, metadata,
    run_id, blob_versions
)
SELECT ?, checkpoint_ns, checkpoint_id, parent_checkpoint_id, type, CAST(checkpoint AS TEXT),
    CASE WHEN json_valid(metadata) THEN json_replace(metadata, '$.thread_id', ?)
        ELSE metadata END, run_id, blob_versions
FROM checkpoints WHERE thread_id = ?
"""

COPY_BLOBS = """
INSERT OR IGNORE INTO checkpoint_blobs (
    thread_id, checkpoint_ns, channel, version, type, blob, base, size, token, number
)
SELECT ?, checkpoint_ns, channel, version, type, blob, base, size, token, number
FROM checkpoint_blobs WHERE thread_id = ?
"""

COPY_WRITES = f"""
INSERT OR IGNORE INTO checkpoint_writes ({_WRITE_COLUMNS})
SELECT ?, checkpoint_ns, checkpoint_id, task_id, task_path, idx, channel, type, blob, base, size
FROM checkpoint_writes WHERE thread_id = ?
"""  # noqa: S608

# The last parameter: the rowids of those to leave out.
COPY_OTHER_WRITES = COPY_WRITES + "AND rowid NOT IN (SELECT value FROM json_each(?))"  # noqa: S608

# Pending writes that the target has not yet, of checkpoints that it has.
SELECT_WRITES_TO_ADD = """
SELECT rowid, checkpoint_ns, task_id, channel, type, blob, base, size FROM checkpoint_writes AS s
WHERE thread_id = ? AND EXISTS (
    SELECT 1 FROM checkpoints AS c WHERE c.thread_id = ?
    AND c.checkpoint_ns = s.checkpoint_ns AND c.checkpoint_id = s.checkpoint_id
) AND NOT EXISTS (
    SELECT 1 FROM checkpoint_writes AS t WHERE t.thread_id = ?
    AND t.checkpoint_ns = s.checkpoint_ns AND t.checkpoint_id = s.checkpoint_id
    AND t.task_id = s.task_id AND t.idx = s.idx
)
"""

# Pending writes with bases that the target has not yet.
SELECT_MISSING_WRITES = """
SELECT checkpoint_ns, checkpoint_id, task_id, idx, base FROM checkpoint_writes AS s
WHERE thread_id = ? AND base IS NOT NULL AND NOT EXISTS (
    SELECT 1 FROM checkpoint_writes AS t WHERE t.thread_id = ?
    AND t.checkpoint_ns = s.checkpoint_ns AND t.checkpoint_id = s.checkpoint_id
    AND t.task_id = s.task_id AND t.idx = s.idx
)
"""

HAS_THREAD = "SELECT 1 FROM checkpoints WHERE thread_id = ? LIMIT 1"

SELECT_MISSING_IN_TARGET = """
SELECT checkpoint_ns, checkpoint_id, checkpoint, blob_versions FROM checkpoints AS s
WHERE thread_id = ? AND NOT EXISTS (
    SELECT 1 FROM checkpoints AS t WHERE t.thread_id = ?
    AND t.checkpoint_ns = s.checkpoint_ns AND t.checkpoint_id = s.checkpoint_id
)
"""

SET_NOTES = """
UPDATE checkpoints SET blob_versions = ?
WHERE thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ?
"""

# --- compact, check: by primary key, a step at a time

SELECT_THREADS_OF_VALUES = """
SELECT thread_id FROM checkpoint_blobs UNION SELECT thread_id FROM checkpoint_writes
"""

COUNT_VALUES = """
SELECT (SELECT count(*) FROM checkpoint_blobs WHERE thread_id = ?)
    + (SELECT count(*) FROM checkpoint_writes WHERE thread_id = ?)
"""

NEWEST_ROWS = """
SELECT (SELECT coalesce(max(rowid), 0) FROM checkpoint_blobs),
    (SELECT coalesce(max(rowid), 0) FROM checkpoint_writes)
"""

BLOBS_FROM = """
SELECT checkpoint_ns, channel, version FROM checkpoint_blobs
WHERE thread_id = ? AND (checkpoint_ns, channel, version) >= (?, ?, ?) AND rowid <= ?
ORDER BY checkpoint_ns, channel, version LIMIT ?
"""

WRITES_FROM = """
SELECT checkpoint_ns, checkpoint_id, task_id, idx FROM checkpoint_writes
WHERE thread_id = ? AND (checkpoint_ns, checkpoint_id, task_id, idx) >= (?, ?, ?, ?)
AND rowid <= ?
ORDER BY checkpoint_ns, checkpoint_id, task_id, idx LIMIT ?
"""

VERSION_BEFORE = """
SELECT max(version) FROM checkpoint_blobs
WHERE thread_id = ? AND checkpoint_ns = ? AND channel = ? AND version < ?
"""

CHECKPOINTS = f"SELECT {COLUMNS} FROM checkpoints"  # noqa: S608

CHECKPOINTS_OF_THREAD = f"SELECT {COLUMNS} FROM checkpoints WHERE thread_id = ?"  # noqa: S608

# --- threads, stats, expire: these read whole tables

_TIME = "json_valid({0}), CASE WHEN json_valid({0}) THEN json_extract({0}, '$.ts') END"

# Each namespace: how many checkpoints, what they hold, the head and its time. Beside max() a column
# is that of the row with the largest.
SELECT_NAMESPACES_OF_ALL = f"""
SELECT thread_id, checkpoint_ns, number, bytes, head, {_TIME.format("checkpoint")} FROM (
    SELECT thread_id, checkpoint_ns, count(*) AS number, max(checkpoint_id) AS head, checkpoint,
        sum(length(CAST(checkpoint AS BLOB)) + length(CAST(metadata AS BLOB))) AS bytes
    FROM checkpoints GROUP BY thread_id, checkpoint_ns
) ORDER BY thread_id, checkpoint_ns
"""  # noqa: S608

# One of each table: both at once would have to be sorted.
SUM_BYTES_BY_THREAD = tuple(
    f"""
    SELECT thread_id, sum(length(blob)),
        sum(CASE WHEN size BETWEEN 0 AND 1e12 THEN size ELSE length(blob) END)
    FROM {table} GROUP BY thread_id
    """  # noqa: S608
    for table in ("checkpoint_blobs", "checkpoint_writes")
)

# The heads alone are read.
SELECT_HEADS = f"""
SELECT h.thread_id, h.checkpoint_ns, h.head, {_TIME.format("c.checkpoint")} FROM (
    SELECT thread_id, checkpoint_ns, max(checkpoint_id) AS head
    FROM checkpoints GROUP BY thread_id, checkpoint_ns
) AS h
LEFT JOIN checkpoints AS c ON c.thread_id = h.thread_id AND c.checkpoint_ns = h.checkpoint_ns
    AND c.checkpoint_id = h.head
"""  # noqa: S608

SELECT_HEADS_OF_THREAD = SELECT_HEADS.replace("GROUP BY", "WHERE thread_id = ? GROUP BY")

# Pending writes whose checkpoint is not there, and values of threads that have no checkpoint.
_WITHOUT_CHECKPOINT = """NOT EXISTS (
    SELECT 1 FROM checkpoints AS c WHERE c.thread_id = w.thread_id
    AND c.checkpoint_ns = w.checkpoint_ns AND c.checkpoint_id = w.checkpoint_id
)"""
_WITHOUT_THREAD = """NOT EXISTS (SELECT 1 FROM checkpoints AS c WHERE c.thread_id = b.thread_id)"""

ORPHAN_WRITES = f"""
SELECT thread_id, checkpoint_ns, checkpoint_id, count(*), sum(length(blob))
FROM checkpoint_writes AS w WHERE {_WITHOUT_CHECKPOINT} GROUP BY 1, 2, 3
"""  # noqa: S608

ORPHAN_WRITES_OF_THREAD = f"""
SELECT thread_id, checkpoint_ns, checkpoint_id, count(*), sum(length(blob))
FROM checkpoint_writes AS w WHERE w.thread_id = ? AND {_WITHOUT_CHECKPOINT} GROUP BY 1, 2, 3
"""  # noqa: S608

ORPHAN_BLOBS = f"""
SELECT thread_id, count(*), coalesce(sum(length(blob)), 0)
FROM checkpoint_blobs AS b WHERE {_WITHOUT_THREAD} GROUP BY 1
"""  # noqa: S608

ORPHAN_BLOBS_OF_THREAD = f"""
SELECT thread_id, count(*), coalesce(sum(length(blob)), 0)
FROM checkpoint_blobs AS b WHERE b.thread_id = ? AND {_WITHOUT_THREAD} GROUP BY 1
"""  # noqa: S608

COUNTS = f"""
SELECT
    (SELECT count(DISTINCT thread_id) FROM checkpoints),
    (SELECT count(*) FROM checkpoints),
    (SELECT count(*) FROM checkpoint_blobs),
    (SELECT count(*) FROM checkpoint_writes),
    (SELECT coalesce(sum(length(CAST(checkpoint AS BLOB)) + length(CAST(metadata AS BLOB))), 0)
        FROM checkpoints),
    (SELECT coalesce(sum(length(blob)), 0) FROM checkpoint_blobs),
    (SELECT coalesce(sum(length(blob)), 0) FROM checkpoint_writes),
    (SELECT coalesce(sum(CASE WHEN size BETWEEN 0 AND 1e12 THEN size ELSE length(blob) END), 0)
        FROM checkpoint_blobs),
    (SELECT coalesce(sum(CASE WHEN size BETWEEN 0 AND 1e12 THEN size ELSE length(blob) END), 0)
        FROM checkpoint_writes),
    (SELECT count(*) FROM checkpoint_writes AS w WHERE {_WITHOUT_CHECKPOINT}),
    (SELECT count(*) FROM checkpoint_blobs AS b WHERE {_WITHOUT_THREAD}),
    (SELECT coalesce(sum(length(blob)), 0) FROM checkpoint_writes AS w WHERE {_WITHOUT_CHECKPOINT})
    + (SELECT coalesce(sum(length(blob)), 0) FROM checkpoint_blobs AS b WHERE {_WITHOUT_THREAD})
"""  # noqa: S608
