"""Deleting checkpoints and values of a namespace: looked up first, done then.

Which values a checkpoint has alone, and what rests on them, is known only after all that stay were
read. That takes as long as the thread is long, and is done on a snapshot while others write;
`carry_out` holds the write lock for as long as what goes takes. What came in between it sees by the
rowids: a row that is new, or that changed, is behind the marks (sql.py), and a row that still has
its rowid is what it was. Where that touches what was looked up, it has to be looked up again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from sqlite3 import Connection
from typing import Any

from . import sql
from .damage import any_text, in_any_text, is_key, load_metadata, try_document
from .errors import DamagedError
from .history import Encoder, Place
from .jsontext import parameter
from .rebasing import Key, Rebasing, resting_on
from .values import blob_keys

# How often it is looked up without the lock; then it is with it.
TRIES = 3

_LARGEST_ROWID = 2**63 - 1


class Removal:
    """What is to be deleted from one namespace.

    Args:
        doomed: The checkpoints that go.
        parents: The checkpoints that stay and lose their parent, and the one they get.
        values: The blobs that go if no checkpoint uses them; those of `doomed` are added. None is
            all that there are.
        has_deltas: Whether values may be rebuilt from what goes, once there is one checkpoint more.
        whole: Whether everything goes.
    """

    def __init__(
        self,
        conn: Connection,
        encoder: Encoder,
        place: Place,
        *,
        doomed: Iterable[str] = (),
        parents: Mapping[str, str | None] | None = None,
        values: Iterable[Key] | None = (),
        has_deltas: bool = False,
        whole: bool = False,
    ) -> None:
        self._place = place
        self._doomed = set(doomed)
        self._parents = dict(parents or {})
        self._any_new = has_deltas or whole  # what it cannot be carried out beside
        self._whole = whole
        self._marks = [conn.execute(each).fetchone() for each in sql.SELECT_MARKS]
        found = conn.execute(sql.SELECT_CHECKPOINT_IDS, place).fetchall()
        self._staying = [rowid for each, rowid in found if each not in self._doomed]
        # The rows on which it depends that nothing more goes, and nothing less.
        named = self._doomed | self._parents.keys()
        self._relied = {rowid for each, rowid in found if each in named}
        freed = set() if whole else self._freed(conn, values)
        self._rebasing = Rebasing(conn, encoder, place, freed)

    def _freed(self, conn: Connection, values: Iterable[Key] | None) -> set[Key]:
        """The blobs that no checkpoint which stays uses.

        None, as long as the namespace has a checkpoint that cannot be read: it may be repaired,
        and which blobs are its own cannot be told.
        """
        named = self._keys_of_doomed(conn).union(values or ())
        left = self._all_keys(conn) if values is None else set(named)
        if not left:
            return left
        for rowid, text, notes in conn.execute(sql.SELECT_DOCUMENTS, (parameter(self._staying),)):
            document = try_document(text, notes)
            if document is None:
                return set()
            used = left.intersection(blob_keys(*document).items())
            left -= used
            if not named.isdisjoint(used):  # it keeps them from going
                self._relied.add(rowid)
            if not left:
                break
        return left

    def _keys_of_doomed(self, conn: Connection) -> set[Key]:
        """The blobs that the checkpoints use which go; any, if one of them cannot be read."""
        used: set[Key] = set()
        some = (*self._place, parameter(list(self._doomed)))
        for text, notes in conn.execute(sql.SELECT_SOME, some):
            if (document := try_document(text, notes)) is None:
                return self._all_keys(conn)
            used.update(blob_keys(*document).items())
        return used

    def _all_keys(self, conn: Connection) -> set[Key]:
        found = conn.execute(sql.SELECT_BLOB_KEYS, self._place).fetchall()
        return {key for key in found if all(map(is_key, key))}

    def carry_out(self, conn: Connection) -> None:
        """Delete it."""
        if self._whole:
            for statement in sql.DELETE_NAMESPACE:
                conn.execute(statement, self._place)
            return
        for child, parent in self._parents.items():
            conn.execute(sql.SET_PARENT, (parent, *self._place, child))
        if self._doomed:
            some = (*self._place, parameter(list(self._doomed)))
            # Writes go by the checkpoints deleted: others may have come before theirs is saved.
            conn.execute(sql.DELETE_WRITES_OF_CHECKPOINTS, some)
            conn.execute(sql.DELETE_CHECKPOINTS, some)
        self._rebasing.carry_out(conn)

    def holds(self, conn: Connection) -> bool:
        """Whether what was looked up is as it was, and nothing that came since matters to it."""
        for mark, statement in zip(self._marks, sql.SELECT_MARKED, strict=True):
            if mark is None:
                continue
            if mark[0] == _LARGEST_ROWID:  # new rows get any free rowid: none tells what is new
                return False
            if conn.execute(statement, mark[:1]).fetchone() != mark:
                return False
        relied = (self._relied, self._rebasing.blob_rows, self._rebasing.write_rows)
        for rowids, statement in zip(relied, sql.COUNT_ROWS, strict=True):
            some = (parameter(list(rowids)), *self._place)
            if rowids and conn.execute(statement, some).fetchone() != (len(rowids),):
                return False
        checkpoints, blobs, writes = (
            (mark[0] if mark else 0, *self._place) for mark in self._marks
        )
        freed = self._rebasing.doomed
        return (
            all(map(self._is_apart, conn.execute(sql.CHECKPOINTS_BEHIND, checkpoints)))
            and freed.isdisjoint(conn.execute(sql.BASES_BEHIND, blobs))
            and not any(
                resting_on(base, freed)
                for (base,) in conn.execute(sql.BASES_OF_WRITES_BEHIND, writes)
            )
        )

    def _is_apart(self, columns: tuple[Any, ...]) -> bool:
        """Whether a checkpoint that came since has nothing to do with what goes."""
        *address, parent_id, text, metadata, notes = columns
        document = try_document(text, notes)
        if document is None or self._any_new:
            return False
        try:
            counters = load_metadata(tuple(address), metadata).get("counters_since_delta_snapshot")
        except DamagedError:
            return False
        return (
            not counters
            and self._doomed.isdisjoint((address[2], parent_id))
            and self._rebasing.doomed.isdisjoint(blob_keys(*document).items())
        )


def carry_out(conn: Connection, removals: Sequence[Removal]) -> bool:
    """Delete all of them, or nothing: False, if they have to be looked up again."""
    with any_text(conn):
        if not all(each.holds(conn) for each in removals):
            return False
        for each in removals:
            each.carry_out(conn)
    return True


def at_once(
    conn: Connection, plan: Callable[..., Sequence[Removal]], encoder: Encoder, *args: Any
) -> None:
    """Look up and delete under the lock: where others write all the time."""
    removals = plan(conn, encoder, *args)
    with any_text(conn):
        for each in removals:
            each.carry_out(conn)


@in_any_text
def plan_values(
    conn: Connection, encoder: Encoder, place: Place, values: Iterable[Key] | None
) -> list[Removal]:
    """The blobs among `values`, or of all there are, that no checkpoint uses."""
    return [Removal(conn, encoder, place, values=values)]


def delete_unreferenced(
    conn: Connection, encoder: Encoder, place: Place, values: Iterable[Key] | None
) -> None:
    """Delete them under the lock."""
    at_once(conn, plan_values, encoder, place, values)
