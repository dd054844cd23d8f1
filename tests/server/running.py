"""LangGraph's server as a user starts it: `langgraph dev`, in a directory of its own.

Only processes started here are ended here. The server is told to ask nothing of the internet.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import httpx
from langgraph_sdk import get_sync_client
from langgraph_sdk.client import SyncLangGraphClient

# Seconds until a server that does not answer, or does not end, fails its test.
PATIENCE = 60.0
CONFIG = {"dependencies": ["."], "graphs": {"talk": "./talk.py:graph"}}
PATH = "langgraph_sqlite_saver.server:checkpointer"
OFFLINE = {
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
}
# Every line of the log in one form, and no file left open in silence.
LOUD = {"LOG_JSON": "true", "PYTHONWARNINGS": "default::ResourceWarning"}


def until(done: Callable[[], Any], what: str) -> Any:
    """What `done` returns once that is true; fails, naming `what`, when it never is."""
    deadline = time.monotonic() + PATIENCE
    while not (result := done()):
        assert time.monotonic() < deadline, f"waited {PATIENCE:g} seconds for {what}"
        time.sleep(0.01)
    return result


class LangGraphServer:
    """One `langgraph dev`, which may be started again in the same directory."""

    client: SyncLangGraphClient

    def __init__(self, folder: Path, checkpointer: str = PATH, **variables: str) -> None:
        self.folder = folder
        self.log = folder / "log.jsonl"
        self._variables = variables
        self._process: subprocess.Popen[bytes] | None = None
        self._clients = ExitStack()
        config = {**CONFIG, "checkpointer": {"path": checkpointer}}
        (folder / "langgraph.json").write_text(json.dumps(config))
        shutil.copy(Path(__file__).with_name("talk.py"), folder)

    @property
    def database(self) -> Path:
        """The file that the server keeps checkpoints in."""
        return self.folder / self._variables.get(
            "LANGGRAPH_SQLITE_PATH", ".langgraph_sqlite/checkpoints.db"
        )

    def start(self) -> LangGraphServer:
        """Returns when it answers."""
        command = "langgraph_cli dev --no-browser --no-reload --n-jobs-per-worker 8 --port"
        with self.log.open("ab") as log:
            seen = log.tell()
            self._process = subprocess.Popen(
                [sys.executable, "-m", *command.split(), str(_free_port())],
                cwd=self.folder,
                env=self._environment(),
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        url = until(lambda: self._url(seen), "a server that answers")
        self.client = self._clients.enter_context(get_sync_client(url=url))
        return self

    def _environment(self) -> dict[str, str]:
        foreign = ("LANGGRAPH_", "LANGSMITH_", "LANGCHAIN_")
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
        return {**inherited, **OFFLINE, **LOUD, **self._variables}

    def _url(self, seen: int) -> str | None:
        """Where it answers, as the log after `seen` says: it takes another port if it must."""
        assert self._process and self._process.poll() is None, self.log.read_text()
        said = re.search(rb"API: \S*?(http://[\d.:]+)", self.log.read_bytes()[seen:])
        with suppress(httpx.TransportError):
            if said and httpx.get(f"{(url := said[1].decode())}/ok").is_success:
                return url
        return None

    def stop(self) -> None:
        """Ask it to end, and wait until it has."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it without a word, as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        self._clients.close()
        try:
            process.send_signal(how)
            process.wait(PATIENCE)
        finally:
            # And whatever it may have started: the group is its own.
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def events(self) -> list[dict[str, Any]]:
        """The log's lines; what is no JSON has the level "output"."""
        return [_event(line) for line in self.log.read_text().splitlines()]

    def problems(self) -> list[str]:
        """What the log says that should not be in the log of a healthy server."""
        return [
            str(event)
            for event in self.events()
            if event.get("level") in ("warning", "error", "critical")
            or "exception" in event
            or re.search(r"Warning|Error|Traceback|checkpointer missing", event["event"])
        ]

    def rows(self, column: str, value: str) -> dict[str, int]:
        """How many rows have this value, by table; tables without any are left out."""
        with closing(sqlite3.connect(f"{self.database.as_uri()}?mode=ro", uri=True)) as conn:
            tables = conn.execute(
                "SELECT m.name FROM sqlite_master AS m, pragma_table_info(m.name) AS c "
                "WHERE m.type = 'table' AND c.name = ?",
                (column,),
            ).fetchall()
            assert tables
            counts = {
                name: conn.execute(
                    f"SELECT count(*) FROM {name} WHERE {column} = ?", (value,)
                ).fetchone()[0]
                for (name,) in tables
            }
        return {name: count for name, count in counts.items() if count}


def _event(line: str) -> dict[str, Any]:
    with suppress(json.JSONDecodeError):
        if isinstance(event := json.loads(line), dict):
            return {**event, "event": str(event.get("event", ""))}
    return {"level": "output", "event": line}


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
