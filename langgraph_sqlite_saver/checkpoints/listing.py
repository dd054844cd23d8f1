"""Listing checkpoints: filters as parameters, pages by key, nothing held between pages."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from sqlite3 import Connection
from typing import Any, NamedTuple

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import CheckpointTuple

from ..database import InvalidInputError, InvalidTypeError, logs
from . import jsontext, sql
from .config import address_of, checked_limit, checkpoint_id_of, configurable
from .damage import again_in_any_text, is_key, load_metadata
from .errors import SerializationError, placed
from .reading import Decoder, Row, load_page

_FILTER_KEY = re.compile(r"[a-zA-Z0-9_-]+(\.[a-zA-Z0-9_-]+)*\Z")

# Small: the sizes are not known yet, and a page of large states is much work at once.
FIRST_PAGE = 5
LARGEST_PAGE = 256
# What a page should hold of stored bytes: enough to amortise a hop, little enough to stay small.
PAGE_BYTES = 1_000_000


class Cursor(NamedTuple):
    """The last checkpoint of a page; rowids would not do, VACUUM renumbers them."""

    checkpoint_id: str
    thread_id: str
    checkpoint_ns: str


class Page(NamedTuple):
    """Some checkpoints, and where and how to go on; `cursor` is None at the end.

    In the place of one that cannot be read is the error that says so.
    """

    tuples: list[CheckpointTuple | SerializationError]
    cursor: Cursor | None
    next_size: int


@dataclass
class Query:
    """Which checkpoints to list."""

    where: list[str] = field(default_factory=list)
    parameters: list[Any] = field(default_factory=list)
    # One namespace of one thread comes in order from its index; else only keys are sorted.
    in_order: bool = False
    # What JSON text cannot compare: whole objects and arrays, by path.
    exact: list[tuple[list[str], Any]] = field(default_factory=list)
    limit: int | None = None

    def add(self, predicate: str, *parameters: Any) -> None:
        """One more condition."""
        self.where.append(predicate)
        self.parameters.extend(parameters)

    def add_filter(self, predicate: str, *parameters: Any) -> None:
        """A condition on the metadata. Where that is damaged it may hold: the row is not left out
        in silence.
        """
        self.add(f"CASE WHEN json_valid(metadata) THEN {predicate} ELSE 1 END", *parameters)

    def page(self, cursor: Cursor | None, size: int) -> tuple[str, list[Any]]:
        """The statement for the page behind `cursor`."""
        where, parameters = list(self.where), list(self.parameters)
        if cursor is not None:
            marks, keys = zip(*map(_bound, cursor), strict=True)
            if self.in_order:
                where.append(f"checkpoint_id < {marks[0]}")
                parameters.append(keys[0])
            else:
                where.append(
                    f"checkpoint_id <= {marks[0]} AND (checkpoint_id < {marks[0]} "
                    f"OR (thread_id, checkpoint_ns) > ({marks[1]}, {marks[2]}))"
                )
                parameters += [keys[0], *keys]
        condition = f"WHERE {' AND '.join(where)}" if where else ""
        template = sql.LIST_IN_ORDER if self.in_order else sql.LIST_BY_KEYS
        return template.replace("{condition}", condition), [*parameters, size]


def _bound(key: Any) -> tuple[str, Any]:
    """A key as a parameter: text that is not UTF-8, of a damaged row, goes by its bytes."""
    if type(key) is not str or is_key(key):
        return "?", key
    return "CAST(? AS TEXT)", key.encode("utf-8", "surrogateescape")


def prepare_list(
    config: RunnableConfig | None,
    filter: dict[str, Any] | None,
    before: RunnableConfig | None,
    limit: int | None,
) -> Query:
    """Check the arguments of `list` and make a query of them."""
    query = Query(limit=checked_limit(limit))
    if config is not None:
        place = address_of(config)
        query.add("thread_id = ?", place.thread_id)
        if configurable(config).get("checkpoint_ns") is not None:
            query.add("checkpoint_ns = ?", place.checkpoint_ns)
            query.in_order = True
        if place.checkpoint_id is not None:
            query.add("checkpoint_id = ?", place.checkpoint_id)
    if (newest := checkpoint_id_of(before)) is not None:
        query.add("checkpoint_id < ?", newest)
    if filter is not None and not isinstance(filter, Mapping):
        raise InvalidTypeError(f"filter must be a dict, not {type(filter).__name__}")
    for key, value in (filter or {}).items():
        _add_filter(query, key, value)
    return query


def _add_filter(query: Query, key: str, value: Any) -> None:
    """Keys are checked and quoted, values bound; dots nest, None also matches a missing key."""
    if not isinstance(key, str) or not _FILTER_KEY.match(key):
        raise InvalidInputError(
            f"Invalid filter key: {key!r}. Filter keys hold letters, digits, underscores and "
            "hyphens, and dots between the keys of nested objects."
        )
    parts = key.split(".")
    path = "$" + "".join(f'."{part}"' for part in parts)
    if not isinstance(value, (int, float)):
        value = _as_stored(value)
    if value is None:
        query.add_filter("json_extract(metadata, ?) IS NULL", path)
    elif isinstance(value, dict):
        query.add_filter("json_type(metadata, ?) = 'object'", path)
        query.exact.append((parts, value))
    elif isinstance(value, list):
        query.add_filter("json_type(metadata, ?) = 'array'", path)
        query.exact.append((parts, value))
    elif isinstance(value, int) and abs(value) >= 2**63:  # SQLite has no such numbers
        query.exact.append((parts, value))
    else:
        query.add_filter(
            "json_type(metadata, ?) NOT IN ('object', 'array') AND json_extract(metadata, ?) = ?",
            path,
            path,
            value,
        )


def _as_stored(value: Any) -> Any:
    """What metadata of that value reads back as: dates and enums are text, say."""
    return jsontext.load_metadata(jsontext.dump_metadata({"filter": value}))["filter"]


@again_in_any_text
def fetch_page(
    conn: Connection, decoder: Decoder, query: Query, cursor: Cursor | None, size: int
) -> Page:
    """The checkpoints behind `cursor`, `size` rows of them before `exact` sorts some out."""
    statement, parameters = query.page(cursor, size)
    columns = conn.execute(statement, parameters).fetchall()
    last = columns[-1] if len(columns) == size else None
    behind = Cursor(last[2], last[0], last[1]) if last else None
    tuples: list[CheckpointTuple | SerializationError]
    try:
        found, weight = _load(conn, decoder, query, columns)
        tuples = [*found]
    except SerializationError:  # of one of them: which, and what of the others?
        tuples, weight = _load_each(conn, decoder, query, columns)
    weight += sum(len(text) for each in columns for text in each[4:6] if isinstance(text, str))
    return Page(tuples, behind, _next_size(size, len(columns), weight))


def _load(
    conn: Connection, decoder: Decoder, query: Query, columns: Sequence[Any]
) -> tuple[list[CheckpointTuple], int]:
    rows = [row for row in map(Row.of, columns) if _matches(query, row)]
    return load_page(conn, decoder, rows) if rows else ([], 0)


def _load_each(
    conn: Connection, decoder: Decoder, query: Query, columns: Sequence[Any]
) -> tuple[list[CheckpointTuple | SerializationError], int]:
    tuples: list[CheckpointTuple | SerializationError] = []
    weight = 0
    for each in columns:
        try:
            found, more = _load(conn, decoder, query, [each])
            tuples += found
            weight += more
        except SerializationError as error:
            tuples.append(placed(error, each))
    return tuples, weight


def _matches(query: Query, row: Row) -> bool:
    if not query.exact:
        return True
    metadata = load_metadata(row[:3], row.metadata)
    return all(_lookup(metadata, path) == value for path, value in query.exact)


def _lookup(metadata: Any, path: list[str]) -> Any:
    for part in path:
        if not isinstance(metadata, dict) or part not in metadata:
            return None
        metadata = metadata[part]
    return metadata


def _next_size(size: int, loaded: int, weight: int) -> int:
    """Pages grow while checkpoints are small and shrink when they are large."""
    per_row = max(1, weight // max(1, loaded))
    return max(1, min(size * 4, LARGEST_PAGE, PAGE_BYTES // per_row))


class Pages:
    """Walks through a query page by page; the faces differ only in how they fetch one.

    `size` and `cursor` are for the next `fetch_page`; `take` gives what the caller still wants.
    """

    def __init__(self, query: Query) -> None:
        self.query = query
        self.cursor: Cursor | None = None
        self.size = FIRST_PAGE
        self._left = query.limit
        self.done = query.limit == 0
        self._damaged: list[SerializationError] = []
        self._fit()

    def take(self, page: Page) -> Iterator[CheckpointTuple]:
        """The page's checkpoints, up to the limit; sets up the next one.

        After the last page, raises the error of the first checkpoint that could not be read.
        """
        tuples = page.tuples
        if self._left is not None:
            del tuples[self._left :]
            self._left -= len(tuples)
        self.cursor, self.size = page.cursor, page.next_size
        self.done = page.cursor is None or self._left == 0
        self._fit()
        return self._emptying(tuples)

    def _emptying(
        self, tuples: list[CheckpointTuple | SerializationError]
    ) -> Iterator[CheckpointTuple]:
        """One after the other, each let go at once: freeing a page of large states takes long."""
        tuples.reverse()
        while tuples:
            each = tuples.pop()
            if isinstance(each, SerializationError):
                logs.damage.warning("list() leaves out a checkpoint: %s", each)
                self._damaged.append(each)
            else:
                yield each
        if self.done and self._damaged:
            raise self._damaged[0]

    def _fit(self) -> None:
        if self._left and not self.query.exact:
            self.size = min(self.size, self._left)
