"""Ladders whose runs are trained in this process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from minigpt.lab.compare import Compared, Settings, Source
from minigpt.lab.compare.plan import make_plan
from minigpt.lab.ladder import laddering
from tests.lab.compare.conftest import train_here, write

__all__ = ["write"]  # the fixture


@pytest.fixture
def trained_here(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """From now on, the comparison at each size trains in this process. Returns the names of the sizes, as they are compared."""
    compared: list[str] = []

    def compare(sources: Sequence[Source], settings: Settings, *, out: Path, name: str, **_: Any) -> Compared:
        plan = make_plan(sources, settings, out=out, name=name)
        compared.append(name)
        train_here(plan.grid)
        comparison = plan.judge()
        plan.write(comparison)
        return Compared(plan, comparison)

    monkeypatch.setattr(laddering, "compare", compare)
    return compared
