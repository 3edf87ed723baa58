"""Shipped components keep to their layer: only datasets use the file system."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import minigpt.components
from minigpt.registry import REGISTRY

FOLDER = Path(minigpt.components.__file__).parent
OF_FILES = {
    "glob",
    "io",
    "os",
    "pathlib",
    "shutil",
    "tempfile",
    "minigpt.system.download",
    "minigpt.system.files",
    "minigpt.registry.paths",
}


def file_imports(file: Path) -> set[str]:
    """File system modules that a module imports, and `open` if it calls that."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "open":
            found.add("open")
    return found & (OF_FILES | {"open"})


@pytest.mark.parametrize("family", [family.name for family in REGISTRY.families()])
def test_only_datasets_use_the_file_system(family: str) -> None:
    found = {file.name: names for file in sorted((FOLDER / family).glob("*.py")) if (names := file_imports(file))}
    assert bool(found) == (family == "dataset"), found
