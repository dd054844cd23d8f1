"""What Redis lacks of what SQLite holds, and what kind of loss that is; nothing is written."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..database import Database
from . import keys, layout
from .asking import Ask, ask
from .commands import Command
from .keys import Row
from .server import Clients

# Keys that are looked at together.
PAGE = 200


@dataclass
class Restored:
    """What a restore wrote, or would write: keys, and which of them are API keys and accounts.

    `present` keys were there already; `loss` says how much was missing: "none", "missing" (some
    keys), "rollback" (an older copy came back) or "total" (all of its records). A record of which
    Redis has single fields only, as a request leaves them that ends late, is missing.
    """

    keys: int = 0
    api_keys: int = 0
    accounts: int = 0
    present: int = 0
    loss: str = "none"

    def __post_init__(self) -> None:
        self._records = self._records_present = 0

    def count(self, key: bytes, there: bool, is_record: bool) -> None:
        """Count a key."""
        self._records += is_record
        if there:
            self.present += 1
            self._records_present += is_record
            return
        place = layout.place(key)
        self.keys += 1
        self.api_keys += place is not None and place.family == "api_key"
        self.accounts += place is not None and place.family == "account"

    def judge(self, went_back: bool) -> None:
        """Say what kind of loss it is. A relay makes counters anew, but never a whole record."""
        lost = self._records - self._records_present
        if lost == self._records > 0 or (not self._records and self.keys > self.present):
            self.loss = "total"
        elif went_back or lost > self._records_present:
            self.loss = "rollback"
        elif self.keys:
            self.loss = "missing"


def assess(
    database: Database, clients: Clients, keep: Callable[[], object] = lambda: None
) -> Restored:
    """What is missing in Redis; `keep` is called from time to time."""
    found = Restored()
    went_back = False
    for page in pages(database):
        keep()
        asked: list[Command] = [("EXISTS", row.key) for row in page]
        there = dict(zip((row.key for row in page), ask(clients.raw, Ask(asked)), strict=True))
        records = database.read(whole_records, page)
        there.update(_have_their_id(clients, records))
        for row in page:
            found.count(row.key, bool(there[row.key]), row.key in records)
        went_back = went_back or _went_back(database, clients, page, there)
    found.judge(went_back)
    return found


def pages(database: Database) -> Iterator[list[Row]]:
    """The rows that Redis should have, page by page."""
    after = b""
    while page := database.read(keys.page, after, PAGE):
        after = page[-1].key
        now = keys.now_ms()
        if living := [row for row in page if not row.is_expired(now)]:
            yield living


def is_record(key: bytes) -> bool:
    """Whether it is an API key's or an account's own key."""
    place = layout.place(key)
    return place is not None and place.family in ("api_key", "account")


def whole_records(conn: sqlite3.Connection, page: Sequence[Row]) -> list[bytes]:
    """Those of the rows that are records, and have their id where it is a field."""
    return [
        row.key
        for row in page
        if is_record(row.key) and (row.type != "hash" or b"id" in keys.value_of(conn, row).fields())
    ]


def _have_their_id(clients: Clients, names: Sequence[bytes]) -> Iterator[tuple[bytes, bool]]:
    """Whether Redis has these records, by their id; of those that are no hashes, that they exist.

    A hash of which a request that ended late has set a field is no record.
    """
    asked: list[Command] = [("HGET", name, "id") for name in names]
    replies = ask(clients.raw, Ask(asked, tolerant=True)) if asked else []
    for name, reply in zip(names, replies, strict=True):
        yield name, bool(reply)  # an error: a key of another type


def _went_back(
    database: Database, clients: Clients, page: Sequence[Row], there: Mapping[bytes, object]
) -> bool:
    """Whether totals that only rise, or times of changes, are older than they were."""
    marks = database.read(_marks, page)
    asked: list[Command] = [("HGET", key, name) for key, name, _ in marks]
    replies = ask(clients.raw, Ask(asked, tolerant=True)) if asked else []
    return any(
        _is_older(now, saved) or (not now and name in _CHANGES and bool(there[key]))
        for (key, name, saved), now in zip(marks, replies, strict=True)
    )


def _marks(conn: sqlite3.Connection, page: Sequence[Row]) -> list[tuple[bytes, bytes, bytes]]:
    """What tells that a copy is older: (key, field, value)."""
    found = []
    for row in page:
        place = layout.place(row.key)
        if row.type != "hash" or row.blob is None:
            continue
        if row.key == b"usage:global:total":
            names: tuple[bytes, ...] = (b"requests",)
        elif place is not None:
            names = _MARKS.get(place.family, ())
        else:
            continue
        fields = keys.value_of(conn, row).fields()
        found += [(row.key, name, fields[name]) for name in names if fields.get(name)]
    return found


# Times of changes, which a record that has one never lacks again.
_CHANGES = (b"updatedAt", b"lastRefreshAt")
_MARKS = {
    "key_totals": (b"totalRequests",),
    "api_key": (b"updatedAt", b"lastUsedAt"),
    "account": (b"updatedAt", b"lastUsedAt", b"lastRefreshAt"),
}


def _is_older(now: object, saved: bytes) -> bool:
    """Whether a count is lower, or an ISO time earlier, than what was saved."""
    if not isinstance(now, bytes) or not now:
        return False
    if now.isdigit() and saved.isdigit():
        return int(now) < int(saved)
    return now[:4].isdigit() and saved[:4].isdigit() and now < saved
