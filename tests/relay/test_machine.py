"""Any sequence of calls leaves what a dict says, whatever becomes of Redis meanwhile."""

from __future__ import annotations

import asyncio
import shutil
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from database.helpers import check_integrity, outside
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from langgraph_sqlite_saver.relay import (
    AsyncRelayStore,
    RelayStore,
    UsageRecord,
    health,
    logic,
)
from langgraph_sqlite_saver.relay import store as relay_store

from .servers import Server, until
from .worker import (
    ACCOUNTS,
    Place,
    account_fields,
    indexes_in_redis,
    indexes_of,
    key_fields,
    secret,
)

IDS = ["a", "b", "ключ *?[x]"]
# How often secrets change, so that some come back.
SECRETS = 3
ids = st.sampled_from(IDS)
kinds = st.sampled_from(ACCOUNTS)
numbers = st.integers(0, 20)
ttls = st.sampled_from([timedelta(days=365), timedelta(days=1), None, timedelta(0)])


class Driver:
    """A store's methods by their blocking names, on a loop of its own where it has to be."""

    def __init__(self, path: Path, url: str, *, awaited: bool) -> None:
        self._loop = asyncio.new_event_loop() if awaited else None
        kind = AsyncRelayStore if awaited else RelayStore
        self._store: Any = kind(path, url)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self._store, name)
        if self._loop is None:
            return method
        return lambda *args, **kwargs: self._loop.run_until_complete(method(*args, **kwargs))

    def shut(self) -> None:
        self.close()
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


class RelayMachine(RuleBasedStateMachine):
    """A store on a file and a server of their own, and the model."""

    def __init__(self, server: Server, *, awaited: bool) -> None:
        super().__init__()
        self.server, self.awaited = server, awaited
        if server.pid is None:
            server.start()
        self.tell("FLUSHALL")
        self.directory = Path(tempfile.mkdtemp(prefix="relay-machine-"))
        self.path = self.directory / "relay.db"
        self.driver = self.open()
        # What is there; what has expired is there for nobody, but has its places in the indexes.
        self.keys: dict[str, dict[str, str]] = {}
        self.accounts: dict[Place, dict[str, Any]] = {}
        self.expired: set[str] = set()
        self.strays = self.evicted = False
        # API keys that have a row, with their requests; requests of others; all, by the key's id.
        self.requests: dict[str, int] = {}
        self.unplaced: dict[str, int] = {}
        self.counted: dict[str, int] = {}

    def open(self) -> Driver:
        return Driver(self.path, self.server.url, awaited=self.awaited)

    def tell(self, *command: Any) -> Any:
        """A command for the server from somebody else."""
        client = self.server.client()
        try:
            return client.execute_command(*command)
        finally:
            self.server.close_clients()

    @property
    def is_up(self) -> bool:
        return self.server.pid is not None

    # API keys.

    @rule(id=ids, n=numbers, ttl=ttls, state=st.sampled_from(["live", "live", "live", "deleted"]))
    def save_key(self, id: str, n: int, ttl: timedelta | None, state: str) -> None:
        """New or changed, for ever or for a time, which may be over; or soft deleted."""
        changed = {"isDeleted": "true", "isActive": "false"} if state == "deleted" else {}
        fields = key_fields(id, n, apiKey=secret(id, n % SECRETS), **changed)
        self.driver.save_api_key(fields, ttl=ttl)
        self.keys[id] = fields
        self.expired.discard(id)
        if ttl == timedelta(0):
            self.expired.add(id)
        self.requests.setdefault(id, 0)
        self.requests[id] += self.unplaced.pop(id, 0)

    @rule(id=ids)
    def delete_key(self, id: str) -> None:
        was_there = self.driver.delete_api_key(id)
        if id not in self.expired:
            assert was_there == (id in self.keys)
        for known in (self.keys, self.requests, self.unplaced):
            known.pop(id, None)
        self.expired.discard(id)

    @rule(limit=st.integers(1, 3))
    def list_keys(self, limit: int) -> None:
        """Page by page, in order."""
        found, page = [], self.driver.list_api_keys(limit=limit)
        while page:
            assert len(page) <= limit
            found += page
            page = self.driver.list_api_keys(limit=limit, after=page[-1]["id"])
        assert [each["id"] for each in found] == sorted(self.living(), key=str.encode)
        assert {each["id"]: each for each in found} == self.living()

    def living(self) -> dict[str, dict[str, str]]:
        return {id: fields for id, fields in self.keys.items() if id not in self.expired}

    # Accounts.

    @rule(kind=kinds, id=ids, n=numbers)
    def save_account(self, kind: str, id: str, n: int) -> None:
        id = f"{kind} {id}"
        self.accounts[kind, id] = account_fields(id, n)
        self.driver.save_account(kind, account_fields(id, n))

    @rule(kind=kinds, id=ids)
    def delete_account(self, kind: str, id: str) -> None:
        was_there = self.driver.delete_account(kind, f"{kind} {id}")
        assert was_there == (self.accounts.pop((kind, f"{kind} {id}"), None) is not None)

    @rule(kind=kinds)
    def list_accounts(self, kind: str) -> None:
        found = {(kind, each["id"]): each for each in self.driver.list_accounts(kind)}
        assert found == {place: a for place, a in self.accounts.items() if place[0] == kind}

    # Usage.

    @rule(id=ids, count=st.integers(1, 3))
    def record_usage(self, id: str, count: int) -> None:
        """Of a key that is known or not."""
        record = UsageRecord(id, "model", "2026-11-21T03:00:00.000Z", input_tokens=5, cost=0.25)
        self.driver.record_usages([record] * count, wait=True)
        known = self.requests if id in self.requests else self.unplaced
        known[id] = known.get(id, 0) + count
        self.counted[id] = self.counted.get(id, 0) + count

    # What becomes of Redis.

    @precondition(lambda self: self.is_up)
    @rule()
    def flush(self) -> None:
        self.tell("FLUSHALL")

    @precondition(lambda self: self.is_up)
    @rule(id=ids)
    def lose_a_key(self, id: str) -> None:
        """As an eviction does; whoever reads it next puts it back."""
        self.evicted = True
        self.tell("DEL", f"apikey:{id}")

    @precondition(lambda self: self.is_up)
    @rule()
    def kill(self) -> None:
        self.server.kill()

    @precondition(lambda self: not self.is_up)
    @rule()
    def start(self) -> None:
        """It comes back empty."""
        self.server.start()

    # What becomes of the store.

    @rule()
    def reopen(self) -> None:
        self.driver.shut()
        self.driver = self.open()

    @rule()
    def optimize(self) -> None:
        """What has expired is forgotten, and with it in which indexes it has places."""
        self.strays = self.strays or bool(self.expired)
        self.driver.optimize()

    @precondition(lambda self: self.is_up)
    @rule()
    def import_from_redis(self) -> None:
        """From a Redis that has been given what it had lost; another test takes another."""
        self.come_into_step()
        self.driver.import_from_redis()

    @precondition(lambda self: self.is_up)
    @rule()
    def restore(self) -> None:
        self.driver.restore()

    @precondition(lambda self: self.is_up)
    @rule()
    def reconcile(self) -> None:
        self.driver.reconcile("sqlite")

    # What holds.

    @invariant()
    def every_record_is_as_it_was_saved(self) -> None:
        living = self.living()
        for id in IDS:
            assert self.driver.get_api_key(id) == living.get(id)
            for kind in ACCOUNTS:
                place = (kind, f"{kind} {id}")
                assert self.driver.get_account(*place) == self.accounts.get(place)

    @invariant()
    def a_hash_finds_the_key_that_has_it(self) -> None:
        living = self.living()
        for id in IDS:
            for n in range(SECRETS):
                fields = living.get(id, {})
                has_it = fields.get("apiKey") == secret(id, n) and "isDeleted" not in fields
                assert self.driver.find_api_key(secret(id, n)) == (fields if has_it else None)

    @invariant()
    def sums_are_those_of_the_records(self) -> None:
        query = "SELECT id, total_requests, total_input_tokens, total_cost FROM api_keys"
        expected = {id: (n, 5 * n, n / 4) for id, n in self.requests.items()}
        assert {id: tuple(sums) for id, *sums in outside(self.path, query)} == expected
        for id, count in self.counted.items():
            (total,) = self.driver.usage_totals(by="month", api_key_id=id)
            assert (total.requests, total.cost) == (count, count / 4)

    def settle(self) -> None:
        """Redis is up and has come to hold what SQLite holds, without a further call."""
        if not self.is_up:
            self.server.start()
        self.come_into_step()
        everything = {("api_key", id): fields for id, fields in self.keys.items()}
        client = self.server.client()
        if not self.strays:
            assert indexes_in_redis(client) == indexes_of(everything | self.accounts)
        held = client.hgetall("apikey:a")
        living = self.living().get("a", {})
        assert {n.decode(): v.decode() for n, v in held.items()} == living

    def come_into_step(self) -> None:
        # As if time had passed: no call is at work that a store which was closed may have left.
        outside(self.path, "UPDATE outbox SET due_at = 0")
        waiting = "SELECT count(*) FROM outbox"
        until(lambda: outside(self.path, waiting) == [(0,)], "the outbox to empty")
        until(self.is_in_step, "Redis to be given what it lacks")

    def is_in_step(self) -> bool:
        if self.evicted:
            self.every_record_is_as_it_was_saved()
        return self.driver.diff() == []

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.driver.shut()
            self.server.close_clients()
            if not self.is_up:
                self.server.start()
        check_integrity(self.path)
        shutil.rmtree(self.directory)


@pytest.fixture(autouse=True)
def quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store looks at Redis often, so that nobody waits for it here."""
    monkeypatch.setattr(relay_store, "_WATCH", 0.02)
    monkeypatch.setattr(logic, "_PATIENCE", 0.02)
    monkeypatch.setattr(health, "_PATIENCE", 0.02)


# To find the shortest sequence that fails takes a while.
@pytest.mark.timeout(900)
@pytest.mark.parametrize("awaited", [False, True], ids=["sync", "async"])
def test_any_sequence_of_calls_leaves_what_the_model_says(
    awaited: bool, fresh_server: Server
) -> None:
    """Save, delete, record, reopen, import, restore, with Redis lost, emptied and back."""
    run_state_machine_as_test(
        lambda: RelayMachine(fresh_server, awaited=awaited),
        settings=settings(
            max_examples=max(settings().max_examples // 4, 10), stateful_step_count=15
        ),
    )
