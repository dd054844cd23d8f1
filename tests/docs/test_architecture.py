"""The map of the code names the files that are there, and the rules of import hold."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "langgraph_sqlite_saver"

# Who may import whom, within the package.
ALLOWED = {
    "database": {"database"},
    "checkpoints": {"checkpoints", "database"},
    "relay": {"relay", "database"},
    "transfer": {"transfer", "checkpoints", "database", ""},
    "cli": {"cli", "relay", "transfer", "checkpoints", "database", ""},
    "": {"", "checkpoints", "database"},
}


def layer(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def imported_layers(path: Path) -> set[str]:
    """The layers of the package that a module imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = path.parents[node.level - 1]
            targets = [base / (node.module or "").replace(".", "/")]
            if not node.module:
                targets = [base / alias.name for alias in node.names]
            found |= {
                layer(target / "__init__.py" if target.is_dir() else target.with_suffix(".py"))
                for target in targets
            }
    return found


def test_imports_run_one_way() -> None:
    """saver, aio → checkpoints → database; database imports nothing else of the package."""
    for path in PACKAGE.rglob("*.py"):
        assert imported_layers(path) <= ALLOWED[layer(path)], path


def test_the_map_names_every_module() -> None:
    """docs/architecture.md lists the modules that exist, and no others."""
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"^ +(\w+\.py) ", text, re.MULTILINE))
    existing = {path.name for path in PACKAGE.rglob("*.py")} - {"__init__.py"}
    assert named == existing
