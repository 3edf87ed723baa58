"""Recipes that extend a base."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.lab.compare.conftest import Write, write

__all__ = ["write"]  # the fixture

Extend = Callable[..., Path]


@pytest.fixture
def extend(write: Write) -> Extend:
    """Writes base.json, and a recipe that extends it with the keyword arguments."""
    write("base")

    def extend(**changes: Any) -> Path:
        Path("recipe.json").write_text(json.dumps({"extends": "base.json", **changes}))
        return Path("recipe.json")

    return extend
