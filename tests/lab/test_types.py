"""From a run's records to the page everything has a type: mypy checks types, and this that none is left open.

mypy's `disallow_any_explicit` would do, but reports every pydantic model, whose own signatures have Any.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import minigpt

LAB = Path(minigpt.__file__).parent / "lab"
FILES = sorted(file for folder in ("compare", "report") for file in (LAB / folder).rglob("*.py"))
ALLOWED = {"report/canvas.py": 1}
"""The settings of matplotlib, whose keys it types as four hundred names."""


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.name}")
def test_no_type_is_left_open_between_the_records_and_the_page(file: Path) -> None:
    nodes = list(ast.walk(ast.parse(file.read_text("utf-8"))))
    uses = [node.lineno for node in nodes if isinstance(node, ast.Name) and node.id == "Any"]
    uses += [node.lineno for node in nodes if isinstance(node, ast.Attribute) and node.attr == "Any"]
    assert len(uses) == ALLOWED.get(f"{file.parent.name}/{file.name}", 0), f"Any in lines {uses}"
