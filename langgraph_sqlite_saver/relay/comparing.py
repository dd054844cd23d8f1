"""Where SQLite and Redis differ, and putting them in step."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import redis

from ..database import Database
from . import keys, layout, outbox, server, trash
from .asking import Ask, ask
from .keys import Row
from .layout import column
from .logic import Logic
from .mirror import BATCH, Found, Mirror, same_time
from .values import Member, Value

Progress = Callable[[int, int], None]
Kind = Literal["missing in Redis", "missing in SQLite", "differs"]


@dataclass(frozen=True, repr=False)  # a key's name may let requests in
class Difference:
    """A key on which SQLite and Redis disagree; `detail` never shows what either holds."""

    key: bytes
    kind: Kind
    detail: str

    def __str__(self) -> str:
        key = self.key
        if key.startswith(layout.OLD_HASH):  # what follows lets requests in
            key = layout.OLD_HASH + b"(hidden)"
        return f"{column(key)}: {self.kind}" + (f" ({self.detail})" if self.detail else "")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self}>"


class Comparison:
    """Looks at both sides, key by key."""

    def __init__(
        self, database: Database, client: redis.Redis, logic: Logic, mirror: Mirror
    ) -> None:
        self._database = database
        self._client = client
        self._logic = logic
        self._mirror = mirror

    def differences(self, progress: Progress | None = None) -> Iterator[Difference]:
        """Each key that is not the same on both sides; short-lived ones are not looked at."""
        done, total = 0, 0
        if progress is not None:
            total = self._database.read(_count) + server.info(self._client).keys
        after = b""
        while page := self._database.read(keys.page, after, BATCH):
            after = page[-1].key
            yield from self._compare(page)
            done += len(page)
            if progress is not None:
                progress(done, max(total, done))
        seen: set[bytes] = set()
        for names in server.scan(self._client):
            for name in self._database.read(
                keys.unknown, [n for n in names if layout.is_lasting(n)]
            ):
                if name not in seen:
                    seen.add(name)
                    yield Difference(name, "missing in SQLite", "")
            done += len(names)
            if progress is not None:
                progress(done, max(total, done))

    def _compare(self, page: Sequence[Row]) -> Iterator[Difference]:
        now = keys.now_ms()
        living = [row for row in page if not row.is_expired(now)]
        found = self._mirror.look([row.key for row in living])
        held = self._database.read(_values, living)
        for row, value, there in zip(living, held, found, strict=True):
            if value is None or (row.expires_at is not None and row.expires_at <= keys.now_ms()):
                continue
            if there.value is None:
                yield Difference(row.key, "missing in Redis", "")
            elif detail := self._detail(row, value, there):
                yield Difference(row.key, "differs", detail)

    def _detail(self, row: Row, value: Value, there: Found) -> str:
        assert there.value is not None
        if value.type != there.value.type:
            return f"{value.type} in SQLite, {there.value.type} in Redis"
        parts = []
        if value != there.value:
            parts.append(_content(row.key, value, there.value))
        elif value.type == "stream":
            (length,) = ask(self._client, Ask([("XLEN", row.key)]))
            if length != self._database.read(keys.count_entries, row.key):
                parts.append("its entries")
        if not same_time(row.expires_at, there.expires_at):
            parts.append("when it expires")
        return "; ".join(parts)

    def reconcile(self, prefer: str, found: Sequence[Difference]) -> None:
        """Put these keys in step. Nothing is lost: what one side alone has is taken over.

        With "redis" what only SQLite has goes to the trash, for it was deleted there.
        """
        ahead = [d.key for d in found if d.kind == "missing in SQLite"]
        behind = [d.key for d in found if d.kind == "missing in Redis"]
        differing = [d.key for d in found if d.kind == "differs"]
        if prefer == "sqlite":
            deleted = {key for key in ahead if self._database.read(outbox.is_buried, key)}
            new = {key for key in ahead if key not in deleted}
            self._mirror.take_over(new)
            self._take_places_over(new, [key for key in differing if layout.is_index(key)])
            self._bring([*behind, *differing, *deleted])
        else:
            before = self._database.read(keys.revision)
            self._database.write(outbox.give_up, [*ahead, *differing])
            # A record of which Redis has single fields only was deleted there.
            self._mirror.take_over([*ahead, *differing], was_deleted=lambda _: True)
            for start in range(0, len(behind), BATCH):
                part = behind[start : start + BATCH]
                self._database.write(trash.discard, part, "reconcile", before)

    def _take_places_over(self, records: Set[bytes], indexes: Sequence[bytes]) -> None:
        """Keep where these records stand in indexes of Redis, which are to be replaced."""
        for found in self._mirror.look(indexes):
            members = found.value.members() if found.value is not None else []
            places = {
                (found.key, member[0]): member
                for member in members
                if layout.record_of(found.key, *member) in records | {None}
            }
            self._database.write(_add_places, places)

    def _bring(self, names: Sequence[bytes]) -> None:
        for start in range(0, len(names), BATCH):
            changes = tuple((name, None) for name in names[start : start + BATCH])
            self._logic.bring(changes)


def _add_places(
    conn: sqlite3.Connection, places: Mapping[tuple[bytes, bytes], Member | None]
) -> None:
    keys.edit_members(conn, places, keys.next_revision(conn))


def _count(conn: sqlite3.Connection) -> int:
    return int(conn.execute("SELECT count(*) FROM redis_keys").fetchone()[0])


def _values(conn: sqlite3.Connection, page: Sequence[Row]) -> list[Value | None]:
    """What is held now of these rows; None for those that are gone."""
    now = keys.rows(conn, [row.key for row in page])
    held = dict(zip(now, keys.values_of(conn, list(now.values())), strict=True))
    return [held.get(row.key) for row in page]


def _content(key: bytes, one: Value, other: Value) -> str:
    """What differs, by the names of fields, unless those are secrets."""
    if one.type == "hash" and key != layout.HASH_MAP:
        here, there = one.fields(), other.fields()
        names = sorted(n for n in here.keys() | there.keys() if here.get(n) != there.get(n))
        shown = ", ".join(column(name) for name in names[:5])
        return f"fields {shown}" + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    if one.type in ("string", "stream"):
        return "its content"
    return "its members"
