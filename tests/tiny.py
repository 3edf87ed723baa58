"""A tiny experiment on a tiny text, and its run: for tests that need any run and not a certain one."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from minigpt.reading import load_experiment
from minigpt.registry.overlay import lay_over
from minigpt.training import PlainObserver
from minigpt.training import train as train_experiment

TEXT = "ROMEO: It was the lark, The herald of the morn.\n" * 40
DOCUMENT: dict[str, Any] = {
    "data": {"name": "text", "paths": ["corpus.txt"]},
    "model": {"d_model": 16, "n_heads": 2, "n_layers": 1, "block_size": 16},
    "training": {"max_iters": 4, "eval_interval": 2, "batch_size": 2, "compile": False, "precision": "fp32"},
    "sampling": {"max_new_tokens": 4},
}


def write(folder: Path, name: str = "small", *, text: str = TEXT, **changes: Any) -> Path:
    """Write the experiment `name`, with another document laid over it, and its corpus."""
    (folder / "corpus.txt").write_text(text)
    file = folder / f"{name}.json"
    file.write_text(json.dumps(lay_over(DOCUMENT, changes)))
    return file


def train(file: Path, out: Path) -> None:
    """Train an experiment without printing anything."""
    train_experiment(load_experiment(file), out=out, device="cpu", observer=PlainObserver(io.StringIO()))
