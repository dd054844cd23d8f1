"""Show what a file of langgraph-sqlite-saver holds, by docs/storage.md alone; it writes nothing.

python examples/read_file.py FILE                          # its threads
python examples/read_file.py FILE THREAD [CHECKPOINT_ID]   # the newest checkpoint, or that one
"""

import json
import sqlite3
import struct
import sys
from pathlib import Path

try:
    from compression import zstd  # Python 3.14
except ImportError:
    from backports import zstd  # before that: pip install backports.zstd
try:
    import ormsgpack
except ImportError:
    ormsgpack = None  # shows lengths instead of values: pip install ormsgpack


def connect(path):
    """A read-only connection, in one snapshot; where there is no -wal, nobody has the file open."""
    how = "mode=ro" if Path(f"{path}-wal").exists() else "mode=ro&immutable=1"
    conn = sqlite3.connect(f"{Path(path).absolute().as_uri()}?{how}", uri=True)
    conn.execute("BEGIN")
    (version,) = conn.execute("SELECT max(v) FROM checkpoint_migrations").fetchone()
    if version != 10:
        sys.exit(f"{path}: tables of version {version}, not 10: see the docs of that version")
    return conn


def undone(conn, place, kind, blob, size, keys):
    """A value's type and bytes, put together with those under `keys`; encrypted, as it is."""
    if size is None or "+" in kind:
        return kind, blob
    bases = [stored_value(conn, place, *key) for key in keys]
    if None in bases:
        sys.exit(f"{keys} in {place}: one is missing: restore the file from a backup")
    base = b"".join(data for _, data, _ in bases)
    context, resume = struct.unpack_from("<II", blob) if bases else (0, 0)
    dictionary, options = base[context:resume], {zstd.DecompressionParameter.window_log_max: 31}
    prefix = zstd.ZstdDict(dictionary, is_raw=True).as_prefix if len(dictionary) >= 8 else None
    content = zstd.decompress(blob[8:] if bases else blob, prefix, options)
    if not bases:
        return kind[5:], content
    (head, start, stop, mark), rest = struct.unpack_from("<BIIQ", content, 8), content[25:]
    if content[:8] != blob[:8] or mark != sum(token or 0 for _, _, token in bases) % 2**64:
        sys.exit(f"{keys} in {place}: one is not what it was: restore the file from a backup")
    return kind[5:], rest[:head] + base[start:stop] + rest[head:] + base[resume:]


def stored_value(conn, place, channel, version):
    """The type, bytes and token under a version of a channel; None if no value is stored there."""
    sql = "SELECT token, base, type, blob, size FROM checkpoint_blobs WHERE blob IS NOT NULL"
    key = "thread_id = ? AND checkpoint_ns = ? AND channel = ? AND version = ?"
    for token, base, *row in conn.execute(f"{sql} AND {key}", (*place, channel, version)):
        return *undone(conn, place, *row, [] if base is None else [(channel, base)]), token


def channel_values(conn, place, checkpoint, notes):
    """A checkpoint's values by channel, each as (type, bytes); inline ones as ("inline", value)."""
    values = {channel: ("inline", value) for channel, value in checkpoint["channel_values"].items()}
    versions = checkpoint["channel_versions"].items()
    keys = {channel: str(v) for channel, v in versions if channel not in values} | notes
    stored = {channel: stored_value(conn, place, channel, key) for channel, key in keys.items()}
    return values | {channel: value[:2] for channel, value in stored.items() if value}


def pending_writes(conn, place, checkpoint_id):
    """A checkpoint's pending writes, in their order, as (task id, channel, type, bytes)."""
    sql = "SELECT task_id, channel, base, type, blob, size FROM checkpoint_writes WHERE"
    key = "thread_id = ? AND checkpoint_ns = ? AND checkpoint_id = ? ORDER BY task_path, 1, idx"
    for task_id, channel, base, *row in conn.execute(f"{sql} {key}", (*place, checkpoint_id)):
        yield task_id, channel, *undone(conn, place, *row, json.loads(base or "[]"))


def unpacked(code, data):
    """The value of some msgpack; objects as {type: content}, shown and never made."""
    found = ormsgpack.unpackb(data, ext_hook=unpacked, option=ormsgpack.OPT_NON_STR_KEYS)
    return {".".join(found[:2]): found[2]} if code in range(6) else found


def shown(kind, data):
    """A value as text."""
    if kind == "inline":
        return repr(data)
    read = {"null": lambda _: None, "bytes": bytes, "bytearray": bytes, "json": json.loads}
    read |= {"msgpack": lambda data: unpacked(None, data)} if ormsgpack else {}
    text = repr(read[kind](data)) if kind in read else "encrypted" if "+" in kind else "not shown"
    return f"({kind}, {len(data)} bytes) {text}"


def main(path, thread_id=None, checkpoint_id=None):
    conn = connect(path)
    sql = "SELECT thread_id, checkpoint_ns, count(*), max(checkpoint_id) FROM checkpoints"
    for each in conn.execute(f"{sql} GROUP BY 1, 2") if thread_id is None else ():
        print("thread {!r}, namespace {!r}: {} checkpoints, newest {!r}".format(*each))
    # The root graph's namespace is "", which sorts before those of subgraphs.
    sql = "SELECT checkpoint_ns, checkpoint_id, checkpoint, blob_versions FROM checkpoints WHERE"
    key = "thread_id = ? AND checkpoint_id = ifnull(?, checkpoint_id) ORDER BY 1, 2 DESC LIMIT 1"
    row = conn.execute(f"{sql} {key}", (thread_id, checkpoint_id)).fetchone()
    if row is None:
        sys.exit(thread_id and f"{path}: no such checkpoint: FILE alone shows what there is")
    ns, checkpoint_id, checkpoint, notes = row
    print(f"checkpoint {checkpoint_id!r} in namespace {ns!r}")
    place, notes = (thread_id, ns), json.loads(notes or "{}")
    for channel, value in channel_values(conn, place, json.loads(checkpoint), notes).items():
        print(f"channel {channel!r}: {shown(*value)}")
    for task_id, channel, *value in pending_writes(conn, place, checkpoint_id):
        print(f"pending write of {task_id!r} to {channel!r}: {shown(*value)}")


if __name__ == "__main__":
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(*sys.argv[1:]) if sys.argv[1:] else print(__doc__)
    except (sqlite3.Error, zstd.ZstdError, struct.error, ValueError) as error:
        sys.exit(f"{sys.argv[1]}: {error}. Is it a saver's file, its -wal with it?")
