"""What is saved: checkpoints shaped like those that LangGraph makes of a chat agent.

Everything is generated before the clock starts, from a seed, and given to every contestant.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from langchain_core.messages import AIMessage, AnyMessage
from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import Checkpoint, CheckpointMetadata
from langgraph.checkpoint.base.id import uuid6
from langgraph.checkpoint.memory import InMemorySaver
from langgraph.checkpoint.serde.jsonplus import JsonPlusSerializer

VOCABULARY = (
    "agent answer approval before branch budget call channel city compare contract customer data "
    "delivery draft during estimate evening failure forward graph however invoice keep language "
    "later ledger library market memory message minute monday never number offer open order paper "
    "parcel person plan price question reason refund report result review search seven shipping "
    "state street summary table task tool under user version warehouse weather window write year"
)
WORDS = VOCABULARY.split()
SERDE = JsonPlusSerializer()
VERSIONS = InMemorySaver()


@dataclass(frozen=True)
class Pair:
    """One superstep's worth of saving: a checkpoint, then the writes of one of its tasks."""

    config: RunnableConfig
    checkpoint: Checkpoint
    metadata: CheckpointMetadata
    new_versions: dict[str, str | int | float]
    writes: Sequence[tuple[str, Any]]
    task_id: str
    task_path: str = "~__pregel_pull, agent"

    @property
    def thread_id(self) -> str:
        return str(self.config["configurable"]["thread_id"])

    @cached_property
    def saved_config(self) -> RunnableConfig:
        """The config under which the checkpoint is found, as `put` returns it."""
        return config_of(self.thread_id, self.checkpoint["id"])

    @cached_property
    def checkpoint_row(self) -> tuple[str | bytes | None, ...]:
        """The checkpoint in bytes, a row of the official saver's table."""
        parent = self.config["configurable"].get("checkpoint_id")
        checkpoint = SERDE.dumps_typed(self.checkpoint)
        metadata = SERDE.dumps_typed(self.metadata)[1]
        return (self.thread_id, "", self.checkpoint["id"], parent, *checkpoint, metadata)

    @cached_property
    def write_rows(self) -> list[tuple[str | bytes | int, ...]]:
        """The writes in bytes, rows of the official saver's table."""
        key = (self.thread_id, "", self.checkpoint["id"], self.task_id, self.task_path)
        return [
            (*key, index, channel, *SERDE.dumps_typed(value))
            for index, (channel, value) in enumerate(self.writes)
        ]


def config_of(thread_id: str, checkpoint_id: str | None = None) -> RunnableConfig:
    """The config of a thread's newest checkpoint, or of one by its id."""
    configurable = {"thread_id": thread_id, "checkpoint_ns": ""}
    if checkpoint_id is not None:
        configurable["checkpoint_id"] = checkpoint_id
    return {"configurable": configurable}


def encode(pairs: Iterable[Pair]) -> None:
    """Make the bytes of the pairs now, so that bare sqlite3 is timed without it."""
    for pair in pairs:
        _ = pair.checkpoint_row, pair.write_rows


class Thread:
    """The steps of one thread, each the child of the one before."""

    def __init__(self, thread_id: str) -> None:
        self._thread_id = thread_id
        self._step = -1
        self._parent: str | None = None
        self._values: dict[str, Any] = {}
        self._versions: dict[str, str | int | float] = {}
        self._seen: dict[str, dict[str, str | int | float]] = {"__input__": {}}

    def step(self, changed: dict[str, Any], writes: Sequence[tuple[str, Any]]) -> Pair:
        """The next checkpoint, in which the `changed` channels have new values."""
        self._see_task()
        self._step += 1
        self._values = {**self._values, **changed}
        new_versions = self._bump(changed)
        pair = Pair(
            config=config_of(self._thread_id, self._parent),
            checkpoint=self._checkpoint(sorted(changed)),
            metadata={"source": "loop", "step": self._step, "parents": {}},
            new_versions=new_versions,
            writes=writes,
            task_id=str(uuid6(clock_seq=self._step)),
        )
        self._parent = pair.checkpoint["id"]
        return pair

    def _see_task(self) -> None:
        if version := self._versions.get("branch:to:agent"):
            self._seen = {**self._seen, "agent": {"branch:to:agent": version}}

    def _bump(self, changed: Iterable[str]) -> dict[str, str | int | float]:
        newest = max(self._versions.values(), default=None)
        version = VERSIONS.get_next_version(newest, None)  # type: ignore[arg-type]
        new_versions: dict[str, str | int | float] = dict.fromkeys(changed, version)
        self._versions = {**self._versions, **new_versions}
        return new_versions

    def _checkpoint(self, updated: list[str]) -> Checkpoint:
        return {
            "v": 4,
            "id": str(uuid6(clock_seq=self._step)),
            "ts": f"2026-01-01T00:00:00.{self._step:06}+00:00",
            "channel_values": self._values,
            "channel_versions": self._versions,
            "versions_seen": self._seen,
            "updated_channels": updated,
        }


Message = dict[str, Any] | AnyMessage


def chat(
    thread_id: str,
    steps: int,
    *,
    writes: int = 0,
    state_bytes: int = 1_500,
    message: Callable[[random.Random], Message] | None = None,
    files_bytes: int = 0,
) -> list[Pair]:
    """A chat agent that keeps its newest messages, about `state_bytes`, and four more channels.

    Each step brings one message and counts; a step has `writes` pending writes, or two and three
    in turn. Files, `files_bytes` of them, are loaded at the first step and stay as they are.
    """
    rng = random.Random(f"chat {thread_id}")
    thread = Thread(thread_id)
    new_message = message or plain_message
    size = len(SERDE.dumps_typed(new_message(rng))[1])
    messages = [new_message(rng) for _ in range(state_bytes // size)]
    values: dict[str, Any] = {
        "documents": [text(rng, 60) for _ in range(4)],
        "user": "customer 4711, language en",
    }
    if files_bytes:
        values["files"] = {f"notes/{n}.md": text(rng, 5_000) for n in range(files_bytes // 5_000)}
    pairs = []
    for turn in range(steps):
        new = new_message(rng)
        messages = [*messages[1:], new]
        values |= {"messages": messages, "turns": turn, "tokens": 150 * turn}
        values["branch:to:agent"] = None
        written = [("messages", [new]), ("turns", turn + 1), ("branch:to:agent", None)]
        pairs.append(thread.step(values, written[: writes or 2 + turn % 2]))
        values = {}
    return pairs


def plain_message(rng: random.Random, size: int = 180) -> Message:
    """A message as a dict, with `size` characters of content."""
    return {
        "type": rng.choice(("human", "ai", "tool")),
        "id": f"{rng.getrandbits(64):016x}",
        "content": text(rng, size),
        "usage": {"input": rng.randrange(4_000), "output": rng.randrange(400)},
    }


def long_message(rng: random.Random) -> Message:
    """A message as a dict, with 1 KB of content, as tools return."""
    return plain_message(rng, 1_000)


def langchain_message(rng: random.Random) -> Message:
    """A message as LangChain's agents keep them: an object, which takes long to decode."""
    return AIMessage(content=text(rng, 1_000), id=f"{rng.getrandbits(64):016x}")


def wide(thread_id: str, steps: int, *, writes: bool) -> list[Pair]:
    """Eight channels of 2 KB, lists of strings and numbers, of which one changes at each step."""
    rng = random.Random(f"wide {thread_id}")
    thread = Thread(thread_id)
    changed = {f"notes_{channel}": _notes(rng) for channel in range(8)}
    pairs = []
    for step in range(steps):
        written = list(changed.items())[:1] if writes else []
        pairs.append(thread.step(changed, written))
        changed = {f"notes_{step % 8}": _notes(rng)}
    return pairs


def _notes(rng: random.Random) -> list[str | int]:
    """About 2 KB once encoded."""
    return [item for _ in range(16) for item in (text(rng, 120), rng.randrange(1_000_000))]


def text(rng: random.Random, size: int) -> str:
    """English-looking words, `size` characters of them."""
    return " ".join(rng.choices(WORDS, k=size // 4))[:size]
