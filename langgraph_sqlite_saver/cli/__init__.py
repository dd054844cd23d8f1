"""The command line, `langgraph-sqlite`: a group of commands for each thing the library stores."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import typer

NAME = "langgraph-sqlite"
PACKAGE = "langgraph-sqlite-saver"

# What the extra `relay` brings, by the name under which it is imported.
_EXTRA = {"typer", "rich", "redis", "ormsgpack"}


def main() -> None:
    """Run the command line and end the process: 0 fine, 1 a problem was found, 2 wrong usage."""
    try:
        app = make_app()
    except ModuleNotFoundError as error:
        if error.name not in _EXTRA:
            raise
        sys.exit(_complain(f"{NAME} needs {error.name}: pip install '{PACKAGE}[relay]'"))
    for stream in (sys.stdout, sys.stderr):  # a terminal that knows no Chinese is no reason to fail
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    app(prog_name=NAME)


def make_app() -> typer.Typer:
    """The commands; raises ModuleNotFoundError where the extra `relay` is not installed."""
    import typer

    from . import relay

    # Plain help reads well in 80 columns; pretty tracebacks would show what variables hold.
    app = typer.Typer(
        help="LangGraph's and a relay's data in SQLite.",
        epilog=f"\b\nExample:\n  {NAME} relay stats",
        no_args_is_help=True,
        add_completion=False,
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

    app.add_typer(relay.group, name="relay")
    return app


def _complain(text: str) -> int:
    print(text, file=sys.stderr)
    return 2
