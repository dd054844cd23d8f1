"""Frames, differences, chains: what is stored comes back, or is refused, and is never otherwise.

Bytes in, bytes out: no file is needed for it.
"""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

from langgraph_sqlite_saver.checkpoints.differences import difference, parse
from langgraph_sqlite_saver.checkpoints.encoding import (
    DIFFERENCE,
    FRAME,
    SMALL,
    Chain,
    Encoded,
    Link,
    base_of_next,
    encode,
    encode_write,
)
from langgraph_sqlite_saver.checkpoints.frames import (
    MOST_BYTES,
    SHORTEST_BASE,
    FrameError,
    compress,
    decompress,
)

SERDE = JsonPlusSerializer()
many = settings(max_examples=4 * settings().max_examples)


def applied(blob: bytes, base: bytes) -> tuple[bytes, int]:
    """What a difference makes of its base, and the mark of the base that it is meant for."""
    found = parse(blob, MOST_BYTES, lambda start, stop: base[start:stop], len(base))
    head, start, stop, resume, mark, rest = found
    return rest[:head] + base[start:stop] + rest[head:] + base[resume:], mark


def opened(kind: str, blob: bytes, base: bytes, mark: int) -> tuple[str, bytes]:
    """A stored value: its type and bytes."""
    if kind.startswith(DIFFERENCE):
        data, meant = applied(blob, base)
        assert meant == mark
        return kind[len(DIFFERENCE) :], data
    if kind.startswith(FRAME):
        return kind[len(FRAME) :], decompress(blob, MOST_BYTES)
    return kind, blob


def noise(seed: int, size: int) -> bytes:
    """Bytes that do not compress."""
    return random.Random(seed).randbytes(size)


# Repetition, noise and both, from nothing to some KB.
pieces = st.one_of(
    st.binary(max_size=40),
    st.builds(noise, st.integers(0, 5), st.integers(0, 6000)),
    st.builds(bytes.__mul__, st.binary(max_size=3), st.integers(0, 3000)),
)
contents = st.lists(pieces, max_size=4).map(b"".join)
bases = contents.filter(lambda base: len(base) >= 8)


@st.composite
def edited(draw: st.DrawFn, data: bytes) -> bytes:
    """What mostly repeats `data`: some of it cut out, something put in its place."""
    start = draw(st.integers(0, len(data)))
    end = draw(st.integers(start, len(data)))
    return data[:start] + draw(pieces) + data[end:]


# A base, and what may be stored as a difference from it.
pairs = bases.flatmap(lambda base: st.tuples(st.just(base), contents | edited(base)))


@many
@given(pair=pairs)
def test_a_frame_gives_back_what_it_was_made_of(pair: tuple[bytes, bytes]) -> None:
    """Alone and with a base, whatever the two have in common."""
    base, data = pair
    assert decompress(compress(data), len(data)) == data
    assert decompress(compress(data, base), len(data), base) == data


marks = st.integers(0, 2**64 - 1)


@many
@given(pair=pairs, mark=marks, header=st.sampled_from([b"", b"\x93", b"\xdc\0\x20", b"\xde\1\2"]))
def test_a_difference_gives_back_what_it_was_made_of(
    pair: tuple[bytes, bytes], mark: int, header: bytes
) -> None:
    """Also where both begin as lists and maps do, with how many items they have."""
    base, data = pair
    for new, old in [(data, base), (header + data, header + base), (header + data, b"\x95" + base)]:
        assert applied(difference(new, old, mark), old) == (new, mark)


@given(seed=st.integers(0, 5), size=st.integers(4000, 300_000), at=st.floats(0, 1), mark=marks)
def test_a_difference_takes_little_more_than_what_was_put_in(
    seed: int, size: int, at: float, mark: int
) -> None:
    """At any place of the value, its beginning and its end included."""
    base, place = noise(seed, size), int(at * size)
    data = base[:place] + b"what is new" + base[place:]
    found = difference(data, base, mark)
    assert len(found) < 100
    assert applied(found, base) == (data, mark)


@many
@given(pair=pairs, mark=marks, bit=st.integers(0, 2**20), cut=st.integers(1, 2**20))
def test_a_damaged_difference_never_gives_other_bytes(
    pair: tuple[bytes, bytes], mark: int, bit: int, cut: int
) -> None:
    """A flipped bit anywhere; and what is cut off is refused."""
    base, data = pair
    blob = difference(data, base, mark)
    damaged = bytearray(blob)
    position, number = divmod(bit % (8 * len(blob)), 8)
    damaged[position] ^= 1 << number
    try:
        found = applied(bytes(damaged), base)
    except FrameError:
        pass
    else:
        assert found == (data, mark)
    for short in (blob[: -1 - cut % len(blob)], blob[:-1]):
        with pytest.raises(FrameError):
            applied(short, base)


@pytest.mark.parametrize("size", [2**16, 2**20, 2**23, 2**24])
def test_large_values_come_back_from_a_difference(size: int) -> None:
    """Below and above the size from which long-distance matching looks for what repeats."""
    base = noise(1, size)
    data = base[size // 2 :] + b"in between" + base[: size // 2]
    frame = compress(data, base)
    assert len(frame) < size // 100
    assert decompress(frame, size + 10, base) == data


def refused_or(data: bytes, frame: bytes, base: bytes) -> None:
    try:
        found = decompress(frame, MOST_BYTES, base)
    except FrameError:
        return
    assert found == data


@many
@given(pair=pairs, other=contents, how=st.data())
def test_a_wrong_base_never_gives_other_bytes(
    pair: tuple[bytes, bytes], other: bytes, how: st.DataObject
) -> None:
    """Any other base, one like it, none: it is refused, unless nothing was taken from the base."""
    base, data = pair
    frame = compress(data, base)
    for wrong in (other, b"", how.draw(edited(base), "like it")):
        refused_or(data, frame, wrong if len(wrong) >= SHORTEST_BASE else b"")


@given(seed=st.integers(0, 5), size=st.integers(64, 4000), at=st.floats(0, 0.99))
def test_what_rests_on_a_base_is_refused_without_it(seed: int, size: int, at: float) -> None:
    """One byte of the base is enough."""
    base = noise(seed, size)
    frame = compress(base + b"!", base)
    wrong = bytearray(base)
    wrong[int(at * size)] ^= 1
    for each in (bytes(wrong), base[1:], base[:-1], noise(seed + 1, size), b""):
        with pytest.raises(FrameError):
            decompress(frame, MOST_BYTES, each)


@many
@given(pair=pairs, with_base=st.booleans(), bit=st.integers(0, 2**20))
def test_a_flipped_bit_never_gives_other_bytes(
    pair: tuple[bytes, bytes], with_base: bool, bit: int
) -> None:
    """Anywhere in the frame, its header and its checksum included."""
    base, data = pair
    base = base if with_base else b""
    frame = bytearray(compress(data, base))
    position, number = divmod(bit % (8 * len(frame)), 8)
    frame[position] ^= 1 << number
    refused_or(data, bytes(frame), base)


@many
@given(pair=pairs, with_base=st.booleans(), cut=st.integers(1, 2**20), behind=st.binary(min_size=1))
@example(pair=(b"12345678", b""), with_base=True, cut=1, behind=b"\0")
def test_a_frame_cut_off_or_with_something_behind_it_is_refused(
    pair: tuple[bytes, bytes], with_base: bool, cut: int, behind: bytes
) -> None:
    """At any place, down to nothing; another frame behind it counts too."""
    base, data = pair
    base = base if with_base else b""
    frame = compress(data, base)
    for damaged in (frame[: -1 - cut % len(frame)], frame[:-1], frame + behind, frame * 2):
        with pytest.raises(FrameError):
            decompress(damaged, MOST_BYTES, base)


# --- chains


def stored(data: bytes, chain: Chain, version: int) -> tuple[Encoded, Chain]:
    """A version that is encoded as a saver does it, and the chain of the next one."""
    encoded, rest = encode(SERDE, ("bytes", data), chain)
    if encoded.token is None:
        return encoded, ()
    link = Link(f"{version}", encoded.token, encoded.number or 0, "bytes", data)
    return encoded, (link, *rest)


@settings(max_examples=max(5, settings().max_examples // 10))
@given(seed=st.integers(0, 1000), length=st.integers(2, 256))
@example(seed=0, length=256)
def test_any_of_n_versions_comes_back_in_log_n_steps(seed: int, length: int) -> None:
    """Version i rests on i without its lowest set bit, down to the first, which is whole."""
    chance = random.Random(seed)
    data = noise(seed, 256 * 256)  # small values are stored whole more often
    rows: list[tuple[Encoded, bytes]] = []
    chain: Chain = ()
    for version in range(length):
        encoded, chain = stored(data, chain, version)
        assert encoded.number == version
        assert encoded.base == (str(version & (version - 1)) if version else None)
        assert [link.version for link in chain][1:2] == [encoded.base] * bool(version)
        rows.append((encoded, data))
        at = chance.randrange(len(data))
        data = data[:at] + noise(chance.randrange(1000), 20) + data[at + chance.randrange(20) :]
    for version in {*range(max(0, length - 8), length), *chance.sample(range(length), 2)}:
        links = []
        at = version
        while (base := rows[at][0].base) is not None:
            links.append(at)
            at = int(base)
        assert len(links) <= max(version, 1).bit_length()
        found, mark = opened(*rows[at][0][:2], b"", 0)[1], rows[at][0].token
        for each in reversed(links):
            kind, found = opened(*rows[each][0][:2], found, mark or 0)
            assert (kind, found) == ("bytes", rows[each][1])
            mark = rows[each][0].token


@many
@given(numbers=st.sets(st.integers(0, 300), min_size=1, max_size=9))
def test_the_next_base_is_the_one_the_skip_delta_asks_for_or_the_next_older(
    numbers: set[int],
) -> None:
    """Also in chains in which some are missing, as deleting leaves them."""
    ordered = sorted(numbers, reverse=True)
    chain = tuple(Link(str(number), number, number, "", None) for number in ordered)
    wanted = (ordered[0] + 1) & ordered[0]  # i & (i - 1), of the next
    expected = max((number for number in numbers if number <= wanted), default=ordered[-1])
    assert chain[base_of_next(chain)].number == expected


@many
@given(first=bases, rest=st.lists(st.integers(0, 3), min_size=1, max_size=12), how=st.data())
def test_whatever_follows_what_each_version_comes_back(
    first: bytes, rest: list[int], how: st.DataObject
) -> None:
    """Edits, other values, small ones: never larger than it is, what stands alone is the first."""
    chain: Chain = ()
    rows: dict[str | None, tuple[Encoded, bytes]] = {}
    data = first
    for version, kind in enumerate(rest):
        encoded, after = stored(data, chain, version)
        chain = after or chain  # small values leave the chain as it is
        rows[str(version)] = encoded, data
        resting_on, base = rows[encoded.base] if encoded.base else (encoded, b"")
        assert opened(*encoded[:2], base, resting_on.token or 0) == ("bytes", data)
        assert len(encoded.blob) <= len(data)
        assert encoded.size == (len(data) if ":" in encoded.kind else None)
        assert (encoded.token is None) == (len(data) < SMALL)
        data = how.draw(edited(data) if kind else contents, "next")


@many
@given(
    state=st.dictionaries(st.sampled_from("abcd"), contents, max_size=4),
    own=contents,
    channel=st.sampled_from("ab"),
)
def test_a_write_that_carries_the_state_along_rests_on_what_it_names(
    state: dict[str, bytes], own: bytes, channel: str
) -> None:
    """It comes back from the values of the versions it names, in their order."""
    newest = {
        name: Link(f"{len(data)}", number, 0, "bytes", data)
        for number, (name, data) in enumerate(state.items())
        if len(data) >= SMALL
    }
    data = own.join(state.values())
    encoded, links = encode_write(SERDE, channel, ("bytes", data), newest)
    assert bool(links) == (encoded.base is not None)
    assert links.items() <= newest.items()
    base = b"".join(state[name] for name in links)
    mark = sum(link.token for link in links.values())
    assert opened(*encoded[:2], base, mark) == ("bytes", data)
    assert len(encoded.blob) <= len(data)
