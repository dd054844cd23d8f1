"""What programs of `victim.py` make of a file: as the model says it, and as a saver reads it."""

from __future__ import annotations

from typing import Any

from properties.model import Model, exactly

from langgraph_sqlite_saver import SqliteSaver

from .victim import Op, Task


def apply(op: Op, model: Model) -> None:
    """What an operation does, in the model."""
    if op.name == "put":
        config, *rest = op.arguments
        place = config["configurable"]
        model.put((place["thread_id"], ""), place.get("checkpoint_id"), *rest)
    elif op.name == "put_writes":
        config, writes, task = op.arguments
        place = config["configurable"]
        model.put_writes((place["thread_id"], ""), place["checkpoint_id"], writes, task, "")
    elif op.name == "prune":
        model.prune(op.arguments[0][0], op.options["keep_last"])
    elif op.name != "compact":  # what it stores anew is what was there
        getattr(model, op.name)(*op.arguments)


def threads_of(task: Task, worker: int) -> list[str]:
    return [f"{task.seed} {worker}", f"{task.seed} {worker} copy"]


def stored(saver: SqliteSaver, thread: str) -> list[Any]:
    """Everything the thread holds, as the model says it."""
    found = saver.list({"configurable": {"thread_id": thread}})
    return [
        (
            each.config["configurable"]["thread_id"],
            each.checkpoint["id"],
            (each.parent_config or {}).get("configurable", {}).get("checkpoint_id"),
            exactly(each.checkpoint),
            exactly(each.metadata),
            exactly(each.pending_writes),
        )
        for each in found
    ]


def expected(model: Model, thread: str) -> list[Any]:
    """The same of the model."""
    return [
        (
            each.thread,
            each.id,
            each.parent,
            exactly(each.checkpoint),
            exactly(each.metadata),
            exactly(each.writes),
        )
        for each in model.list(thread)
    ]
