"""The size of things: files and functions that a reader can hold in mind, and a package whose top is short."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES, MOST_LINES_OF_A_FUNCTION, MOST_LOOSE_MODULES = 400, 60, 6


def sources(*folders: str) -> list[Path]:
    return [file for folder in folders for file in sorted((ROOT / folder).rglob("*.py"))]


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {
        file: len(file.read_text("utf-8").splitlines()) for file in sources("minigpt", "plugins", "tests", "benchmarks")
    }
    assert {str(file.relative_to(ROOT)): length for file, length in lengths.items() if length > MOST_LINES} == {}


def test_no_function_of_the_package_is_longer_than_60_lines() -> None:
    long = {}
    for file in sources("minigpt", "plugins"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > MOST_LINES_OF_A_FUNCTION:
                    long[f"{file.relative_to(ROOT)}:{node.lineno} {node.name}"] = length
    assert long == {}


def test_the_package_has_few_modules_outside_of_its_rooms() -> None:
    loose = [file.stem for file in (ROOT / "minigpt").glob("*.py") if not file.stem.startswith("__")]
    assert len(loose) <= MOST_LOOSE_MODULES, sorted(loose)


def test_no_test_module_imports_another() -> None:
    found = []
    for file in sources("tests"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [f"{node.module}.{alias.name}" for alias in node.names] if isinstance(node, ast.ImportFrom) else []
            found += [
                (str(file.relative_to(ROOT)), name) for name in names if name.startswith("tests.") and ".test_" in name
            ]
    assert found == [], "move shared helpers to a conftest.py or a module that is no test"
