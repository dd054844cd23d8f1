"""The command line, `langgraph-sqlite`: checkpoint files, and a relay's data.

Nothing of Redis or Postgres, and of LangGraph no more than the package itself wants, is imported
before a command needs it: a command works without what others need.
"""

from __future__ import annotations

import logging
import os
import sys
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import typer

NAME = "langgraph-sqlite"
PACKAGE = "langgraph-sqlite-saver"

# What is to be installed for a module that is missing.
_EXTRAS = {
    "typer": f"{PACKAGE}[cli]",
    "rich": f"{PACKAGE}[cli]",
    "ormsgpack": f"{PACKAGE}[cli]",
    "msgpack": f"{PACKAGE}[cli]",
    "redis": f"{PACKAGE}[relay]",
    "psycopg": f"{PACKAGE}[cli,postgres]",
    "psycopg_pool": f"{PACKAGE}[cli,postgres]",
    "langgraph.checkpoint.postgres": f"{PACKAGE}[cli,postgres]",
    "Crypto": "pycryptodome",
}


def main() -> None:
    """Run the command line and end the process.

    0 is fine, 1 a problem was found, 2 wrong usage, 130 Ctrl-C.
    """
    _prepare_streams()
    _prepare_log()
    try:
        make_app()(prog_name=NAME)
    except KeyboardInterrupt:  # before the command has begun
        sys.exit(_complain("Stopped.", 130))
    except ModuleNotFoundError as error:
        name = error.name or ""
        name = name if name in _EXTRAS else name.partition(".")[0]
        wanted = _EXTRAS.get(name)
        if wanted is None:
            raise
        if sys.argv[1:2] == ["relay"]:  # which has an extra of its own, with all it needs
            wanted = f"{PACKAGE}[relay]"
        sys.exit(_complain(f"{NAME} needs {name}: pip install '{wanted}'"))


def _prepare_streams() -> None:
    """Have streams that take any text, also where the caller has closed them."""
    sys.stdin = sys.stdin or open(os.devnull)  # noqa: PTH123, SIM115
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: PTH123, SIM115
        stream.reconfigure(errors="backslashreplace")  # a terminal may know no Chinese
        setattr(sys, name, stream)


def _prepare_log() -> None:
    """Print the warnings that the commands themselves do not print: waits, and the relay's."""
    if logging.lastResort is not None:
        for name in ("locks", "relay"):
            logging.getLogger(f"langgraph_sqlite_saver.{name}").addHandler(logging.lastResort)


def make_app() -> typer.Typer:
    """The commands; raises ModuleNotFoundError where the extra `cli` is not installed."""
    import typer
    from typer.core import TyperGroup

    from . import keeping, looking, transfers

    class Relay(TyperGroup):
        """The relay's commands, imported with their first use: they need Redis' client."""

        def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]
            return _relay().list_commands(ctx)

        def get_command(self, ctx: typer.Context, cmd_name: str) -> Any:  # type: ignore[override]
            return _relay().get_command(ctx, cmd_name)

    # Plain help reads well in 80 columns; pretty tracebacks would show what variables hold.
    app = typer.Typer(
        help="Look into files of LangGraph checkpoints, and after them.",
        epilog=f"\b\nExamples:\n  {NAME} threads agent.db\n  {NAME} show agent.db THREAD",
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 80},
    )

    def show_version(wanted: bool) -> None:
        if wanted:
            typer.echo(f"{NAME} {version(PACKAGE)}")
            raise typer.Exit

    @app.callback()
    def options(
        version: bool = typer.Option(
            False, "--version", help="Show the version.", callback=show_version, is_eager=True
        ),
    ) -> None:
        pass

    for module in (looking, keeping, transfers):
        module.add_to(app)
    app.add_typer(
        typer.Typer(cls=Relay, rich_markup_mode=None, no_args_is_help=True),
        name="relay",
        help="A Claude relay's data: SQLite beside Redis.",
        epilog=f"\b\nExample:\n  {NAME} relay import-redis --redis-url redis://localhost:6379/0",
    )
    return app


def _relay() -> typer.core.TyperGroup:
    from typer.main import get_command

    from . import relay

    return get_command(relay.group)  # type: ignore[return-value]


def _complain(text: str, status: int = 2) -> int:
    print(text, file=sys.stderr)
    return status
