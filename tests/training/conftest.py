"""A small experiment on a small text, with a plugin that can end the process at a chosen update."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

# A schedule like any other, but that it can send its own process a signal when a given update begins.
INTERRUPTING = '''
import os, signal
from minigpt import register
from minigpt.contracts import Schedule

@register("schedule", "interrupting")
class Interrupting(Schedule):
    """Half the peak, until it ends the process."""
    def __init__(self, max_iters: int):
        pass
    def factor(self, step: int) -> float:
        if os.environ.get("END_AT") == str(step):
            os.kill(os.getpid(), getattr(signal, os.environ["END_BY"]))
        return 0.5
'''

TEXT = "".join(f"{a} times {b} is {a * b}.\n" for a in range(2, 30) for b in range(2, 30))

Write = Callable[..., Path]


@pytest.fixture
def write_experiment(tmp_path: Path) -> Write:
    """Writes an experiment of 40 updates; keyword arguments go into its training section."""

    def write(name: str = "small", *, dropout: float = 0.2, **training: Any) -> Path:
        (tmp_path / "corpus.txt").write_text(TEXT)
        (tmp_path / "interrupting.py").write_text(INTERRUPTING)
        document = {
            "name": name,
            "plugins": ["interrupting.py"],
            "data": {"name": "text", "paths": ["corpus.txt"]},
            "model": {"d_model": 32, "n_heads": 2, "n_layers": 2, "block_size": 32, "dropout": dropout},
            "training": {
                "schedule": "interrupting",
                "optimizer": {"learning_rate": 1e-2},
                "batch_size": 8,
                "max_iters": 40,
                "eval_interval": 15,
                "checkpoint_interval": 10,
                "precision": "fp32",
                **training,
            },
            "sampling": {"max_new_tokens": 40},
        }
        if training.get("optimizer"):
            document["training"]["optimizer"] = training["optimizer"]
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps(document))
        return file

    return write
