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
_DECODE: dict[int, int] = {zstd.DecompressionParameter.window_log_max: _LARGEST_LOG}


# What every frame begins with.
MAGIC = b"\x28\xb5\x2f\xfd"

# The most bytes of a value: SQLite's own limit for one that is stored as it is.
MOST_BYTES = 1_000_000_000

# A block of zstd's has at most 128 KB, and takes 4 bytes at least.
_MOST_OF_A_BYTE = 32_768

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

    Raises FrameError unless they are exactly those it was made of. A file may say anything of how
    many they are (`check_bytes`): no memory is taken for more than a frame of that length can hold.
    """
    most = min(most, len(frame) * _MOST_OF_A_BYTE)
    prefix = zstd.ZstdDict(base, is_raw=True).as_prefix if base else None
    decompressor = zstd.ZstdDecompressor(zstd_dict=prefix, options=_DECODE)
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


def check_bytes(count: object) -> int:
    """A number of bytes that a row gives; raises FrameError for one that cannot be."""
    if type(count) is not int or not 0 <= count <= MOST_BYTES:
        raise FrameError(f"it cannot have {count!r:.40} bytes")
    return count
