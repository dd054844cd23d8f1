"""Taking keys over from Redis: reading them as they are, and keeping what differs."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import redis

from ..database import Database
from . import audit, commands, keys, layout, outbox, projection, server, trash, values
from .asking import Ask, ask
from .keys import Row
from .layout import Place
from .projection import fields_of, is_whole
from .times import Buckets
from .values import Value

# Keys that are read and stored together.
BATCH = 200
# Redis tells how long a key has left, not until when: what differs by less is the same time, in ms.
JITTER = 2000
# How often to read what a stream got while it was read, before all of it is read again.
_TRIES = 3
# Who put a record into the trash, for the audit log, where nobody is said to take it over.
_ACTOR = "redis"


@dataclass(frozen=True, repr=False)  # it may hold secrets
class Found:
    """A key as Redis holds it; without a value it is not there."""

    key: bytes
    value: Value | None
    expires_at: int | None = None


@dataclass
class Taken:
    """What came of some keys.

    `left` alone were those of which something newer is saved here, or waits for Redis; `deleted`
    here were so many, and stay so. `remnants` are records that Redis has no more: a request that
    was under way has written single fields of them. What is known of them stays.
    """

    keys: int = 0
    changed: int = 0
    api_keys: int = 0
    accounts: int = 0
    deleted: int = 0
    left: list[bytes] = field(default_factory=list)
    missing: list[bytes] = field(default_factory=list)
    remnants: list[bytes] = field(default_factory=list)

    @property
    def skipped(self) -> int:
        """How many keys were left alone."""
        return len(self.left) + self.deleted

    def add(self, other: Taken) -> None:
        """Count another portion too."""
        self.keys += other.keys
        self.changed += other.changed
        self.api_keys += other.api_keys
        self.accounts += other.accounts
        self.deleted += other.deleted
        self.left += other.left
        self.missing += other.missing
        self.remnants += other.remnants


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
        additions_only: bool = False,
        was_deleted: Callable[[bytes], bool] | None = None,
    ) -> Taken:
        """Read these keys in Redis and keep what differs; keys that are not there are returned.

        `additions_only`: what is known stays as it is, and indexes only grow. `guard` is called
        when they have been read and before they are kept: it raises if what was read must not be.
        Left alone are keys that are short-lived, that were deleted here, and that wait in the
        outbox: Redis has an older state of those.

        Of an actor, deletions are mirrored where a record was and is a remnant: it goes to the
        trash. `was_deleted` tells which of them were deleted; else all were, unless Redis evicts.
        """
        total = Taken()
        wanted = [name for name in dict.fromkeys(names) if layout.is_lasting(name)]
        for start in range(0, len(wanted), BATCH):
            before = self._database.read(keys.revision)
            found = self.look(wanted[start : start + BATCH])
            if guard is not None:
                guard()
            run = self._database.read if dry_run else self._database.write
            options = _Options(before, self._buckets, actor, dry_run, additions_only)
            taken = run(_store, found, options)
            mirrors_deletions = actor is not None or was_deleted is not None
            if taken.remnants and mirrors_deletions and not dry_run:
                self._discard_deleted(taken, found, options, was_deleted)
            total.add(taken)
            if not dry_run:
                for each in found:
                    if each.value is not None and each.value.type == "stream":
                        self._take_entries(each.key, guard)
        return total

    def _discard_deleted(
        self,
        taken: Taken,
        found: Sequence[Found],
        options: _Options,
        was_deleted: Callable[[bytes], bool] | None,
    ) -> None:
        """Move records that were deleted into the trash, and keep what was written since apart."""
        now, known = keys.now_ms(), self._database.read(keys.rows, taken.remnants)
        if was_deleted is not None:
            deleted = [key for key in known if was_deleted(key)]
        else:
            deleted = [] if server.info(self._client).evicted else list(known)
        gone = [key for key, row in known.items() if key in deleted or row.is_expired(now)]
        if not gone:
            return
        moved = self._database.write(trash.discard, gone, options.actor or _ACTOR, options.before)
        left = [each for each in found if each.key in moved]
        taken.remnants = [key for key in taken.remnants if key not in moved]
        taken.changed += self._database.write(_store, left, options).changed

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
            kind = self._kind(name)
            if kind not in commands.READABLE:
                return None
            (reply,) = ask(self._client, Ask([commands.read(kind, name)]))
        return values.of_reply(kind, reply)

    def _kind(self, key: bytes) -> str:
        return _word(ask(self._client, Ask([("TYPE", key)]))[0])

    def _stream(self, key: bytes) -> Value | None:
        """A stream's last id and groups."""
        about = commands.describe_stream(key)
        replies = ask(self._client, Ask(about, tolerant=True))
        if any(isinstance(reply, Exception) for reply in replies):
            if self._kind(key) != "stream":  # it is gone, or another, just now
                return None
            replies = ask(self._client, Ask(about))  # or this user may not look at it
        last, groups = replies
        return Value("stream", (last, *(part for group in groups for part in group)))

    def _take_entries(self, key: bytes, guard: Callable[[], object] | None) -> None:
        """Keep a stream's new entries, page by page; let go of those that it has no more."""
        if self._database.read(keys.kind_of, key) != "stream":  # it was left alone
            return
        for _ in range(_TRIES):
            after = self._database.read(_last_entry, key)
            while page := self._entries(key, after, guard):
                self._database.write(keys.put_entries, key, page)
                after = values.stream_id(page[-1][0])
            if self._has_all(key, guard):
                return
        after, start = None, b""
        while page := self._entries(key, after, guard):
            self._database.write(_replace_entries, key, start, page)
            start = page[-1][0]
            after = values.stream_id(start)
        if guard is not None:
            guard()
        self._database.write(_cut_entries, key, start)

    def _has_all(self, key: bytes, guard: Callable[[], object] | None) -> bool:
        """Whether as many of a stream's entries are kept as it has, once its end was cut here too.

        The relay cuts its streams all the time, and all of one is much to read.
        """
        asked = [("XLEN", key), commands.read_stream(key, None, 1)]
        length, oldest = ask(self._client, Ask(asked))
        if length == self._database.read(keys.count_entries, key):
            return True
        if guard is not None:
            guard()
        for id, _ in oldest:
            self._database.write(_cut_older_entries, key, values.stream_member(id))
        return bool(length == self._database.read(keys.count_entries, key))

    def _entries(
        self, key: bytes, after: bytes | None, guard: Callable[[], object] | None
    ) -> list[tuple[bytes, bytes]]:
        (page,) = ask(self._client, Ask([commands.read_stream(key, after)]))
        if guard is not None:
            guard()
        return [(values.stream_member(id), values.pack_list(parts)) for id, parts in page]


def _word(reply: Any) -> str:
    return reply.decode() if isinstance(reply, bytes) else str(reply)


def _last_entry(conn: sqlite3.Connection, key: bytes) -> bytes | None:
    query = "SELECT max(id) FROM redis_entries WHERE key = ?"
    (last,) = conn.execute(query, (key,)).fetchone()
    return values.stream_id(last) if last else None


def _replace_entries(
    conn: sqlite3.Connection, key: bytes, start: bytes, page: Sequence[tuple[bytes, bytes]]
) -> None:
    """Have these entries, and no others, between `start` and the last of them."""
    query = "DELETE FROM redis_entries WHERE key = ? AND id > ? AND id <= ?"
    conn.execute(query, (key, start, page[-1][0]))
    keys.put_entries(conn, key, page)


def _cut_older_entries(conn: sqlite3.Connection, key: bytes, first: bytes) -> None:
    """Have no entries before the first one."""
    conn.execute("DELETE FROM redis_entries WHERE key = ? AND id < ?", (key, first))


def _cut_entries(conn: sqlite3.Connection, key: bytes, last: bytes) -> None:
    """Have no entries behind the last one."""
    conn.execute("DELETE FROM redis_entries WHERE key = ? AND id > ?", (key, last))


@dataclass(frozen=True)
class _Options:
    before: int
    buckets: Buckets
    actor: str | None
    dry_run: bool
    additions_only: bool


def _store(conn: sqlite3.Connection, found: Sequence[Found], options: _Options) -> Taken:
    """Keep what differs from what is known; not where that may be newer than what was found."""
    taken = Taken()
    waiting = outbox.named_keys(conn)
    buried = outbox.buried_keys(conn)
    moved = keys.revision(conn) != options.before
    known = keys.rows(conn, [each.key for each in found])
    held = dict(zip(known, keys.values_of(conn, list(known.values())), strict=True))
    number = None
    for each in found:
        if each.value is None:
            taken.missing.append(each.key)
            continue
        row, old = known.get(each.key), held.get(each.key)
        newer = moved and (
            layout.is_index(each.key) or (row is not None and row.revision > options.before)
        )
        if each.key in buried:
            taken.deleted += 1
            continue
        if newer or each.key in waiting:
            taken.left.append(each.key)
            continue
        taken.keys += 1
        _count(taken, each.key)
        each = _without_deleted(each, buried)
        if old is not None and options.additions_only:
            each = replace(each, value=_united(each.key, old, each.value))
        if each.value is None or (row is not None and _is_same(row, old, each)):
            continue
        if _is_remnant(each, old):
            taken.remnants.append(each.key)
            continue
        taken.changed += 1
        if not options.dry_run:
            number = number or keys.next_revision(conn)
            _keep(conn, row, old, each, number, options)
    return taken


def _is_remnant(found: Found, old: Value | None) -> bool:
    """Whether single fields, written by a request that was under way, are where a record was."""
    if old is None or found.value is None or found.value.type != "hash":
        return False
    place = layout.place(found.key)
    if place is None:
        return False
    return is_whole(place, old) and not is_whole(place, found.value)


def _without_deleted(found: Found, buried: set[bytes]) -> Found:
    """Without the members of an index that stand for records which were deleted here."""
    value = found.value
    if value is None or not buried or not layout.is_index(found.key):
        return found
    living = [m for m in value.members() if layout.record_of(found.key, *m) not in buried]
    if len(living) == len(value.members()):
        return found
    return replace(found, value=values.of_members(value.type, living) if living else None)


def _united(key: bytes, old: Value, there: Value | None) -> Value | None:
    """What is known, and of an index what Redis has too."""
    if there is None or there.type != old.type or not layout.is_index(key):
        return old
    return values.of_members(old.type, (dict(old.members()) | dict(there.members())).items())


def _count(taken: Taken, key: bytes) -> None:
    place = layout.place(key)
    if place is not None:
        taken.api_keys += place.family == "api_key"
        taken.accounts += place.family == "account"


def _is_same(row: Row, old: Value | None, found: Found) -> bool:
    return old == found.value and same_time(row.expires_at, found.expires_at)


def same_time(one: int | None, other: int | None) -> bool:
    """Whether two keys expire at the same time, as far as Redis tells."""
    if one is None or other is None:
        return one is other
    return abs(one - other) < JITTER


def _keep(
    conn: sqlite3.Connection,
    row: Row | None,
    old: Value | None,
    found: Found,
    number: int,
    options: _Options,
) -> None:
    value = found.value
    assert value is not None
    place = layout.place(found.key)
    if row is not None and old is not None and _is_replaced(place, row, old, value):
        trash.put(conn, row, old, options.actor or _ACTOR, keys.now_ms())
        row = old = None
    elif row is not None and old is not None and projection.begins_anew(found.key, old, value):
        # It was deleted, and a request that was under way counted on.
        trash.keep(conn, row, old, keys.now_ms())
        old = None if place is not None and place.family == "stats" else old
    if row is not None and row.type != value.type:
        keys.remove(conn, found.key)
    if value.type == "stream" and old is not None and _began_anew(old, value):
        keys.remove(conn, found.key)
    known = old.members() if old is not None and row is not None and row.blob is None else ()
    keys.put(conn, found.key, value, found.expires_at, number, known=known)
    if place is None:
        return
    is_record = place.family in ("api_key", "account")
    if is_record and not is_whole(place, value):  # a key like any other
        return
    projection.project(conn, place, old, value, options.buckets)
    if options.actor is not None and is_record:
        before = None if old is None else fields_of(place, old)
        action = "create" if before is None else "update"
        kind = place.account_type or "api_key"
        after = fields_of(place, value)
        audit.note(conn, options.actor, action, kind, place.id, before, after)


def _is_replaced(place: Place | None, row: Row, old: Value, new: Value) -> bool:
    """Whether a record was overwritten with what is another one, or none."""
    if place is None or not is_whole(place, old):
        return False
    return row.type != new.type or not is_whole(place, new)


def _began_anew(old: Value, new: Value) -> bool:
    """Whether a stream's ids started again."""
    return old.type != "stream" or values.stream_member(new.data[0]) < values.stream_member(
        old.data[0]
    )
