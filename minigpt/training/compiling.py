"""torch.compile where it pays: chosen by a measurement, and left out with a word where there is no compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable

import torch

from minigpt.model import GPT
from minigpt.training.interleaved import Ratio

PAYS_AFTER = {"cpu": 1800.0, "cuda": 120.0}
"""Seconds that a run must be estimated to take before compiling, a minute or two by itself, is tried."""

_FASTER = 1.05  # by so much, or the compiler's minutes are not worth it


Loss = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""Tokens, targets and mask to the loss and the auxiliary loss, as `GPT.loss`."""


def loss_of(model: GPT, *, compiled: bool) -> Loss:
    """`model.loss`, compiled for the shapes that it is first given where that is asked for."""
    return torch.compile(model.loss, dynamic=False) if compiled else model.loss


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile would need here and does not find; None where all is there."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "triton is not installed"
    compiler = os.environ.get("CXX", "clang++" if shutil.which("clang++") and not shutil.which("g++") else "g++")
    return None if shutil.which(compiler) else f"there is no C++ compiler here ({compiler}; CXX names another)"


def is_faster(compiled: Ratio) -> bool:
    """Whether a compiled update, in parts of a plain one, is faster by a twentieth, and surely faster."""
    return compiled.value * _FASTER < 1 and compiled.high < 1
