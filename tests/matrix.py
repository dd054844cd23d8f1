"""The tests of savers, database and properties on every Python from 3.10 to 3.14 that is there, and
on an old and a new SQLite.

    python tests/matrix.py            # all of them
    python tests/matrix.py 3.12 old   # some: Pythons by their version, SQLite as "old" or "new"

Pythons are looked for on PATH and among pyenv's. SQLite's sources come out of the npm package
better-sqlite3, and are compiled once; a Python that links SQLite dynamically then loads them. What
cannot be had is skipped, and named. Environments and libraries are kept in .venv/matrix.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
KEPT = ROOT / ".venv" / "matrix"
PYTHONS = ["3.10", "3.11", "3.12", "3.13", "3.14"]
TESTS = ["tests/savers", "tests/database", "tests/properties"]

# The oldest SQLite that is supported is 3.35; versions of better-sqlite3 that bring one.
SQLITES = {"old": ("7.2.0", "3.35.2"), "new": ("13.2.0", "3.54.1")}
_OPTIONS = [
    "-DSQLITE_THREADSAFE=1",
    "-DSQLITE_ENABLE_COLUMN_METADATA",
    "-DSQLITE_ENABLE_JSON1",  # what 3.35 has only on request, and Python's module asks for
    "-DSQLITE_ENABLE_DESERIALIZE",
]


class Missing(Exception):
    """Something that this machine does not have."""


def find_python(version: str) -> str:
    """The interpreter of a version, one that really runs: pyenv's shims may not."""
    if sys.version.startswith(f"{version}."):
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv") / "versions"
    found = [str(each) for each in sorted(pyenv.glob(f"{version}.*/bin/python"), reverse=True)]
    for candidate in [*found, shutil.which(f"python{version}")]:
        if candidate and not subprocess.run([candidate, "-c", ""], capture_output=True).returncode:
            return candidate
    raise Missing(f"no Python {version}")


def environment(python: str, version: str) -> str:
    """The interpreter of an environment that has the library and what its tests need."""
    if python == sys.executable:
        return python
    folder = KEPT / version
    inside = folder / "bin" / "python"
    stamp = folder / "installed"
    project = ROOT / "pyproject.toml"
    if not stamp.exists() or stamp.stat().st_mtime < project.stat().st_mtime:
        print(f"installing into {folder.relative_to(ROOT)}", flush=True)
        subprocess.run([python, "-m", "venv", folder], check=True)
        install = [inside, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, "-e", f"{ROOT}[test]"], check=True)
        stamp.touch()
    return str(inside)


def compile_sqlite(which: str) -> Path:
    """The folder with a shared library of that SQLite."""
    package, version = SQLITES[which]
    folder = KEPT / f"sqlite-{version}"
    library = folder / "libsqlite3.so.0"
    if library.exists():
        return folder
    npm, compiler = shutil.which("npm"), shutil.which("cc") or shutil.which("gcc")
    if npm is None or compiler is None:
        raise Missing(f"no SQLite {version}: npm and a C compiler make it")
    folder.mkdir(parents=True, exist_ok=True)
    print(f"compiling SQLite {version}", flush=True)
    packing = subprocess.run(
        [npm, "pack", f"better-sqlite3@{package}", "--silent"],
        cwd=folder, capture_output=True, text=True,
    )  # fmt: skip
    if packing.returncode:
        raise Missing(f"no SQLite {version}: npm has no better-sqlite3 {package}")
    source = _unpack(folder / packing.stdout.split()[-1])
    command = [compiler, "-shared", "-fPIC", "-O2", *_OPTIONS, "-Wl,-soname,libsqlite3.so.0"]
    command += ["-o", str(library), str(source), "-lpthread", "-ldl", "-lm"]
    subprocess.run(command, check=True)
    return folder


def _unpack(package: Path) -> Path:
    """SQLite's one file of source, wherever the package has it."""
    with tarfile.open(package) as archive:
        archive.extractall(package.parent)
    for inner in package.parent.rglob("sqlite3.tar.gz"):
        with tarfile.open(inner) as archive:
            archive.extractall(inner.parent)
    return next(package.parent.rglob("sqlite3.c"))


def run(python: str, libraries: Path | None, sqlite: str | None) -> bool:
    """Run the tests; whether they passed. Another SQLite is asked for its version first."""
    env = dict(os.environ)
    if libraries is not None:
        env["LD_LIBRARY_PATH"] = str(libraries)
    code = "import sys, sqlite3; print(sys.version.split()[0], sqlite3.sqlite_version)"
    told = subprocess.run(
        [python, "-c", code], env=env, stdout=subprocess.PIPE, text=True, check=True
    )
    found = told.stdout.split()
    print(f"\n== Python {found[0]}, SQLite {found[1]}", flush=True)
    if sqlite is not None and found[1] != sqlite:
        raise Missing(f"this Python does not load SQLite {sqlite}: it has its own")
    pytest = [python, "-m", "pytest", "-q", "-n", "2", "-m", "not soak", *TESTS]
    return subprocess.run(pytest, cwd=ROOT, env=env).returncode == 0


def main(wanted: list[str]) -> int:
    """Run all, or what is wanted; 1 if any failed."""
    results: dict[str, str] = {}
    for name in wanted or [*PYTHONS, *SQLITES]:
        try:
            if name in SQLITES:
                title = f"SQLite {SQLITES[name][1]}"
                passed = run(sys.executable, compile_sqlite(name), SQLITES[name][1])
            else:
                title = f"Python {name}"
                passed = run(environment(find_python(name), name), None, None)
            results[title] = "passed" if passed else "FAILED"
        except Missing as missing:
            results[title] = f"skipped: {missing}"
    print("\n" + "\n".join(f"{title:15} {result}" for title, result in results.items()))
    return int("FAILED" in results.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
