"""Taking keys over from Redis: reading them as they are, and keeping what differs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import redis

from ..database import Database
from . import audit, commands, keys, layout, outbox, projection, values
from .keys import Row
from .projection import fields_of
from .steps import Ask, ask
from .times import Buckets
from .values import Value

# Keys that are read and stored together.
BATCH = 200
# Redis tells how long a key has left, not until when: what differs by less is the same time, in ms.
JITTER = 2000


@dataclass(frozen=True)
class Found:
    """A key as Redis holds it; without a value it is not there."""

    key: bytes
    value: Value | None
    expires_at: int | None = None


@dataclass
class Taken:
    """What came of some keys; `left` alone were those that wait, are newer or were deleted here."""

    keys: int = 0
    changed: int = 0
    api_keys: int = 0
    accounts: int = 0
    left: list[bytes] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)

    @property
    def skipped(self) -> int:
        """How many keys were left alone."""
        return len(self.left)

    def add(self, other: Taken) -> None:
        """Count another portion too."""
        self.keys += other.keys
        self.changed += other.changed
        self.api_keys += other.api_keys
        self.accounts += other.accounts
        self.left += other.left
        self.missing += other.missing


class Mirror:
    """Keeps SQLite's copy of keys; `actor` is named in the audit log, None logs nothing."""

    def __init__(self, database: Database, client: redis.Redis, buckets: Buckets) -> None:
        self._database = database
        self._client = client
        self._buckets = buckets

    def take_over(
        self,
        names: Iterable[bytes],
        *,
        actor: str | None = None,
        dry_run: bool = False,
        guard: Callable[[], object] | None = None,
    ) -> Taken:
        """Read these keys in Redis and keep what differs; keys that are not there are returned.

        `guard` is called when they have been read and before they are kept: it raises if what was
        read must not be. Left alone are keys that are short-lived, that were deleted here, and that
        wait in the outbox: Redis has an older state of those.
        """
        total = Taken()
        wanted = [name for name in dict.fromkeys(names) if layout.is_lasting(name)]
        for start in range(0, len(wanted), BATCH):
            before = self._database.read(keys.revision)
            found = self.look(wanted[start : start + BATCH])
            if guard is not None:
                guard()
            run = self._database.read if dry_run else self._database.write
            total.add(run(_store, found, before, self._buckets, actor, dry_run))
            if not dry_run:
                for each in found:
                    if each.value is not None and each.value.type == "stream":
                        self._take_entries(each.key)
        return total

    def look(self, names: Sequence[bytes]) -> list[Found]:
        """These keys as Redis holds them now."""
        asked: list[commands.Command] = []
        for name in names:
            asked += [("TYPE", name), ("PTTL", name)]
        replies = ask(self._client, Ask(asked)) if asked else []
        now = keys.now_ms()
        kinds = [_word(kind) for kind in replies[::2]]
        ends = [now + ttl if ttl >= 0 else None for ttl in replies[1::2]]
        contents = self._contents(list(zip(names, kinds, strict=True)))
        return [
            Found(name, content, end)
            for name, content, end in zip(names, contents, ends, strict=True)
        ]

    def _contents(self, typed: Sequence[tuple[bytes, str]]) -> list[Value | None]:
        asked = [commands.read(kind, name) for name, kind in typed if kind in commands.READABLE]
        replies = iter(ask(self._client, Ask(asked, tolerant=True)) if asked else ())
        found: list[Value | None] = []
        for name, kind in typed:
            if kind == "stream":
                found.append(self._stream(name))
            elif kind in commands.READABLE:
                found.append(self._of_reply(name, kind, next(replies)))
            else:  # gone, or of a type that only a module knows
                found.append(None)
        return found

    def _of_reply(self, name: bytes, kind: str, reply: Any) -> Value | None:
        if isinstance(reply, Exception):  # its type changed just now
            kind = _word(ask(self._client, Ask([("TYPE", name)]))[0])
            if kind not in commands.READABLE:
                return None
            (reply,) = ask(self._client, Ask([commands.read(kind, name)]))
        return values.of_reply(kind, reply)

    def _stream(self, key: bytes) -> Value | None:
        """A stream's last id and groups."""
        replies = ask(self._client, Ask(commands.describe_stream(key), tolerant=True))
        if any(isinstance(reply, Exception) for reply in replies):
            return None
        last, groups = replies
        return Value("stream", (last, *(part for group in groups for part in group)))

    def _take_entries(self, key: bytes) -> None:
        """Keep a stream's new entries, page by page, and let go of those that it has cut off."""
        first = ask(self._client, Ask([commands.read_stream(key, None, 1)]))[0]
        start = values.stream_member(first[0][0]) if first else b"\xff" * 16
        after = self._database.write(_cut_stream, key, start)
        while True:
            (page,) = ask(self._client, Ask([commands.read_stream(key, after)]))
            if not page:
                return
            entries = [(values.stream_member(id), values.pack_list(parts)) for id, parts in page]
            self._database.write(keys.put_entries, key, entries)
            after = page[-1][0]


def _word(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _cut_stream(conn: sqlite3.Connection, key: bytes, first: bytes) -> bytes | None:
    """Drop entries before the first that Redis has; the last id that is left."""
    conn.execute("DELETE FROM redis_entries WHERE key = ? AND id < ?", (key, first))
    query = "SELECT max(id) FROM redis_entries WHERE key = ?"
    (last,) = conn.execute(query, (key,)).fetchone()
    return values.stream_id(last) if last else None


def _store(
    conn: sqlite3.Connection,
    found: Sequence[Found],
    before: int,
    buckets: Buckets,
    actor: str | None,
    dry_run: bool,
) -> Taken:
    """Keep what differs from what is known; not where that may be newer than what was found."""
    taken = Taken()
    waiting = outbox.named_keys(conn)
    moved = keys.revision(conn) != before
    known = keys.rows(conn, [each.key for each in found])
    number = None
    for each in found:
        if each.value is None:
            taken.missing.append(each.key)
            continue
        taken.keys += 1
        row = known.get(each.key)
        newer = moved and (layout.is_index(each.key) or (row is not None and row.revision > before))
        if newer or each.key in waiting or outbox.is_buried(conn, each.key):
            taken.left.append(each.key)
            continue
        _count(taken, each.key)
        if row is not None and _is_same(conn, row, each):
            continue
        taken.changed += 1
        if not dry_run:
            number = number or keys.next_revision(conn)
            _keep(conn, row, each, number, buckets, actor)
    return taken


def _count(taken: Taken, key: bytes) -> None:
    place = layout.place(key)
    if place is not None:
        taken.api_keys += place.family == "api_key"
        taken.accounts += place.family == "account"


def _is_same(conn: sqlite3.Connection, row: Row, found: Found) -> bool:
    value = found.value
    assert value is not None
    if row.type != value.type or not same_time(row.expires_at, found.expires_at):
        return False
    if row.blob is not None:
        return row.blob == values.pack(value)
    return keys.value_of(conn, row) == value


def same_time(one: int | None, other: int | None) -> bool:
    """Whether two keys expire at the same time, as far as Redis tells."""
    if one is None or other is None:
        return one is other
    return abs(one - other) < JITTER


def _keep(
    conn: sqlite3.Connection,
    row: Row | None,
    found: Found,
    number: int,
    buckets: Buckets,
    actor: str | None,
) -> None:
    value = found.value
    assert value is not None
    old = keys.value_of(conn, row) if row is not None else None
    if row is not None and row.type != value.type:
        keys.remove(conn, found.key)
    if value.type == "stream" and old is not None and _began_anew(old, value):
        keys.remove(conn, found.key)
    keys.put(conn, found.key, value, found.expires_at, number)
    place = layout.place(found.key)
    if place is None:
        return
    projection.project(conn, place, old, value, buckets)
    if actor is not None and place.family in ("api_key", "account"):
        before = None if old is None else fields_of(place, old)
        action = "create" if before is None else "update"
        kind = place.account_type or "api_key"
        audit.note(conn, actor, action, kind, place.id, before, fields_of(place, value))


def _began_anew(old: Value, new: Value) -> bool:
    """Whether a stream's ids started again."""
    return old.type != "stream" or values.stream_member(new.data[0]) < values.stream_member(
        old.data[0]
    )
