"""Options of `minigpt run` for a model and a training of a second."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]

TINY = ["--set", "model.d_model=16", "--set", "model.n_heads=2", "--set", "model.n_layers=1", "--set", "model.block_size=16"]
SHORT = [
    "--set",
    "training.max_iters=4",
    "--set",
    "training.eval_interval=2",
    "--set",
    "training.batch_size=2",
    "--set",
    "sampling.max_new_tokens=5",
]
