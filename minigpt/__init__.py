"""minigpt: an architecture lab for small GPT-style language models.

    from minigpt import register, load_experiment, build_model, train, generate

These functions do in a notebook what the commands do. Names are imported at first use, so `import minigpt` is fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from minigpt.contracts import Context, Dims, State
    from minigpt.data import load_corpus
    from minigpt.errors import MinigptError
    from minigpt.experiment import Experiment
    from minigpt.model import GPT, build_model
    from minigpt.reading import load_experiment
    from minigpt.registry import register
    from minigpt.run import open_run
    from minigpt.run.generating import generate, stream
    from minigpt.training import resume, train

__version__ = "0.1.0"

_HOMES = {
    "Context": "contracts",
    "Dims": "contracts",
    "Experiment": "experiment",
    "GPT": "model",
    "MinigptError": "errors",
    "State": "contracts",
    "build_model": "model",
    "generate": "run.generating",
    "load_corpus": "data",
    "load_experiment": "reading",
    "open_run": "run",
    "register": "registry",
    "resume": "training",
    "stream": "run.generating",
    "train": "training",
}
__all__ = [
    "GPT",
    "Context",
    "Dims",
    "Experiment",
    "MinigptError",
    "State",
    "build_model",
    "generate",
    "load_corpus",
    "load_experiment",
    "open_run",
    "register",
    "resume",
    "stream",
    "train",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'minigpt' has no attribute '{name}'")
    if name == "register":  # importing contracts declares the families
        importlib.import_module("minigpt.contracts")
    return getattr(importlib.import_module(f"minigpt.{_HOMES[name]}"), name)
