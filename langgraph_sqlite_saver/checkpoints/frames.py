"""zstd frames (RFC 8878), alone or with other bytes as their dictionary ("patch-from").

A frame that was made with a base holds what the value has and the base has not. Each carries its
checksum: with a wrong base zstd would else decode garbage in silence.
"""

from __future__ import annotations

import sys

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

_Compress = zstd.CompressionParameter

# Level 1: higher ones take a multiple of the time and find little more, as nearly all is the base.
_ALONE: dict[int, int] = {_Compress.compression_level: 1, _Compress.checksum_flag: 1}

# The match finder's table has an entry for every 8 bytes of base and value. Beyond 8 MB such a
# table is slower than long-distance matching, below it is twice as fast.
_SPARSE = 3
_LARGEST_WINDOW = 23
_SMALLEST_LOG, _LARGEST_LOG = 10, 31

# zstd refuses windows over 128 MB, as of frames from strangers, unless it is told.
_USUAL_WINDOW = 27


# What every frame begins with.
MAGIC = b"\x28\xb5\x2f\xfd"

# The most bytes of a value: SQLite's own limit for one that is stored as it is.
MOST_BYTES = 1_000_000_000

# A value of more than a megabyte has at most so many times the bytes of its row, and those of its
# base: what repeats itself more often is stored as it is. So the file's size bounds what a reader
# makes of it.
_FREE = 1_000_000
_MOST_TIMES = 1_000

# The shortest dictionary that zstd takes.
SHORTEST_BASE = 8


class FrameError(Exception):
    """A frame is damaged, or the base is not the one it was made with."""


def compress(data: bytes, base: bytes = b"") -> bytes:
    """A frame of `data`; with a base, of at least SHORTEST_BASE bytes, of what it adds to it."""
    if base:
        compressor = zstd.ZstdCompressor(
            options=_with_base(len(data) + len(base)),
            zstd_dict=zstd.ZstdDict(base, is_raw=True).as_prefix,
        )
    else:
        compressor = zstd.ZstdCompressor(options=_ALONE)
    return compressor.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)


def _with_base(size: int) -> dict[int, int]:
    window = min(max(size.bit_length(), _SMALLEST_LOG), _LARGEST_LOG)
    options = {**_ALONE, _Compress.window_log: window}
    if window > _LARGEST_WINDOW:
        options[_Compress.enable_long_distance_matching] = 1
    else:
        options[_Compress.hash_log] = max(window - _SPARSE, _SMALLEST_LOG)
    return options


def decompress(frame: bytes, most: int, base: bytes = b"") -> bytes:
    """The bytes of a frame, `most` of them at most.

    Raises FrameError unless they are exactly those it was made of. No more are made, nor memory
    taken for a larger window, whatever the frame says.
    """
    prefix = zstd.ZstdDict(base, is_raw=True).as_prefix if base else None
    window = min(max((most + len(base)).bit_length(), _USUAL_WINDOW), _LARGEST_LOG)
    options: dict[int, int] = {zstd.DecompressionParameter.window_log_max: window}
    decompressor = zstd.ZstdDecompressor(zstd_dict=prefix, options=options)
    try:
        data = decompressor.decompress(frame, most)
        # All bytes may be there before the frame's end was seen.
        more = b"" if decompressor.eof else decompressor.decompress(b"", 1)
    except zstd.ZstdError as error:
        raise FrameError(str(error)) from error
    if more:
        raise FrameError(f"the frame holds more than {most} bytes")
    if not decompressor.eof or decompressor.unused_data:
        raise FrameError("the frame is cut off, or something follows it")
    return data


def most_bytes(stored: int, base: int = 0) -> int:
    """How many bytes a value may have whose row has `stored`, and what it rests on `base`."""
    return min(MOST_BYTES, max(_FREE, base + _MOST_TIMES * stored))


def check_bytes(count: object, stored: int, base: int = 0) -> int:
    """The bytes of a value as its row says; FrameError where those that are stored cannot be it."""
    if type(count) is not int or not 0 <= count <= most_bytes(stored, base):
        said = f"{count:,}" if type(count) is int else f"{count!r:.40}"
        raise FrameError(f"its row has {stored:,} bytes, and says that the value has {said}")
    return count
