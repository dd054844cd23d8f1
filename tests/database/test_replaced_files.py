"""A file that is replaced, moved or deleted while it is open is noticed before it is used again."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from langgraph_sqlite_saver.database import Database, FileReplacedError

from .helpers import (
    Gate,
    beside,
    check_integrity,
    create,
    in_thread,
    insert,
    numbers,
    outcome,
    outside,
    queued,
    run_script,
    stored,
    wait_until,
)

EACH_CALL = pytest.mark.parametrize("call", ["read", "write", "maintain"])


def use(db: Any, call: str) -> Any:
    """One operation, after the moment for which an answer holds."""
    time.sleep(0.001)
    if call == "write":
        return db.write(insert, 9)
    return db.read(numbers) if call == "read" else db.maintain(numbers)


def another(path: Path) -> Path:
    """A file beside it that holds 7."""
    other = path.with_name("other.db")
    with Database(other) as db:
        db.write(create)
        db.write(insert, 7)
    return other


def in_use(path: Path) -> None:
    """Another process has it open, with a -wal of its own, and is killed."""
    run_script(
        """
        conn = sqlite3.connect(sys.argv[1])
        conn.execute("INSERT INTO numbers VALUES (8)")
        conn.commit()
        os._exit(0)
        """,
        path,
    )


@EACH_CALL
def test_a_replaced_file_is_neither_read_nor_written(db: Any, path: Path, call: str) -> None:
    """Neither the old one nor the new one; the error says what happened and what to do."""
    db.write(insert, 1)
    another(path).replace(path)
    for _ in range(2):
        with pytest.raises(FileReplacedError, match=rf"{path} was replaced.*open a new one"):
            use(db, call)
    assert stored(path) == [7]
    check_integrity(path)


@EACH_CALL
def test_a_deleted_file_is_noticed(db: Any, path: Path, call: str) -> None:
    """And not made anew; its -wal is there as it was."""
    db.write(insert, 1)
    path.unlink()
    with pytest.raises(FileReplacedError, match=rf"{path} was deleted or moved.*put it back"):
        use(db, call)
    assert beside(path) == {f"{path.name}-wal", f"{path.name}-shm"}
    assert not path.exists()


def test_a_file_that_comes_back_is_used_again(db: Any, path: Path) -> None:
    """One that was moved away for a moment."""
    db.write(insert, 1)
    moved = path.rename(path.with_name("moved.db"))
    with pytest.raises(FileReplacedError):
        use(db, "read")
    moved.rename(path)
    use(db, "write")
    assert db.read(numbers) == stored(path) == [1, 9]


def test_a_renamed_directory_is_noticed(db: Any, path: Path) -> None:
    """The file is not at its path any more."""
    moved = path.parent.rename(path.parent.with_name("moved"))
    with pytest.raises(FileReplacedError, match="deleted or moved"):
        use(db, "write")
    moved.rename(path.parent)


def test_a_link_that_is_pointed_elsewhere_is_noticed(
    open_database: Callable[..., Any], path: Path, tmp_path: Path
) -> None:
    """The file that it pointed to keeps its -wal: others may have it open."""
    link = tmp_path / "link.db"
    link.symlink_to(path)
    db = open_database(link)
    db.write(create)
    other = another(path)
    link.unlink()
    link.symlink_to(other)
    with pytest.raises(FileReplacedError, match=f"{link} was replaced"):
        use(db, "write")
    assert Path(f"{path}-wal").exists()
    assert stored(other) == [7]


def test_a_reader_that_is_opened_later_is_of_the_same_file(shared: Database, path: Path) -> None:
    """Also if the file was replaced a moment ago, for which the last answer still holds."""
    shared.write(insert, 1)
    gate = Gate()
    first = in_thread(shared.read, gate.wait)
    gate.entered.wait()
    another(path).replace(path)
    with pytest.raises(FileReplacedError):
        shared.read(numbers)
    gate.open()
    assert outcome(first) is None


def test_every_write_that_shares_a_transaction_is_told(db: Any, path: Path) -> None:
    """The one that began before as well: nothing is committed into the old file."""
    gate = Gate()
    first = in_thread(db.write, gate, 1)
    gate.entered.wait()
    others = [in_thread(db.write, insert, n) for n in (2, 3, 4)]
    wait_until(lambda: queued(db) == 3)
    old = path.with_name("old.db")
    os.link(path, old)
    another(path).replace(path)
    time.sleep(0.001)
    gate.open()
    errors = [outcome(each) for each in (first, *others)]
    assert {type(each) for each in errors} == {FileReplacedError}
    assert len({id(each) for each in errors}) == 4
    assert stored(path) == [7]


def test_the_old_wal_is_not_applied_to_the_new_file_and_not_lost(db: Any, path: Path) -> None:
    """It is moved aside, under a name at which the old file would be whole again."""
    db.write(insert, 1)
    old = path.rename(path.with_name("old.db"))
    another(path).replace(path)
    with pytest.raises(FileReplacedError, match=r"saved last is in .*replaced-.*-wal"):
        use(db, "write")
    assert stored(path) == [7]
    (aside,) = path.parent.glob("*.replaced-*-wal")
    db.close()
    whole = Path(str(aside).removesuffix("-wal"))
    shutil.copyfile(old, whole)
    assert stored(whole) == [1]


@pytest.mark.parametrize("noticed", [True, False])
def test_closing_leaves_the_new_file_and_its_wal_alone(db: Any, path: Path, noticed: bool) -> None:
    """Nothing is moved into the new file, and nothing that is beside it is removed."""
    db.write(insert, 1)
    other = another(path)
    for ending in ("-wal", "-shm"):
        Path(f"{path}{ending}").unlink()
    other.replace(path)
    in_use(path)
    before = {each: (path.parent / each).read_bytes() for each in beside(path)}
    content = path.read_bytes()
    if noticed:
        with pytest.raises(FileReplacedError):
            use(db, "write")
    db.close()
    assert {each: (path.parent / each).read_bytes() for each in beside(path)} == before
    assert path.read_bytes() == content
    assert stored(path) == [7, 8]


def test_a_new_database_works_on_the_new_file(db: Any, path: Path) -> None:
    """Beside the one that is to be closed."""
    db.write(insert, 1)
    another(path).replace(path)
    with pytest.raises(FileReplacedError):
        use(db, "write")
    with Database(path) as new:
        new.write(insert, 2)
        db.close()
        new.write(insert, 3)
        assert new.read(numbers) == stored(path) == [2, 3, 7]
    check_integrity(path)


def test_a_file_replaced_while_it_is_not_open_is_noticed(shared: Database, path: Path) -> None:
    """As around a fork, which closes the connections: what the process knows is of the old one."""
    shared.write(insert, 1)
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    other = another(path)  # while the old file still has its inode
    other.replace(path)
    for call in ("read", "write"):
        with pytest.raises(FileReplacedError):
            use(shared, call)
    assert stored(path) == [7]


def test_a_directory_that_may_not_be_entered_any_more_is_no_replacement(public_path: Path) -> None:
    """A service that gave up its rights goes on."""
    run_script(
        """
        path = Path(sys.argv[1])
        with Database(path) as db:
            db.write(create)
            db.read(numbers)
            path.parent.chmod(0o700)
            os.setgid(65534); os.setuid(65534)
            time.sleep(0.001)
            db.write(insert, 1)
            assert db.read(numbers) == [1]
        """,
        public_path,
    )


def test_saving_by_other_programs_is_no_replacement(db: Any, path: Path) -> None:
    """Nor is a checkpoint, a VACUUM, or an in-place change of the journal."""
    db.write(insert, 1)
    outside(path, "INSERT INTO numbers VALUES (2)")
    outside(path, "PRAGMA wal_checkpoint")
    db.maintain(lambda conn: conn.execute("VACUUM") and None)
    assert use(db, "read") == [1, 2]
