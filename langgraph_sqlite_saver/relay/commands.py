"""The Redis commands that read and write whole keys; nothing here talks to a server."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Literal

from . import layout
from .values import Member, Value, stream_id, unpack_list

Command = tuple[Any, ...]

# How a key that Redis has already is brought together with what SQLite holds of it:
# "replace" it; keep what is "missing" only, the key itself; add to what has begun anew after a
# "total" loss (counters are added by `add`); or go on from SQLite's state after a "rollback" to an
# older one. "mirrored": so, and SQLite had every change up to then, so that of a record only what
# tells when it was changed makes Redis' later, and not that it was used.
Mode = Literal["replace", "append", "missing", "total", "rollback", "mirrored"]

# One command for a key, whatever its type, so that nobody sees half of it, on a cluster too.
# ARGV: the mode; the type; when it expires (ms since 1970, or nothing); the kind of content; data.
WRITE = """
local key, mode, kind, at, content = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local first = 5
local commands = {string='SET', hash='HSET', list='RPUSH', set='SADD', zset='ZADD'}
local later = {}
local used
local mirrored = mode == 'mirrored'
if mirrored then mode = 'rollback' end
local function is_newer() -- whether a record says itself that Redis has its later state
  for i = first, #ARGV, 2 do
    local tells = ARGV[i] == 'updatedAt' or ARGV[i] == 'lastRefreshAt'
    if tells or (ARGV[i] == 'lastUsedAt' and not mirrored) then
      local now = redis.call('HGET', key, ARGV[i])
      if now and now > ARGV[i + 1] then return true end
    end
  end
  return false
end
local there = mode ~= 'replace' and redis.call('EXISTS', key) == 1
if there and mode == 'missing' then
  local is_record = content == 'record' and redis.call('TYPE', key).ok == 'hash'
  if not is_record or redis.call('HEXISTS', key, 'id') == 1 then return 0 end
  mode = 'total' -- fields that a request left which ended late
end
if there and mirrored and redis.call('TYPE', key).ok ~= kind then
  there, mode = false, 'replace'
end
if there and (mode == 'total' or mode == 'rollback') then
  if redis.call('TYPE', key).ok ~= kind then return 0 end
  local changed = 0
  if content == 'counters' or content == 'sum' then
    if mode == 'total' then return 0 end
    local changed = 0
    for i = first, #ARGV, 2 do
      if content == 'sum' then
        if (tonumber(redis.call('GET', key)) or 0) < (tonumber(ARGV[i]) or 0) then
          redis.call('SET', key, ARGV[i], 'KEEPTTL')
          changed = 1
        end
      else
        local now = redis.call('HGET', key, ARGV[i])
        if not now or (tonumber(now) or 0) < (tonumber(ARGV[i + 1]) or 0) then
          redis.call('HSET', key, ARGV[i], ARGV[i + 1])
          changed = 1
        end
      end
    end
    return changed
  end
  if kind == 'list' then
    local known, fresh = {}, {}
    for i = first, #ARGV do known[ARGV[i]] = (known[ARGV[i]] or 0) + 1 end
    for _, item in ipairs(redis.call('LRANGE', key, 0, -1)) do
      if (known[item] or 0) > 0 then known[item] = known[item] - 1
      else fresh[#fresh + 1] = item end
    end
    local ttl = redis.call('PTTL', key)
    redis.call('DEL', key)
    for i = first, #ARGV do fresh[#fresh + 1] = ARGV[i] end
    for i = 1, #fresh, 4000 do
      redis.call('RPUSH', key, unpack(fresh, i, math.min(i + 3999, #fresh)))
    end
    if content == 'records' then redis.call('LTRIM', key, 0, 199) end
    if ttl > 0 then redis.call('PEXPIRE', key, ttl) end
    return 1
  end
  if kind == 'stream' then
    -- Ids only rise: what began anew goes behind what is restored.
    if mode == 'total' or mode == 'rollback' then
      later = redis.call('XRANGE', key, '-', '+')
      redis.call('DEL', key)
    end
  elseif mode == 'rollback' and not (content == 'record' and is_newer()) then
    if content == 'record' then used = redis.call('HGET', key, 'lastUsedAt') end
    mode = 'replace'
  elseif kind == 'hash' then
    for i = first, #ARGV, 2 do
      changed = math.max(changed, redis.call('HSETNX', key, ARGV[i], ARGV[i + 1]))
    end
    if at ~= '' and redis.call('PTTL', key) == -1 then redis.call('PEXPIREAT', key, at) end
    return changed
  elseif kind == 'set' then
    for i = first, #ARGV do
      changed = math.max(changed, redis.call('SADD', key, ARGV[i]))
    end
    return changed
  elseif kind == 'zset' then
    for i = first, #ARGV, 2 do
      changed = math.max(changed, redis.call('ZADD', key, 'NX', ARGV[i], ARGV[i + 1]))
    end
    return changed
  else
    return 0
  end
end
if mode == 'replace' then redis.call('DEL', key) end
if kind == 'stream' then
  -- The last id, which a deleted entry may have had, and the groups come before the entries.
  local about = tonumber(content) or 0
  local i = first + about
  while i <= #ARGV do
    local count = tonumber(ARGV[i + 1])
    redis.pcall('XADD', key, ARGV[i], unpack(ARGV, i + 2, i + 1 + count))
    i = i + 2 + count
  end
  for _, entry in ipairs(later) do
    redis.pcall('XADD', key, entry[1], unpack(entry[2]))
  end
  if about > 0 then
    if redis.call('EXISTS', key) == 0 then -- all its entries were deleted
      redis.call('XGROUP', 'CREATE', key, 'empty', '0', 'MKSTREAM')
      redis.call('XGROUP', 'DESTROY', key, 'empty')
    end
    for g = first + 1, first + about - 1, 2 do
      redis.pcall('XGROUP', 'CREATE', key, ARGV[g], ARGV[g + 1], 'MKSTREAM')
    end
    redis.pcall('XSETID', key, ARGV[first])
  end
else
  for i = first, #ARGV, 4000 do
    redis.call(commands[kind], key, unpack(ARGV, i, math.min(i + 3999, #ARGV)))
  end
end
if used and used > (redis.call('HGET', key, 'lastUsedAt') or '') then
  redis.call('HSET', key, 'lastUsedAt', used)
end
if at ~= '' then redis.call('PEXPIREAT', key, at) end
return 1
"""

# Sets counters, each only if it is what it was when it was read; the names of those that are not.
# ARGV: for each the field ('': the key is a string), its new text, what was read ('' for nothing).
# Redis 6.2 does not survive INCRBYFLOAT in a script, so sums are made outside.
ADD = """
local key, left = KEYS[1], {}
for i = 1, #ARGV, 3 do
  local field, sum, seen = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local now
  if field == '' then now = redis.call('GET', key) else now = redis.call('HGET', key, field) end
  if (now or '') ~= seen then
    left[#left + 1] = field
  elseif field == '' then
    redis.call('SET', key, sum, 'KEEPTTL')
  else
    redis.call('HSET', key, field, sum)
  end
end
return left
"""

# Raw entries: as a dict, which redis-py makes of XRANGE's reply, a field could come once only.
_READ_STREAM = "return redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])"

# Replies of XINFO are lists of names and values, whose order is not promised.
_NAMED = """
local function named(reply)
  local found = {}
  for i = 1, #reply, 2 do found[reply[i]] = reply[i + 1] end
  return found
end
"""
_STREAM_END = _NAMED + "return named(redis.call('XINFO', 'STREAM', KEYS[1]))['last-generated-id']"
_STREAM_GROUPS = (
    _NAMED
    + """
local groups = {}
for i, group in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local about = named(group)
  groups[i] = {about['name'], about['last-delivered-id']}
end
return groups
"""
)

# Redis takes no command of more than 1,048,576 arguments: a longer value is written by several.
_PIECE = 1_000_000
STREAM_PAGE = 500

_READ = {
    "string": ("GET",),
    "hash": ("HGETALL",),
    "list": ("LRANGE", 0, -1),
    "set": ("SMEMBERS",),
    "zset": ("ZRANGE", 0, -1, "WITHSCORES"),
}

# Types whose content one command tells.
READABLE = frozenset(_READ)


@dataclass(frozen=True, repr=False)  # it may hold secrets
class KeyState:
    """A key as SQLite holds it; without a value it must not be in Redis."""

    key: bytes
    value: Value | None
    expires_at: int | None = None
    entries: tuple[Member, ...] = ()


def read(kind: str, key: bytes) -> Command:
    """The command that reads a key of a type; not for streams."""
    name, *options = _READ[kind]
    return (name, key, *options)


def read_stream(key: bytes, after: bytes | None, count: int = STREAM_PAGE) -> Command:
    """A page of a stream's entries, those after an id."""
    start = b"(" + after if after else b"-"
    return ("EVAL", _READ_STREAM, 1, key, start, count)


def describe_stream(key: bytes) -> list[Command]:
    """Commands that give a stream's last id, and its groups with the ids they have got to."""
    return [("EVAL", _STREAM_END, 1, key), ("EVAL", _STREAM_GROUPS, 1, key)]


def write(state: KeyState, mode: Mode) -> Iterator[Command]:
    """The commands that bring a key to Redis, or remove it there: mostly one."""
    if state.value is None:
        yield ("DEL", state.key)
        return
    for number, (content, piece) in enumerate(_pieces(state)):
        how: Mode = mode if number == 0 else "append"
        # No numbers: hiredis (3.3) does not survive a signal while it packs one.
        expires = b"" if state.expires_at is None else b"%d" % state.expires_at
        yield ("EVAL", WRITE, b"1", state.key, how, state.value.type, expires, content, *piece)


def _pieces(state: KeyState) -> Iterator[tuple[Any, Sequence[Any]]]:
    """What the data are, and the data; in parts if there are very many.

    A stream is never parted: it holds some 100,000 entries at most.
    """
    value = state.value
    assert value is not None
    if value.type == "stream":
        yield b"%d" % len(value.data), [*value.data, *_entries(state.entries)]
        return
    data: Sequence[bytes] = value.data
    if value.type == "zset":  # ZADD wants the score first
        data = [part for member, score in value.pairs() for part in (score, member)]
    content = _content(state.key, value.type)
    for start in range(0, max(len(data), 1), _PIECE):
        yield content, data[start : start + _PIECE]


def _content(key: bytes, kind: str) -> str:
    """What the values mean, where two copies of a key are brought together."""
    if kind == "hash" and key.startswith((b"usage:", b"account_usage:")):
        return "counters"
    if kind == "string" and key.startswith((b"usage:cost:", b"usage:opus:")):
        return "sum"
    if key.startswith(layout.RECORDS):
        return "records"
    place = layout.place(key) if kind == "hash" else None
    return "record" if place is not None and place.family in ("api_key", "account") else ""


def is_counter(state: KeyState) -> bool:
    """Whether a key holds counts, which a relay that lost them begins anew."""
    value = state.value
    return value is not None and _content(state.key, value.type) in ("counters", "sum")


def read_counter(state: KeyState) -> Command:
    """The command that reads what counters have come to."""
    assert state.value is not None
    return read(state.value.type, state.key)


def add(
    state: KeyState, there: Any, only: frozenset[bytes] | None, *, only_if_below: bool
) -> Command | None:
    """The command that adds saved counts to those that are `there`; None if there is nothing to do.

    `only` these fields, where others have been added. `only_if_below`: a counter that has more may
    have been restored, and counted since.
    """
    value = state.value
    assert value is not None
    if value.type == "string":
        seen = {b"": there}
        saved: Iterable[tuple[bytes, bytes]] = [(b"", value.data[0])]
    else:
        flat = there if isinstance(there, dict) else zip(there[::2], there[1::2], strict=True)
        seen, saved = dict(flat), value.pairs()
    wanted: list[bytes] = []
    for field, count in saved:
        total = _sum(count, seen.get(field), only_if_below)
        if total is not None and (only is None or field in only):
            wanted += [field, total, seen.get(field) or b""]
    return ("EVAL", ADD, b"1", state.key, *wanted) if wanted else None


def _sum(saved: bytes, now: bytes | None, only_if_below: bool) -> bytes | None:
    """The text of a count that began anew and what it had come to before; None: it is right."""
    if now is None:
        return saved
    try:
        one, other = Decimal(now.decode()), Decimal(saved.decode())
    except (InvalidOperation, UnicodeDecodeError):
        return None
    if only_if_below and one >= other:
        return None
    return format(one + other, "f").encode()


def _entries(entries: Sequence[Member]) -> Iterator[bytes]:
    """Each entry's id, how many parts it has, and its names and values."""
    for member, packed in entries:
        fields = unpack_list(packed or b"")
        yield stream_id(member)
        yield b"%d" % len(fields)
        yield from fields


def write_member(key: bytes, kind: str, member: bytes, value: Member | None) -> Command:
    """The command that brings one member of a collection to Redis, or removes it there."""
    if value is None:
        return ({"hash": "HDEL", "set": "SREM", "zset": "ZREM"}[kind], key, member)
    if kind == "hash":
        return ("HSET", key, member, value[1])
    if kind == "set":
        return ("SADD", key, member)
    return ("ZADD", key, value[1], member)


def add_member(key: bytes, kind: str, member: Member) -> Command:
    """The command that brings one member of a collection to Redis, if it has none of that name."""
    name, value = member
    if kind == "hash":
        return ("HSETNX", key, name, value)
    return ("SADD", key, name) if kind == "set" else ("ZADD", key, "NX", value, name)


def flat(groups: Iterable[Iterable[Command]]) -> list[Command]:
    """Commands of several keys as one list."""
    return [command for group in groups for command in group]
