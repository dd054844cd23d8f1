"""What people and programs read: lines, tables, JSON, progress.

Results go to stdout, everything else to stderr. Colours and bars are for terminals; in a pipe there
is plain text, nothing of it cut off.
"""

from __future__ import annotations

import json
import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TextIO

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Report = Callable[[int, int], None]

# Seconds between two lines of progress where there is no terminal.
EVERY = 5.0


def say(line: str) -> None:
    """A line of the result, at once."""
    print(clean(line), flush=True)


def say_lines(lines: Iterable[str]) -> None:
    """Many lines of the result, at once."""
    print("\n".join(map(clean, lines)), flush=True)


def say_styled(line: str, style: str) -> None:
    """As `say`, on a terminal in this style of Rich's; the terminal breaks what is too long."""
    if style and is_terminal(sys.stdout):
        Console().print(Text(clean(line), style), soft_wrap=True)
    else:
        say(line)


def width() -> int:
    """How many characters a line may have to be read well: the terminal's, or 100."""
    return Console().width if is_terminal(sys.stdout) else 100


def remark(line: str) -> None:
    """A line that is not the result: an error, a remark, progress."""
    print(clean(line), file=sys.stderr, flush=True)


def document(value: Any) -> None:
    """The result as one JSON document, in ASCII: it arrives whatever the terminal's encoding."""
    print(json.dumps(value, indent=2, default=str), flush=True)


def clean(text: str) -> str:
    """Text that a terminal shows and does not obey: names may hold anything."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def number(value: object) -> str:
    """A number as people read it; nothing for None."""
    if isinstance(value, float):
        return f"{value:,.4f}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "" if value is None else str(value)


def size(count: float) -> str:
    """Bytes as people read them."""
    if count < 1000:
        return f"{count:,.0f} bytes"
    power = min(int(math.log(count, 1000)), 4)
    return f"{count / 1000**power:,.1f} {('KB', 'MB', 'GB', 'TB')[power - 1]}"


def counted(count: int, noun: str) -> str:
    """As "1 key" and "1,234 keys"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


# Tables.


def table(
    headings: Sequence[str],
    rows: Iterable[Sequence[object]],
    right: str = "",
    *,
    whole: bool = False,
) -> None:
    """A table on stdout; `right` has an "r" for each column that is aligned to the right.

    On a terminal, cells that are too long are folded; `whole` ones are not: they can be copied.
    """
    cells = [[clean(number(cell)) for cell in row] for row in rows]
    align = right.ljust(len(headings))
    if is_terminal(sys.stdout) and whole:
        heading, *lines = columns([list(headings), *cells], align)
        say_styled(heading, "bold")
        for line in lines:
            say(line)
    elif is_terminal(sys.stdout):
        _rich_table(headings, cells, align)
    else:
        _plain_table([list(headings), *cells], align)


def is_terminal(stream: TextIO) -> bool:
    """Whether somebody looks at what is written there; no setting of Rich's changes that."""
    return stream.isatty()


def _rich_table(headings: Sequence[str], rows: Iterable[Sequence[str]], align: str) -> None:
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side in zip(headings, align, strict=True):
        shown.add_column(heading, justify="right" if side == "r" else "left", overflow="fold")
    for row in rows:
        shown.add_row(*map(Text, row))  # as text: brackets are no markup
    Console().print(shown)


def _plain_table(rows: Sequence[Sequence[str]], align: str) -> None:
    for line in columns(rows, align):
        print(line)
    sys.stdout.flush()


def columns(rows: Sequence[Sequence[str]], align: str) -> list[str]:
    """Rows as lines whose cells are below each other; nothing is cut off."""
    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(map(_padded, row, widths, align)).rstrip() for row in rows
    ]  # fmt: skip


def _padded(cell: str, width: int, side: str) -> str:
    blank = " " * (width - cell_len(cell))
    return blank + cell if side == "r" else cell + blank


# Progress.


@contextmanager
def progress(doing: str, *, quiet: bool, unit: str = "keys") -> Iterator[Report | None]:
    """Gives a function to call with how much is done, and of how much (0: nobody knows).

    A bar on a terminal, else a line from time to time; None if it is to be quiet.
    """
    if quiet:
        yield None
    elif is_terminal(sys.stderr):
        with _bar(doing, unit) as report:
            yield report
    else:
        yield _lines(doing, unit)


@contextmanager
def _bar(doing: str, unit: str) -> Iterator[Report]:
    columns = (
        TextColumn(doing), BarColumn(), TextColumn("{task.fields[shown]}"), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(doing, total=None, shown="")

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total or None, shown=_how_far(done, total, unit))

        yield report


def _lines(doing: str, unit: str) -> Report:
    last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= EVERY:
            last = time.monotonic()
            remark(f"{doing}: {_how_far(done, total, unit)}")

    return report


def _how_far(done: int, total: int, unit: str) -> str:
    if unit == "bytes":
        return f"{size(done)} of {size(total)}" if total else size(done)
    return f"{done:,} of {total:,} {unit}" if total else f"{done:,} {unit}"
