"""The process that is killed: a server that has imported everything and opened nothing, and forks
a child for each line it reads.

    python tests/stress/victim.py

A line is the JSON of a `Task`; the answers are the child's pid, then how it ended. The child works
until it is killed, and notes each operation that returned in a file of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sys
import threading
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))

from langgraph_sqlite_saver import AsyncSqliteSaver, SqliteSaver
from stress import steps

# Copied all the time, so that kills strike there too.
SMALL_WAL = {"wal_autocheckpoint": 20}


@dataclass(frozen=True)
class Task:
    """What a child does: `workers` threads (or tasks) on one saver, each with its own program.

    Every fourth stores whole values, so that its successors go on with differences from those.
    """

    kind: str
    path: str
    notes: str
    seed: int
    workers: int

    @property
    def history(self) -> Any:
        return "compact" if self.seed % 4 else "full"

    def text(self) -> str:
        return json.dumps(asdict(self))


class Op(NamedTuple):
    """A call of a saver, its arguments fixed."""

    name: str
    arguments: tuple[Any, ...]
    options: dict[str, Any] = {}  # noqa: RUF012


def program(task: Task, worker: int) -> Iterator[Op]:
    """The worker's endless program: the same for everyone who knows the seed."""
    chance = random.Random(f"{task.seed} {worker}")
    thread = f"{task.seed} {worker}"
    copy = f"{thread} copy"
    n = 0
    while True:
        yield Op("put", steps.put_arguments(thread, n))
        for number in range(chance.randrange(3)):
            writes = steps.writes_at(thread, n)
            yield Op("put_writes", (steps.config_of(thread, n), writes, f"task {number}"))
        n += 1
        what = chance.random()
        if what < 0.15:
            yield Op("prune", ([thread],), {"keep_last": chance.randrange(1, 4)})
        elif what < 0.25:
            yield Op("delete_for_runs", ([f"{thread} run {(n - 1) // 10}"],))
        elif what < 0.4:
            yield Op("copy_thread", (thread, copy))
        elif what < 0.5:
            yield Op("delete_thread", (copy,))
        elif what < 0.6:
            yield Op("compact", ([thread, copy],))


def work(task: Task) -> None:
    """Work until killed; after each operation its worker's number goes to the notes."""
    notes = os.open(task.notes, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    if task.kind == "sync":
        saver = SqliteSaver(task.path, history=task.history, pragmas=SMALL_WAL)
        for worker in range(1, task.workers):
            threading.Thread(target=_work_in_thread, args=(saver, task, worker, notes)).start()
        _work_in_thread(saver, task, 0, notes)
    else:
        asyncio.run(_work_in_loop(task, notes))


def _work_in_thread(saver: SqliteSaver, task: Task, worker: int, notes: int) -> None:
    with _ending_on_errors():
        for op in program(task, worker):
            getattr(saver, op.name)(*op.arguments, **op.options)
            os.write(notes, bytes([worker]))


async def _work_in_loop(task: Task, notes: int) -> None:
    saver = AsyncSqliteSaver(task.path, history=task.history, pragmas=SMALL_WAL)

    async def run(worker: int) -> None:
        with _ending_on_errors():
            for op in program(task, worker):
                await getattr(saver, f"a{op.name}")(*op.arguments, **op.options)
                os.write(notes, bytes([worker]))

    await asyncio.gather(*[run(worker) for worker in range(task.workers)])


class _ending_on_errors:
    """An error ends the child at once, and not by a signal, so that the test sees it."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is not None:
            traceback.print_exception(kind, error, trace)
            sys.stderr.flush()
            os._exit(3)


def serve() -> None:
    """Fork a child for each line, and tell its pid and its end."""
    for line in sys.stdin:
        task = Task(**json.loads(line))
        pid = os.fork()
        if pid == 0:
            with _ending_on_errors():
                work(task)
            os._exit(0)
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


if __name__ == "__main__":
    serve()
