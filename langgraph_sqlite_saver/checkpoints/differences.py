"""A value as its difference from another one, its base (docs/storage.md, "Differences").

What the two have in common at their beginning and at their end is left to the base; the rest is a
frame, whose dictionary is what the base has in its place and some of what comes before. Most
changes append: then little more than what is new is compressed and, later, read. The first bytes
of a list or a map say how many items it has, so that the common part begins behind them.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import NamedTuple

from .frames import SHORTEST_BASE, FrameError, compress, decompress

# Before the frame: where its dictionary begins and ends in the base. In the frame, so that its
# checksum holds for them: the same again, `head`, `start`, `stop` and `mark`. Little-endian.
_DICTIONARY = struct.Struct("<II")
PREFACE = _DICTIONARY.size
_PLACES = struct.Struct("<IIBIIQ")

# How much of what comes before a change is in its dictionary: text that resembles it.
_CONTEXT = 65_536

_DISORDER = "the places in the difference are not in their order, or not in its base"


class Difference(NamedTuple):
    """The value is `rest[:head] + base[start:stop] + rest[head:] + base[resume:]`.

    `mark` tells whether a base is the one that is meant.
    """

    head: int
    start: int
    stop: int
    resume: int
    mark: int
    rest: bytes


def difference(data: bytes, base: bytes, mark: int) -> bytes:
    """What turns `base` into `data`."""
    head, start, common = _common_beginning(data, base)
    stop = start + common
    tail = _common_end(data, head + common, base, stop)
    resume = len(base) - tail
    context = max(0, stop - _CONTEXT)
    rest = data[:head] + data[head + common : len(data) - tail]
    places = _PLACES.pack(context, resume, head, start, stop, mark)
    frame = compress(places + rest, _usable(base[context:resume]))
    return _DICTIONARY.pack(context, resume) + frame


def parse(blob: bytes, size: int, base: Callable[[int, int], bytes], base_size: int) -> Difference:
    """Read the difference of a value of at most `size` bytes; `base` gives the base's bytes from
    one place to another, of its `base_size`.

    Raises FrameError where it is damaged, or the base is not the one it was made with. No byte of
    the base is in the value twice, so that it has at most as many as base and frame together.
    """
    try:
        context, resume = _DICTIONARY.unpack_from(blob)
        if not context <= resume <= base_size:
            raise FrameError(_DISORDER)
        frame, dictionary = blob[_DICTIONARY.size :], _usable(base(context, resume))
        content = decompress(frame, _PLACES.size + size, dictionary)
        *again, head, start, stop, mark = _PLACES.unpack_from(content)
    except struct.error as error:
        raise FrameError("the difference is cut off") from error
    rest = content[_PLACES.size :]
    if again != [context, resume]:
        raise FrameError("the difference is damaged")
    if not start <= stop <= resume or head > len(rest):
        raise FrameError(_DISORDER)
    return Difference(head, start, stop, resume, mark, rest)


def _usable(dictionary: bytes) -> bytes:
    return dictionary if len(dictionary) >= SHORTEST_BASE else b""


def _common_beginning(data: bytes, base: bytes) -> tuple[int, int, int]:
    """Where the common beginning starts in both, and how long it is."""
    found = 0, 0, _common(data, 0, base, 0)
    head, start = _size_of_header(data), _size_of_header(base)
    if head and start:
        behind = head, start, _common(data, head, base, start)
        return max(found, behind, key=lambda each: each[2])
    return found


def _size_of_header(data: bytes) -> int:
    """The bytes that say how long a list or map is in MessagePack; 0 for other values."""
    first = data[0] if data else 0
    if 0x80 <= first <= 0x9F:
        return 1
    return {0xDC: 3, 0xDE: 3, 0xDD: 5, 0xDF: 5}.get(first, 0)


def _common(data: bytes, at: int, base: bytes, start: int) -> int:
    """How many bytes are the same in `data` from `at` and in `base` from `start`."""
    view = memoryview(base)
    same, most = 0, min(len(data) - at, len(base) - start)
    if data.startswith(view[start : start + most], at):
        return most
    while most - same > 1:
        middle = (same + most) // 2
        if data.startswith(view[start + same : start + middle], at + same):
            same = middle
        else:
            most = middle
    return same


def _common_end(data: bytes, at: int, base: bytes, start: int) -> int:
    """How many bytes are the same at the ends of `data` from `at` and `base` from `start`."""
    view = memoryview(base)
    same, most = 0, min(len(data) - at, len(base) - start) + 1
    while most - same > 1:
        middle = (same + most) // 2
        if data.endswith(view[len(base) - middle : len(base) - same], 0, len(data) - same):
            same = middle
        else:
            most = middle
    return same
