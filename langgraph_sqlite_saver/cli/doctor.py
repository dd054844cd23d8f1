"""Looking a relay's file and its Redis over: what is found, and what to do about it."""

from __future__ import annotations

import shlex
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import redis

from ..database import CannotOpenError, Database, StorageError
from ..database.migrations import applied_version
from ..relay import Difference, RedisUnavailableError, RelayStore, backups, keys, server
from ..relay.asking import Ask, ask
from ..relay.listening import is_told
from ..relay.schema import SCHEMA
from . import output
from .options import for_a_terminal, read_only, size_on_disk
from .place import Place, find

# From here on the guide advises to clear old records, in bytes.
LARGE = 1_000_000_000
# A daily backup that is older has failed twice, in days.
OLD_BACKUP = 2
# Keys that differ are counted up to here.
COUNTED = 1000

# Within these a follower has changes on disk, with notifications and without, in seconds.
_NOTICED, _CAME_ACROSS = 5.0, 65.0
_AGAIN = 0.2

_DAY = 24 * 3600
_RUN = "langgraph-sqlite relay"


@dataclass(frozen=True)
class Finding:
    """Something that was looked at: "ok", a "note" worth reading, or a "problem"."""

    subject: str
    state: Literal["ok", "note", "problem"]
    text: str
    remedy: str = ""


@dataclass(frozen=True)
class Diagnosis:
    """All findings; whether both sides agree (None: nobody can tell), and that as a sentence."""

    findings: list[Finding]
    agree: bool | None
    verdict: str


def examine(place: Place, directory: Path, progress: output.Report | None) -> Diagnosis:
    """Look at everything and change nothing."""
    findings = list(_file(place.path))
    sound = all(each.state != "problem" for each in findings if each.subject in _NEEDED)
    agree, verdict = None, "Whether SQLite and Redis agree is not known: see above."
    # Without a sound file, Redis can be looked at all the same.
    with closing(place.store() if sound else place.store(path=":memory:")) as store:
        about = _reached(store, place, findings)
        if about is not None:
            findings += _server(store)
        if sound:
            store.open()
            findings += _waiting(store)
        if sound and about is not None:
            findings += _source(store, about)
            found = _standing(store, store.diff(limit=COUNTED, progress=progress))
            agree, verdict = not found, _verdict(found)
            findings += _differing(found)
    return Diagnosis([*findings, _backups(directory, place.path)], agree, verdict)


# The file. Without these it is not opened for more.
_NEEDED = {"file", "tables"}


def _file(path: Path) -> Iterator[Finding]:
    try:
        find(path)
        yield _size(path)
        with Database(read_only(path)) as database:
            version = database.read(applied_version, SCHEMA)
            yield _tables(version)
            if version:  # else it is nobody's business here
                yield privacy(path)
                yield from database.read(_contents)
    except (StorageError, sqlite3.Error) as error:
        yield _failed("file", "problem", error)


_RESTORE = f"stop the service, then: {_RUN} restore-backup ARCHIVE"


def _failed(subject: str, state: Literal["note", "problem"], error: Exception) -> Finding:
    """An error with its own remedy; a backup is the one for a damaged file alone."""
    text, _, remedy = for_a_terminal(str(error)).partition(". ")
    if "malformed" in text:
        remedy = _RESTORE
    return Finding(subject, state, text, remedy or "see that it is a relay's file")


def _size(path: Path) -> Finding:
    total = size_on_disk(path)
    text = f"{path} has {output.size(total)}"
    if total > LARGE:
        purge = f"{_RUN} usage --purge-older-than 90, then {_RUN} optimize --vacuum full"
        return Finding("size", "note", text, purge)
    return Finding("size", "ok", text)


def privacy(path: Path) -> Finding:
    """Whether a file that is there is its owner's alone."""
    mode = path.stat().st_mode
    if mode & 0o077:
        others = f"others may read the file: its mode is {mode & 0o777:04o}"
        return Finding("mode", "problem", others, f"chmod 600 {shlex.quote(str(path))}")
    return Finding("mode", "ok", "only its owner may read the file")


def _tables(version: int) -> Finding:
    newest = SCHEMA.newest
    text = f"the tables are at version {version} of {newest}"
    if version == 0:
        return Finding("tables", "problem", "no relay's tables", "name another file with --db")
    if version > newest:
        return Finding("tables", "problem", text, "upgrade langgraph-sqlite-saver")
    if version < newest:
        migrate = f"the next command that writes brings them up to date: {_RUN} optimize"
        return Finding("tables", "problem", text, migrate)
    return Finding("tables", "ok", text)


def _contents(conn: sqlite3.Connection) -> list[Finding]:
    (verdict,) = conn.execute("PRAGMA quick_check(1)").fetchone()
    (dangling,) = conn.execute("SELECT count(*) FROM pragma_foreign_key_check").fetchone()
    if verdict != "ok":
        return [Finding("file", "problem", f"it is damaged: {verdict}", _RESTORE)]
    if dangling:
        rows = f"{output.counted(dangling, 'row')} of records that are not there"
        return [Finding("rows", "problem", rows, f"{_RUN} import-redis, or restore a backup")]
    return [Finding("file", "ok", "it is sound")]


# Redis.


def _reached(store: RelayStore, place: Place, findings: list[Finding]) -> server.ServerInfo | None:
    """What Redis says of itself, if it answers."""
    try:
        about = server.info(store.redis)
    except RedisUnavailableError as error:
        findings.append(Finding("Redis", "problem", f"{place.redis_name}: {error}"))
        return None
    holds = f"{place.redis_name} answers: {about.version}, {output.counted(about.keys, 'key')}"
    findings.append(Finding("Redis", "ok", holds))
    return about


def _server(store: RelayStore) -> Iterator[Finding]:
    nodes = server.nodes(store.redis)
    if all(map(is_told, nodes)):
        yield Finding("notifications", "ok", "Redis tells of changes")
    else:
        enable = f"{_RUN} follow --enable-notifications, if changes are to be followed at once"
        yield Finding("notifications", "note", "Redis does not tell of changes", enable)
    yield _memory(nodes)


def _memory(nodes: list[redis.Redis]) -> Finding:
    policies = {_setting(node, "maxmemory-policy") for node in nodes}
    limited = any(_setting(node, "maxmemory") not in (None, "0") for node in nodes)
    if None in policies:
        look = "see that its maxmemory-policy is noeviction"
        return Finding("eviction", "note", "Redis does not show its settings", look)
    if policies == {"noeviction"}:
        return Finding("eviction", "ok", "Redis drops no keys to save memory")
    named = ", ".join(sorted(each for each in policies if each))
    never = "redis-cli CONFIG SET maxmemory-policy noeviction, and in its configuration file"
    if limited:
        drops = f"Redis may drop keys to save memory: maxmemory-policy {named}"
        return Finding("eviction", "problem", drops, never)
    would = f"with a maxmemory Redis would drop keys: maxmemory-policy {named}"
    return Finding("eviction", "note", would, never)


def _setting(node: redis.Redis, name: str) -> str | None:
    """A setting of a server; None where it does not tell."""
    (reply,) = ask(node, Ask([("CONFIG", "GET", name)], tolerant=True))
    if isinstance(reply, Exception) or len(reply) < 2:
        return None
    return reply[1].decode() if isinstance(reply[1], bytes) else str(reply[1])


# Both.


def _waiting(store: RelayStore) -> Iterator[Finding]:
    waiting, due = store.database.read(_changes)
    if due:
        text = f"{output.counted(due, 'change')} not told to Redis"
        bring = f"a running service brings them; without one: {_RUN} restore-redis"
        yield Finding("outbox", "problem", text, bring)
    elif waiting:
        text = f"{output.counted(waiting, 'change')} of the last minute may be under way to Redis"
        yield Finding("outbox", "ok", text)
    else:
        yield Finding("outbox", "ok", "Redis was told of every change")


def _changes(conn: sqlite3.Connection) -> tuple[int, int]:
    """Changes in the outbox, and those of them that no call is at work on any more."""
    query = "SELECT count(*), coalesce(sum(due_at <= ?), 0) FROM outbox"
    waiting, due = conn.execute(query, (keys.now_ms(),)).fetchone()
    return waiting, due


def _source(store: RelayStore, about: server.ServerInfo) -> Iterator[Finding]:
    known = store.database.read(keys.state, "identity")
    flushes = store.database.read(keys.state, "flushes")
    restore = f"{_RUN} restore-redis"
    if known is None:
        text = "SQLite has taken over nothing from Redis yet"
        yield Finding("source", "note", text, f"{_RUN} import-redis")
    elif known != about.identity:
        text = "Redis was started anew, or is another one, since it was last seen"
        yield Finding("source", "note", text, restore)
    elif flushes != str(about.flushes):
        yield Finding("source", "note", "Redis was flushed since it was last seen", restore)
    else:
        yield Finding("source", "ok", "Redis is the one that was last seen")


def _standing(store: RelayStore, found: list[Difference]) -> list[Difference]:
    """Those that a follower, where there is one, does not bring in step while it is waited for."""
    if not found or not store.database.read(keys.is_followed):
        return found
    names = [each.key for each in found]
    before = store.database.read(_revisions, names)
    patience = _NOTICED if is_told(store.redis) else _CAME_ACROSS
    deadline = time.monotonic() + patience
    moved: set[bytes] = set()
    while len(moved) < len(names) and time.monotonic() < deadline:
        time.sleep(_AGAIN)
        now = store.database.read(_revisions, names)
        moved |= {name for name in names if now.get(name) != before.get(name)}
    still = {each.key for each in store.diff()} - moved
    return [each for each in found if each.key in still]


def _revisions(conn: sqlite3.Connection, names: list[bytes]) -> dict[bytes, int]:
    return {name: row.revision for name, row in keys.rows(conn, names).items()}


def _differing(found: list[Difference]) -> Iterator[Finding]:
    if found:
        see = f"{_RUN} diff shows them; {_RUN} reconcile puts them in step"
        differ = "differs" if len(found) == 1 else "differ"
        yield Finding("keys", "problem", f"{_many(found)} {differ}", see)
    else:
        yield Finding("keys", "ok", "no key differs")


def _many(found: list[Difference]) -> str:
    more = "at least " if len(found) >= COUNTED else ""
    return f"{more}{output.counted(len(found), 'key')}"


def _verdict(found: list[Difference]) -> str:
    if not found:
        return "SQLite and Redis agree."
    kinds = Counter("different" if d.kind == "differs" else d.kind for d in found)
    shown = ", ".join(f"{count:,} {kind}" for kind, count in sorted(kinds.items()))
    return f"SQLite and Redis disagree on {_many(found)}: {shown}."


def _backups(directory: Path, path: Path) -> Finding:
    try:
        made = [each.stat().st_mtime for each in backups.made_of(directory, path)]
    except CannotOpenError as error:
        return _failed("backup", "note", error)
    make = f"{_RUN} backup, daily; if they are elsewhere: doctor --directory DIR"
    if not made:
        return Finding("backup", "note", f"no backup of this file in {directory}", make)
    days = max(0.0, (time.time() - max(made)) / _DAY)
    text = f"the last one in {directory} is {days:.1f} days old"
    if days > OLD_BACKUP:
        return Finding("backup", "problem", text, make)
    return Finding("backup", "ok", text)
