"""docs/cli.md is what the commands say of themselves."""

from __future__ import annotations

import re

import pytest

from .reference import LAYOUT, PAGE, commands, page

TEXT = PAGE.read_text(encoding="utf-8")


@pytest.mark.skipif(LAYOUT not in TEXT, reason="it was written with another release of typer")
def test_the_page_is_up_to_date() -> None:
    """`python tests/cli/reference.py` would change nothing."""
    assert page() == TEXT


def test_every_command_is_in_it() -> None:
    """Those of the relay too, with all their options."""
    titles = re.findall(r"^###? langgraph-sqlite ?(.*)$", TEXT, re.MULTILINE)
    assert titles == list(commands()) and {"show", "import", "relay doctor"} < set(titles)
    sections = re.split(r"^###? langgraph-sqlite.*$", TEXT, flags=re.MULTILINE)[1:]
    for section, (name, options) in zip(sections, commands().items(), strict=True):
        for option in options:
            assert re.search(rf"(?<!\S){option}(?![\w-])", section), (name, option)
