"""os.fork(): parent and child both go on with the file, and neither harms the other.

A child inherits SQLite's notes of the parent's locks, but not the locks. Each script runs in a
process of its own, without other threads but those it starts.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from .helpers import beside, check_integrity, run_script, stored

FORK_WARNING = """
    import warnings  # 3.12 warns of a fork beside threads: that it happens is the point here
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
"""


def test_parent_and_child_both_keep_working(path: Path) -> None:
    """What was opened before the fork is opened anew on both sides."""
    code = """
        db = Database(sys.argv[1])
        db.write(create)
        db.write(insert, 1)
        db.read(numbers)

        def child():
            assert db.read(numbers) == [1]
            db.write(insert, 2)
            assert db.read(numbers) == [1, 2]
            db.close()

        assert ended_well(forked(child))
        assert db.read(numbers) == [1, 2]
        db.write(insert, 3)
        db.close()
    """
    run_script(code, path)
    assert (stored(path), beside(path)) == ([1, 2, 3], set())


@pytest.mark.parametrize("how", ["Process", "Pool"])
def test_multiprocessing_by_fork_works(path: Path, how: str) -> None:
    """With a database that the parent opened, in a module-level variable."""
    code = f"""
        import multiprocessing
        {FORK_WARNING.strip().replace(chr(10), chr(10) + "    ")}
        db = Database(sys.argv[1])
        db.write(create)

        def work(n):
            db.write(insert, n)
            assert n in db.read(numbers)
            return n

        context = multiprocessing.get_context("fork")
        if {how!r} == "Pool":
            with context.Pool(2) as pool:
                assert pool.map(work, range(4)) == [0, 1, 2, 3]
                pool.close()
                pool.join()
        else:
            processes = [context.Process(target=work, args=(n,)) for n in range(4)]
            for each in processes:
                each.start()
            for each in processes:
                each.join(30)
                assert each.exitcode == 0
        db.close()
    """
    run_script(code, path)
    assert stored(path) == [0, 1, 2, 3]


def test_a_parent_that_closes_takes_nothing_from_its_child(path: Path) -> None:
    """The child has the file open, with writes in the -wal: it must hold locks of its own."""
    code = """
        path = sys.argv[1]
        db = Database(path)
        db.write(create)
        db.read(numbers)
        to_child, to_parent = os.pipe(), os.pipe()

        def child():
            db.write(insert, 1)
            db.read(numbers)
            os.write(to_parent[1], b"x")
            os.read(to_child[0], 1)
            db.write(insert, 2)
            assert db.read(numbers) == [1, 2]

        pid = forked(child)
        os.read(to_parent[0], 1)
        db.close()
        assert Path(path + "-wal").exists(), "removed under the child"
        os.write(to_child[1], b"x")
        assert ended_well(pid)
    """
    run_script(code, path)
    assert stored(path) == [1, 2]
    check_integrity(path)


def test_a_child_that_exits_takes_nothing_from_its_parent(path: Path) -> None:
    """Not even one that exits in good order, with all its finalizers."""
    code = """
        db = Database(sys.argv[1])
        db.write(create)
        db.write(insert, 1)
        if (pid := os.fork()) == 0:
            sys.exit(0)
        assert ended_well(pid)
        assert Path(sys.argv[1]).exists()
        db.write(insert, 2)
        assert db.read(numbers) == [1, 2]
    """
    run_script(code, path)
    assert stored(path) == [1, 2]


def test_forking_while_threads_write_and_read(path: Path) -> None:
    """Twenty times; every child works, no write of the parent's is lost, nobody is stuck."""
    code = f"""
        {FORK_WARNING.strip().replace(chr(10), chr(10) + "    ")}
        db = Database(sys.argv[1])
        db.write(create)
        stop = False

        def keep_writing(start):
            n = start
            while not stop:
                db.write(insert, n)
                n += 1
            return n - start

        def keep_reading():
            while not stop:
                db.read(lambda conn: conn.execute("SELECT count(*) FROM numbers").fetchone())

        writing = [in_thread(keep_writing, k * 1_000_000) for k in (1, 2, 3)]
        reading = [in_thread(keep_reading) for _ in range(2)]
        for n in range(20):
            def child():
                db.write(insert, n)
                assert n in db.read(numbers)
                db.close()
            # In the child of a fork that gave up waiting for operations, every call raises.
            assert ended_well(forked(child))
        stop = True
        written = [outcome(f) for f in writing]
        assert all(isinstance(n, int) for n in written), written
        assert all_ok(outcome(f) for f in reading)
        there = db.read(numbers)
        assert there[:20] == list(range(20))
        assert len(there) == 20 + sum(written)
        db.close()
    """
    run_script(code, path)
    check_integrity(path)
    assert beside(path) == set()


def test_forking_while_databases_are_opened(path: Path) -> None:
    """Other threads make and drop them at that moment."""
    code = f"""
        {FORK_WARNING.strip().replace(chr(10), chr(10) + "    ")}
        db = Database(sys.argv[1])
        db.write(create)
        stop = False

        def keep_opening():
            while not stop:
                with Database(sys.argv[1]) as other:
                    other.read(numbers)

        opening = [in_thread(keep_opening) for _ in range(2)]
        for n in range(20):
            def child():
                db.write(insert, n)
            assert ended_well(forked(child))
        stop = True
        assert all_ok(outcome(f) for f in opening)
        assert db.read(numbers) == list(range(20))
        db.close()
    """
    run_script(code, path)
    check_integrity(path)


def test_an_awaited_database_works_in_a_child(path: Path) -> None:
    """On a loop of the child's own; its threads are started anew."""
    code = f"""
        {FORK_WARNING.strip().replace(chr(10), chr(10) + "    ")}
        db = AsyncDatabase(sys.argv[1])

        async def work(n):
            await db.write(insert, n)
            return await db.read(numbers)

        async def begin():
            await db.write(create)
            await work(1)

        asyncio.run(begin())
        assert ended_well(forked(lambda: asyncio.run(work(2))))
        assert asyncio.run(work(3)) == [1, 2, 3]
        asyncio.run(db.close())
    """
    run_script(code, path)
    assert stored(path) == [1, 2, 3]


@pytest.mark.parametrize("target", ["':memory:'", "sqlite3.connect(sys.argv[1])"])
def test_a_single_connection_is_refused_in_a_child(path: Path, target: str) -> None:
    """It cannot be opened anew; the parent goes on with it, and either may close."""
    code = f"""
        target = {target}
        db = Database(target)
        db.write(create)

        def child():
            for call in (db.read, db.write, db.maintain):
                try:
                    call(numbers)
                except ConnectionUnusableError as error:
                    assert "fork" in str(error)
                else:
                    raise AssertionError
            db.close()

        assert ended_well(forked(child))
        db.write(insert, 1)
        assert db.read(numbers) == [1]
        db.close()
        if target != ":memory:":
            target.close()
    """
    run_script(code, path)


def test_a_fork_inside_an_operation_is_not_carried_over(path: Path) -> None:
    """The child is told so, and the parent's operation is committed."""
    code = """
        db = Database(sys.argv[1])
        db.write(create)

        def child():
            try:
                db.read(numbers)
            except ConnectionUnusableError:
                return
            raise AssertionError

        def forking(conn):
            insert(conn, 1)
            return forked(child)

        assert ended_well(db.write(forking))
        assert ended_well(db.read(lambda conn: forked(child)))
        assert db.read(numbers) == [1]
        db.close()
    """
    run_script(code, path)
    assert stored(path) == [1]


def test_a_clean_fork_keeps_nothing_of_the_parent_s(path: Path) -> None:
    """Its connections were closed before."""
    code = """
        from langgraph_sqlite_saver.database import core
        db = Database(sys.argv[1])
        db.write(create)
        db.write(insert, 1)

        def look():
            assert core._inherited == []
            assert db.read(numbers) == [1]

        assert ended_well(forked(look))
        db.close()
        print("ok")
    """
    assert run_script(code, path) == "ok"


def test_a_child_borrows_connections_while_the_parent_did(path: Path) -> None:
    """A thread that was just taking one in its parent leaves nothing locked in the child."""
    code = f"""
        import threading, time
        {FORK_WARNING.strip().replace(chr(10), chr(10) + "    ")}

        def memory():
            return Database(sqlite3.connect(":memory:", check_same_thread=False))

        def slow(conn):
            started.set()
            time.sleep(0.5)

        started, db = threading.Event(), memory()
        threads = [threading.Thread(target=db.read, args=(slow,))]
        threads.append(threading.Thread(target=lambda: (time.sleep(0.2), memory())))
        for each in threads:
            each.start()
        started.wait()
        assert ended_well(forked(lambda: memory().write(create)))
        for each in threads:
            each.join()
    """
    run_script(code, path)
