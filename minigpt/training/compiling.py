"""torch.compile where it pays: a measurement decides, and a note reports a missing compiler."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable

import torch

from minigpt.model import GPT
from minigpt.training.interleaved import Ratio

PAYS_AFTER = {"cpu": 1800.0, "cuda": 120.0}
"""Compiling is tried if a run is estimated to take at least this many seconds, because compiling takes a minute or two."""

_LEAST_SPEEDUP = 1.05  # a smaller speedup is not worth the minutes that compiling takes


Loss = Callable[..., tuple[torch.Tensor, torch.Tensor]]
"""A function with the signature of `GPT.loss`: tokens, targets and mask to the loss and the auxiliary loss."""


def loss_of(model: GPT, *, compiled: bool) -> Loss:
    """`model.loss`; if `compiled`, compiled for the shapes of its first call."""
    return torch.compile(model.loss, dynamic=False) if compiled else model.loss


def missing_compiler(device: torch.device) -> str | None:
    """What torch.compile needs on this device and does not find; None if nothing is missing."""
    if device.type == "cuda":
        return None if importlib.util.find_spec("triton") else "triton is not installed"
    compiler = os.environ.get("CXX", "clang++" if shutil.which("clang++") and not shutil.which("g++") else "g++")
    return None if shutil.which(compiler) else f"there is no C++ compiler here ({compiler}; CXX names another)"


def is_faster(compiled: Ratio) -> bool:
    """Whether a compiled update is 5 % faster than a plain one, and faster with 95 % confidence.

    Args:
        compiled: The time of a compiled update, relative to a plain one.
    """
    return compiled.value * _LEAST_SPEEDUP < 1 and compiled.high < 1
