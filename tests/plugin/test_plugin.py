"""The pytest plugin: a fresh database for each test, found by itself once installed."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import asyncio
import pytest

MADE = {"v": 4, "id": "1", "ts": "", "channel_values": {"a": [1]}, "channel_versions": {"a": 1},
        "versions_seen": {}}
CONFIG = {"configurable": {"thread_id": "t", "checkpoint_ns": ""}}


@pytest.mark.parametrize("turn", [1, 2])
def test_each_test_has_a_fresh_one(sqlite_saver, turn):
    assert sqlite_saver.get_tuple(CONFIG) is None
    sqlite_saver.put(CONFIG, MADE, {}, {"a": 1})
    assert sqlite_saver.get(CONFIG)["channel_values"] == {"a": [1]}


@pytest.mark.parametrize("turn", [1, 2])
def test_async_too(async_sqlite_saver, turn):
    async def scenario():
        assert await async_sqlite_saver.aget_tuple(CONFIG) is None
        await async_sqlite_saver.aput(CONFIG, MADE, {}, {"a": 1})
        return await async_sqlite_saver.aget(CONFIG)

    assert asyncio.run(scenario())["channel_values"] == {"a": [1]}


def test_both_in_one_test_are_apart(sqlite_saver, async_sqlite_saver, tmp_path):
    sqlite_saver.put(CONFIG, MADE, {}, {"a": 1})
    assert async_sqlite_saver.get_tuple(CONFIG) is None
    assert sqlite_saver.database.path.parent == tmp_path


def test_one_that_is_not_used_makes_no_file(sqlite_saver, tmp_path):
    assert list(tmp_path.iterdir()) == []
"""


def test_the_fixtures_work_in_a_fresh_test_file(pytester: pytest.Pytester) -> None:
    """Without any conftest, with warnings as errors, in a process of its own."""
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-W", "error", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=6)


def test_the_fixtures_are_listed_with_what_they_are(pytester: pytest.Pytester) -> None:
    """`pytest --fixtures` tells."""
    result = pytester.runpytest_subprocess("--fixtures")
    result.stdout.fnmatch_lines_random(
        ["sqlite_saver*", "*`SqliteSaver` on a file*", "async_sqlite_saver*"]
    )


UNUSED = """
import sys


def test_nothing_of_it_is_used():
    slow = {"langchain_core", "langgraph.checkpoint", "aiosqlite", "langgraph_sqlite_saver.saver"}
    assert "langgraph_sqlite_saver.pytest_plugin" in sys.modules
    assert not slow & set(sys.modules)
"""


def test_a_project_that_does_not_use_the_fixtures_imports_neither_langchain_nor_langgraph(
    pytester: pytest.Pytester,
) -> None:
    """The plugin is loaded in every project of the environment."""
    pytester.makepyfile(UNUSED)
    pytester.runpytest_subprocess("-p", "no:cacheprovider").assert_outcomes(passed=1)
