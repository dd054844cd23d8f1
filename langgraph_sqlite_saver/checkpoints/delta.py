"""The history of DeltaChannels: writes since the nearest stored value, along the parent chain.

One walk for all channels, nearest ancestor first; it stops when each has found its seed. The
contract is `BaseCheckpointSaver.get_delta_channel_history`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from sqlite3 import Connection
from typing import Any, NamedTuple

from langgraph.checkpoint.base import DeltaChannelHistory, PendingWrite
from langgraph.checkpoint.serde.base import SerializerProtocol

from ..database import InvalidTypeError
from . import sql
from .config import Address, stored_text
from .contents import Contents, Stored
from .damage import again_in_any_text, is_key, load_document
from .errors import DamagedError, SerializationError, placed
from .jsontext import parameter
from .reading import Decoder
from .values import inner, loads


class Ancestor(NamedTuple):
    """A checkpoint on the way from another one to the root."""

    checkpoint_id: str
    checkpoint: dict[str, Any]
    notes: dict[str, str]


class _Missing:
    """Stands for: nothing is stored here."""


_MISSING = _Missing()


def ancestors(
    conn: Connection,
    thread_id: str,
    checkpoint_ns: str,
    checkpoint_id: str,
    *,
    past_damage: bool = False,
) -> Iterator[Ancestor]:
    """A checkpoint's ancestors, its parent first; ends at the root or where one is missing.

    One that cannot be read raises DamagedError, or, `past_damage`, has nothing in it.
    """
    seen: set[str] = set()  # saving an id again under its own descendant makes a loop
    # A cursor left open in the traceback of an error would hold its snapshot as long as that lasts.
    place = (thread_id, checkpoint_ns)
    with closing(conn.execute(sql.WALK_ANCESTORS, (*place, checkpoint_id, *place))) as walk:
        for ancestor_id, text, notes in walk:
            if ancestor_id in seen:
                return
            if seen:
                try:
                    found = load_document((*place, ancestor_id), text, notes)
                except DamagedError:
                    if not past_damage:
                        raise
                    found = ({"channel_versions": {}, "channel_values": {}}, {})
                yield Ancestor(ancestor_id, *found)
            seen.add(ancestor_id)


class Seeds:
    """Looks up stored values of one namespace; a version is asked for once."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self._absent: set[tuple[str, str]] = set()

    def find(self, channel: str, at: Ancestor) -> Any:
        """The value at a checkpoint: a blob's row, inline as it is, or _MISSING."""
        inline = at.checkpoint.get("channel_values") or {}
        key = at.notes.get(channel)
        if key is None:
            if channel in inline:
                return inline[channel]
            version = at.checkpoint["channel_versions"].get(channel)
            if version is None:
                return _MISSING
            key = str(version)
        if (channel, key) in self._absent:
            return _MISSING
        row = self._contents.find(channel, key)
        if row is None or row.blob is None:
            self._absent.add((channel, key))
            return _MISSING
        return row

    def holds(self, channel: str, at: Ancestor) -> bool:
        """Whether the channel has a value stored at a checkpoint."""
        return self.find(channel, at) is not _MISSING


def checked_channels(channels: Any) -> list[str]:
    """Channel names as a list; a bare string, whose letters would be taken for them, is refused."""
    if not channels:
        return []
    if isinstance(channels, str) or not isinstance(channels, Iterable):
        raise InvalidTypeError(f"channels must be a sequence of channel names, not {channels!r}")
    names = list(channels)
    if not all(isinstance(name, str) for name in names):
        raise InvalidTypeError(f"channels must be a sequence of channel names, not {channels!r}")
    return [stored_text(name, "channel") for name in names]


@again_in_any_text
def get_history(
    conn: Connection, decoder: Decoder, place: Address, channels: Sequence[str]
) -> Mapping[str, DeltaChannelHistory]:
    """Each channel's writes, oldest first, and the value they start from, if one is stored.

    Raises SerializationError, as a rule DamagedError, that names the checkpoint asked for or the
    ancestor that cannot be read.
    """
    serde = decoder.serde
    history: dict[str, DeltaChannelHistory] = {channel: {"writes": []} for channel in channels}
    checkpoint_id = place.checkpoint_id or _head_id(conn, place)
    if checkpoint_id is None:
        return history
    contents = Contents(conn, serde, place[:2], decoder.history)
    seeds = Seeds(contents)
    chain_length: dict[str, int] = {}
    chain: list[str] = []
    open_channels = set(channels)
    try:
        for ancestor in ancestors(conn, *place[:2], checkpoint_id):
            chain.append(ancestor.checkpoint_id)
            for channel in list(open_channels):
                value = seeds.find(channel, ancestor)
                if value is _MISSING:
                    continue
                if isinstance(value, Stored):  # inline values are JSON's
                    blob = contents.learn(value)
                    value = loads(inner(serde), channel, *blob)
                history[channel]["seed"] = value
                chain_length[channel] = len(chain)
                open_channels.discard(channel)
            if not open_channels:
                break
        _add_writes(conn, serde, contents, place, history, chain, chain_length)
    except SerializationError as error:
        named = placed(error, (*place[:2], checkpoint_id))
        raise named from named.__cause__
    return history


def _head_id(conn: Connection, place: Address) -> str | None:
    row = conn.execute(sql.SELECT_HEAD, place[:2]).fetchone()
    return row[2] if row else None


def _add_writes(
    conn: Connection,
    serde: SerializerProtocol,
    contents: Contents,
    place: Address,
    history: dict[str, DeltaChannelHistory],
    chain: list[str],
    chain_length: Mapping[str, int],
) -> None:
    """Replay starts with the writes of the seed's own checkpoint: they made its child."""
    writes: dict[tuple[str, str], list[PendingWrite]] = {}
    parameters = (*place[:2], parameter(chain), parameter(list(history)))
    found = conn.execute(sql.SELECT_WRITES_OF_CHAIN, parameters).fetchall()
    for checkpoint_id, task_id, channel, *columns in found:
        if not is_key(task_id):
            raise contents.damaged_write(channel)
        write = (
            task_id,
            channel,
            loads(inner(serde), channel, *contents.written(channel, *columns)),
        )
        writes.setdefault((checkpoint_id, channel), []).append(write)
    for channel, entry in history.items():
        for checkpoint_id in reversed(chain[: chain_length.get(channel, len(chain))]):
            entry["writes"].extend(writes.get((checkpoint_id, channel), ()))
