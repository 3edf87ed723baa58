"""Fixtures: the scripts of benchmarks/ import one another by name."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the scripts importable."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
