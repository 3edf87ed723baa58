"""Fixtures for comparisons: small experiments, and grids that are trained in this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from minigpt.lab.compare.cell import do
from minigpt.lab.compare.grid import Grid
from minigpt.registry.overlay import lay_over

TEXT = "".join(f"{a} plus {b} is {a + b}.\n" for a in range(12) for b in range(12))

Write = Callable[..., Path]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes an experiment of 6 updates into the test's working folder, with the keyword arguments as changes."""
    monkeypatch.chdir(tmp_path)
    return writer(tmp_path)


def writer(folder: Path) -> Write:
    """A function that writes experiments into the test's working folder."""
    (folder / "corpus.txt").write_text(TEXT)

    def write(name: str, /, **changes: Any) -> Path:
        document = {
            "name": name,
            "seed": 5,
            "data": {"name": "text", "paths": ["corpus.txt"]},
            "model": {"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 16, "dropout": 0.0},
            "training": {"batch_size": 4, "max_iters": 6, "eval_interval": 3, "precision": "fp32", "compile": False},
            "sampling": {"max_new_tokens": 5},
        }
        file = folder / f"{name}.json"
        file.write_text(json.dumps(lay_over(document, changes)))
        return file

    return write


def train_here(grid: Grid) -> None:
    """The same as `Grid.run`, but in this process."""
    for name in ("cells", "runs"):
        (grid.folder / name).mkdir(parents=True, exist_ok=True)
    for cell in grid.missing():
        do(grid.job(cell, device="cpu", threads=None, allow_plugins=True)).write(cell.record)
