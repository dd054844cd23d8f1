"""Processes of a relay service: forked, for each line read, from one that has imported everything.

    python tests/relay/worker.py

A line starts a process with the JSON of a `Task`, or says `wait` and a pid; the answer is the pid,
or how that process ended. A process notes what returned in a file of its own.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

import redis
from database.helpers import outside

from langgraph_sqlite_saver.database import Database
from langgraph_sqlite_saver.relay import AsyncRelayStore, RelayStore, UsageRecord, logic, outbox
from langgraph_sqlite_saver.relay.commands import Command
from relay.sample import dump

# Threads (or tasks) of a process that is killed, each with records of its own.
WORKERS = 3
# Where a process stops on its way, and by what it goes on (both beside its notes).
STOPPED, GO_ON = ".stopped", ".go"
# Seconds for which a process that was forgotten waits.
PATIENCE = 60
# What a record is called: "api_key", or the type of an account; and its id.
Place = tuple[str, str]
Model = dict[Place, dict[str, Any]]


@dataclass(frozen=True)
class Task:
    """What a process does: the function of this name below."""

    job: str
    path: str
    url: str
    notes: str
    seed: int = 0
    awaited: bool = False
    # How far the one operation of `step` gets, and whether it "die"s there or "stop"s.
    op: str = ""
    point: str = ""
    then: str = ""
    # How often `contend` saves.
    rounds: int = 0

    def text(self) -> str:
        return json.dumps(asdict(self))


# Records.


def secret(id: str, n: int) -> str:
    """The hash of the n-th secret of a key."""
    return hashlib.sha256(f"{id} {n}".encode()).hexdigest()


def key_fields(id: str, n: int, **changed: str) -> dict[str, str]:
    """An API key as its n-th save has it: every field, and its place in the indexes, tells n."""
    return {
        "id": id,
        "name": f"Name {n}",
        "apiKey": secret(id, n),
        "description": f"{n} " * (n % 300),
        "isActive": "true" if n % 3 else "false",
        "tags": json.dumps([f"tag {n % 5}", f"tag {n % 7}"]),
        "createdAt": "2026-11-21T03:04:05.678Z",
        "lastUsedAt": f"2026-11-21T03:{n % 60:02}:00.000Z",
        "icon": f"{n:06}" * (n % 400),
        **changed,
    }


def account_fields(id: str, n: int, **changed: str) -> dict[str, str]:
    """An account as its n-th save has it."""
    return {
        "id": id,
        "name": f"Account {n}",
        "accessToken": f"{n:032x}:{n:064x}",
        "accountType": "shared" if n % 2 else "dedicated",
        "proxy": f"{n} " * (n % 300),
        **changed,
    }


ACCOUNTS = "claude", "openai", "bedrock"


class Op(NamedTuple):
    """A call of a store, its arguments fixed, and the record that it is about."""

    name: str
    place: Place
    arguments: tuple[Any, ...]
    options: dict[str, Any] = {}  # noqa: RUF012


def save(place: Place, fields: dict[str, Any], **options: Any) -> Op:
    if place[0] == "api_key":
        return Op("save_api_key", place, (fields,), options)
    return Op("save_account", place, (place[0], fields), options)


def delete(place: Place) -> Op:
    name = "delete_api_key" if place[0] == "api_key" else "delete_account"
    return Op(name, place, place[1:] if place[0] == "api_key" else place)


def get(place: Place) -> Op:
    name = "get_api_key" if place[0] == "api_key" else "get_account"
    return Op(name, place, place[1:] if place[0] == "api_key" else place)


def fields_at(place: Place, n: int, **changed: str) -> dict[str, Any]:
    kind, id = place
    return key_fields(id, n, **changed) if kind == "api_key" else account_fields(id, n, **changed)


def apply(op: Op, model: Model) -> None:
    """What an operation does, in the model."""
    if op.name.startswith("save"):
        model[op.place] = op.arguments[-1]
    elif op.name.startswith("delete"):
        model.pop(op.place, None)


def program(seed: int, worker: int) -> Iterator[Op]:
    """The worker's endless program: the same for everyone who knows the seed."""
    chance = random.Random(f"{seed} {worker}")
    places = [("api_key", f"{seed}-{worker}-{n}") for n in range(4)]
    places += [(kind, f"{seed}-{worker}-{kind}") for kind in ACCOUNTS]
    for n in count():
        place, what = chance.choice(places), chance.random()
        if what < 0.65:
            lasting = {"ttl": None} if place[0] == "api_key" and n % 4 == 0 else {}
            yield save(place, fields_at(place, n), **lasting)
        elif what < 0.75 and place[0] == "api_key":
            yield save(place, fields_at(place, n, isDeleted="true", isActive="false"))
        elif what < 0.9:
            yield delete(place)
        else:
            yield get(place)


# Calling a store.


class Face:
    """A store's methods by their blocking names, whichever it is."""

    def __init__(self, task: Task, **options: Any) -> None:
        kind = AsyncRelayStore if task.awaited else RelayStore
        self._loop = asyncio.new_event_loop() if task.awaited else None
        self.store: Any = kind(task.path, task.url, **options)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.store, name)
        if self._loop is None:
            return method
        return lambda *args, **kwargs: self._loop.run_until_complete(method(*args, **kwargs))

    def run(self, op: Op) -> Any:
        return getattr(self, op.name)(*op.arguments, **op.options)


class Notes:
    """A file to which a process says what it has done."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def add(self, byte: int) -> None:
        os.write(self._file, bytes([byte]))


# Jobs.


def work(task: Task) -> None:
    """Work until killed; after each operation its worker's number goes to the notes."""
    notes = Notes(task.notes)
    if task.awaited:
        asyncio.run(_work_in_loop(task, notes))
    store = RelayStore(task.path, task.url)
    for worker in range(1, WORKERS):
        threading.Thread(target=_work_in_thread, args=(store, task, worker, notes)).start()
    _work_in_thread(store, task, 0, notes)


def _work_in_thread(store: RelayStore, task: Task, worker: int, notes: Notes) -> None:
    with _ending_on_errors():
        for op in program(task.seed, worker):
            getattr(store, op.name)(*op.arguments, **op.options)
            notes.add(worker)


async def _work_in_loop(task: Task, notes: Notes) -> None:
    store = AsyncRelayStore(task.path, task.url)

    async def run(worker: int) -> None:
        with _ending_on_errors():
            for op in program(task.seed, worker):
                await getattr(store, op.name)(*op.arguments, **op.options)
                notes.add(worker)

    await asyncio.gather(*map(run, range(WORKERS)))


# What an operation of `step` is about: in these tests always the same key and account.
KEY: Place = ("api_key", "the key")
ACCOUNT: Place = ("openai", "the account")
# name -> what is there before, and the call
STEPS: dict[str, tuple[list[Op], Op]] = {
    "a new key": ([], save(KEY, fields_at(KEY, 11))),
    "a changed key": ([save(KEY, fields_at(KEY, 10))], save(KEY, fields_at(KEY, 11))),
    "a soft deleted key": (
        [save(KEY, fields_at(KEY, 10))],
        save(KEY, fields_at(KEY, 10, isDeleted="true", isActive="false")),
    ),
    "a deleted key": ([save(KEY, fields_at(KEY, 10))], delete(KEY)),
    "a key put back": ([save(KEY, fields_at(KEY, 10))], get(KEY)),
    "a new account": ([], save(ACCOUNT, fields_at(ACCOUNT, 11))),
    "a changed account": (
        [save(ACCOUNT, fields_at(ACCOUNT, 11))],
        save(ACCOUNT, fields_at(ACCOUNT, 12)),
    ),
    "a deleted account": ([save(ACCOUNT, fields_at(ACCOUNT, 11))], delete(ACCOUNT)),
}
POINTS = "committed", "told in part", "told"


def step(task: Task) -> None:
    """One operation, which ends or stops at a point on its way."""
    face = Face(task)
    face.open()
    reach = {"die": _die, "stop": _stop}[task.then]
    pending = _arrange(task.point, lambda: reach(task))
    op = STEPS[task.op][1]
    face.run(op)
    while pending and op.name.startswith("get"):  # while Redis was looked at, SQLite answered
        time.sleep(0.002)
        face.run(op)
    face.close()


def _die(task: Task) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop(task: Task) -> None:
    Path(task.notes + STOPPED).touch()
    deadline = time.monotonic() + PATIENCE
    while not Path(task.notes + GO_ON).exists():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _arrange(point: str, reach: Callable[[], None]) -> list[Callable[[], None]]:
    """`reach` is called once: between the commit and Redis, within what Redis is told, or after.

    It is in the list until then.
    """
    pending = [reach]

    def arrive() -> None:
        if pending:
            pending.pop()()

    def begin() -> bool:
        """Whether only a part of it is to be told."""
        if point == "committed":
            arrive()
        return point == "told in part" and bool(pending)

    tell = logic.tell

    def telling(client: Any, commands: Sequence[Command], heard: int = 0) -> list[Any]:
        if begin():
            if some := commands[: len(commands) // 2]:
                tell(client, some, heard)
            arrive()
        return tell(client, commands, heard)

    logic.tell = telling
    if point == "told":
        Database.read = _arriving_first(Database.read, arrive)  # type: ignore[method-assign]
    return pending


def _arriving_first(read: Any, arrive: Callable[[], None]) -> Any:
    def arriving(self: Any, op: Any, *args: Any, **kwargs: Any) -> Any:
        if op is outbox.moved:
            arrive()
        return read(self, op, *args, **kwargs)

    return arriving


CONTENDED: list[Place] = [*(("api_key", f"key {n}") for n in range(3)), ("openai", "an account")]


def contend(task: Task) -> None:
    """Save, soft delete and delete the records that the other processes save too."""
    face, chance = Face(task), random.Random(task.seed)
    for round in range(task.rounds):
        place = chance.choice(CONTENDED)
        n = task.seed * 1000 + round
        what = chance.random()
        if what < 0.75:
            face.run(save(place, fields_at(place, n)))
        elif what < 0.9:
            face.run(delete(place))
        else:
            face.run(get(place))
    face.close()


def read_repair(task: Task) -> None:
    """Let Redis lose records, and read them, until told to end."""
    face, chance = Face(task), random.Random(task.seed)
    client = redis.Redis.from_url(task.url)
    while not Path(task.notes + GO_ON).exists():
        place = chance.choice(CONTENDED)
        client.delete(redis_key(place))
        face.run(get(place))
    client.close()
    face.close()


def redis_key(place: Place) -> str:
    """Where Redis has a record."""
    prefixes = {"api_key": "apikey:", "claude": "claude:account:", "openai": "openai:account:"}
    return prefixes.get(place[0], f"{place[0]}_account:") + place[1]


# Costs that add up without rounding.
USAGE_KEYS = "used", "also used"


def usage_record(seed: int, worker: int, n: int) -> UsageRecord:
    """The n-th request that a worker records."""
    return UsageRecord(
        USAGE_KEYS[n % 2], f"model {n % 3}", f"2026-11-21T{n % 24:02}:00:00.000Z", "an account",
        input_tokens=n, output_tokens=n + worker, cache_read_tokens=3, cost=n / 1024,
        extra={"number": f"{seed} {worker} {n}"},
    )  # fmt: skip


def use(task: Task) -> None:
    """Record usage until killed; each byte of the notes: the worker's next ten are on disk."""
    notes = Notes(task.notes)
    store = RelayStore(task.path, task.url, flush_interval=0.005)

    def record(worker: int) -> None:
        with _ending_on_errors():
            for start in count(0, 10):
                for n in range(start, start + 9):
                    store.record_usage(usage_record(task.seed, worker, n))
                store.record_usage(usage_record(task.seed, worker, start + 9), wait=True)
                notes.add(worker)

    for worker in range(1, WORKERS):
        threading.Thread(target=record, args=(worker,)).start()
    record(0)


class _ending_on_errors:
    """An error ends the process at once, and not by a signal, so that the test sees it."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is not None:
            traceback.print_exception(kind, error, trace)
            sys.stderr.flush()
            os._exit(3)


JOBS = {function.__name__: function for function in (work, step, contend, read_repair, use)}


def serve() -> None:
    """Fork a process for each task, and tell its pid, and when asked how it ended."""
    for line in sys.stdin:
        word, _, rest = line.partition(" ")
        if word == "wait":
            _, status = os.waitpid(int(rest), 0)
            print(os.waitstatus_to_exitcode(status), flush=True)
            continue
        pid = os.fork()
        if pid == 0:
            task = Task(**json.loads(line))
            with _ending_on_errors():
                JOBS[task.job](task)
            os._exit(0)
        print(pid, flush=True)


# The test's side.


class Crew:
    """Starts processes, kills them, and hears how they ended."""

    def __init__(self) -> None:
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._server.__exit__(*exc_info)

    def _tell(self, line: str) -> int:
        assert self._server.stdin is not None and self._server.stdout is not None
        print(line, file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())

    def start(self, task: Task) -> int:
        """The pid of a process that does this."""
        return self._tell(task.text())

    def ended(self, pid: int) -> int:
        """The exit code, when it has ended."""
        return self._tell(f"wait {pid}")

    def kill(self, pid: int) -> int:
        """As `ended`, of a process that is killed."""
        os.kill(pid, signal.SIGKILL)
        return self.ended(pid)


def records_in_redis(client: redis.Redis, places: Iterable[Place]) -> Model:
    """These records as Redis has them."""
    found: Model = {}
    for place in places:
        if place[0] == "bedrock":
            if (text := client.get(redis_key(place))) is not None:
                found[place] = json.loads(text)
        elif fields := client.hgetall(redis_key(place)):
            found[place] = {name.decode(): value.decode() for name, value in fields.items()}
    return found


def records_in_sqlite(store: RelayStore) -> Model:
    """All records that SQLite has."""
    found: Model = {("api_key", each["id"]): each for each in store.list_api_keys(limit=10**6)}
    for kind in ACCOUNTS:
        for each in store.list_accounts(kind, limit=10**6):
            found[kind, each["id"]] = each
    return found


def indexes_of(model: Model) -> dict[bytes, Any]:
    """What the relay's readers need beside these records: a dict of each hash, sets of the rest."""
    found: dict[bytes, Any] = {}
    for (kind, id), fields in model.items():
        member = id.encode()
        if kind != "api_key":
            index = redis_key((kind, "index")).encode()
            found.setdefault(index, set()).add(member)
            if fields.get("accountType") == "shared" and kind == "openai":
                found.setdefault(b"shared_openai_accounts", set()).add(member)
            continue
        deleted = fields.get("isDeleted") == "true"
        sets = [b"apikey:idx:all", b"apikey:idx:createdAt", b"apikey:idx:lastUsedAt"]
        if deleted:
            sets.append(b"apikey:set:deleted")
        else:
            found.setdefault(b"apikey:hash_map", {})[fields["apiKey"].encode()] = member
            if fields["isActive"] == "true":
                sets.append(b"apikey:set:active")
        sets += [f"apikey:tag:{tag}".encode() for tag in json.loads(fields["tags"])]
        for name in sets:
            found.setdefault(name, set()).add(member)
        name = fields["name"].lower().encode() + b"\0" + member
        found.setdefault(b"apikey:idx:name", set()).add(name)
    return found


def indexes_in_redis(client: redis.Redis) -> dict[bytes, Any]:
    """The indexes that Redis has, but for the tags that once were."""
    kept = (b"apikey:hash_map", b"apikey:idx:", b"apikey:set:", b"apikey:tag:", b"shared_")
    return {
        key: set(entry.value) if entry.type != "hash" else entry.value
        for key, entry in dump(client).items()
        if key.startswith(kept) or key.endswith(b"index")
    }


def assert_in_step(store: RelayStore, client: redis.Redis, model: Model) -> None:
    """SQLite and Redis both hold these records and no others, with what readers need of them."""
    assert store.diff() == []
    assert records_in_sqlite(store) == model
    assert records_in_redis(client, model) == model
    assert indexes_in_redis(client) == indexes_of(model)


def waiting(path: Path | str) -> int:
    """How many changes may not have reached Redis."""
    return outside(Path(path), "SELECT count(*) FROM outbox")[0][0]


if __name__ == "__main__":
    serve()
